"""headstart: ``headstart predict`` with a bundle or its ONNX export; before that, the classifier for all rivals."""

import csv
import json
import subprocess
import sys

from task import read_task, write_predictions

task = read_task()
run, onnx = task.weights / "run", task.weights / "onnx"
headstart = [sys.executable, "-m", "headstart"]
threads = ["--threads", str(task.threads)]
if task.setting == "prepare":
    recipe = task.out / "recipe.yaml"
    evaluation = {"size": task.size, "flip": False}
    recipe.write_text(json.dumps({"finetune": None, "probe": {"size": task.size}, "evaluation": evaluation}))
    train = ["train", str(task.data), "--recipe", str(recipe), "--out", str(run), "--seed", str(task.seed), *threads]
    subprocess.run([*headstart, *train], check=True)
    subprocess.run([*headstart, "export", str(run), "--out", str(onnx), *threads], check=True)
else:
    model = onnx if task.setting == "files-onnx" else run / "model"
    rows = task.out / "rows.csv"
    subprocess.run(
        [*headstart, "predict", str(model), str(task.data / "test"), "--out", str(rows), *threads], check=True
    )
    with rows.open(newline="", encoding="utf-8") as file:
        found = {row["file"]: row["predicted"] for row in csv.DictReader(file)}
    write_predictions(task, (found[str(path)] for path in task.test_files))
