"""headstart: ``headstart train FOLDER``."""

import csv
import json
import subprocess
import sys

from task import read_task, write_predictions

task = read_task()
run = task.out / "run"
words = [sys.executable, "-m", "headstart", "train", str(task.data), "--out", str(run), "--quiet"]
words += ["--seed", str(task.seed), "--threads", str(task.threads)]
if task.setting in ("frozen", "steady"):
    probe = {"solver": "adam", "size": task.size, "epochs": task.epochs}
    finetune = {"schedule": [{"epochs": task.epochs, "size": task.size}], "augment": {"min_scale": 0.5}}
    trained = {"probe": probe, "finetune": None} if task.frozen else {"probe": None, "finetune": finetune}
    recipe = trained | {"evaluation": {"size": task.size, "flip": False}}
    (task.out / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    words += ["--recipe", str(task.out / "recipe.yaml")]
elif task.expert:
    # The recipe quickstart, with more epochs where more are asked for; the last one on larger squares.
    schedule = [{"epochs": task.epochs - 1, "size": 96}, {"epochs": 1, "size": 112}]
    schedule = [part for part in schedule if part["epochs"]]
    words += ["--recipe", "quickstart", "--set", f"finetune.schedule={json.dumps(schedule)}"]
else:
    words += ["--budget", task.length]
if status := subprocess.run(words).returncode:
    sys.exit(status)  # its last line says why

with (run / "predictions.csv").open(newline="", encoding="utf-8") as file:
    found = {row["file"]: row["predicted"] for row in csv.DictReader(file)}
write_predictions(task, (found[str(path.relative_to(task.data))] for path in task.test_files))
