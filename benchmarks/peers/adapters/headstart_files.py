"""headstart: ``headstart predict`` with a bundle or its ONNX export; before that, the classifier for all rivals."""

import csv
import json
import shutil
import subprocess
import sys

from task import read_task, write_predictions


def headstart(*words):
    """Run a command of headstart; if it fails, its last line says why."""
    command = [sys.executable, "-m", "headstart", *map(str, words), "--threads", str(task.threads)]
    if status := subprocess.run(command).returncode:
        sys.exit(status)


task = read_task()
run, onnx = task.weights / "run", task.weights / "onnx"
if task.setting == "prepare":
    recipe = task.out / "recipe.yaml"
    evaluation = {"size": task.size, "flip": False}
    recipe.write_text(json.dumps({"finetune": None, "probe": {"size": task.size}, "evaluation": evaluation}))
    shutil.rmtree(run, ignore_errors=True)  # what a stopped bench left
    headstart("train", task.data, "--recipe", recipe, "--out", run, "--seed", task.seed)
    headstart("export", run, "--out", onnx)
else:
    rows = task.out / "rows.csv"
    model = onnx if task.setting == "files-onnx" else run / "model"
    headstart("predict", model, task.data / "test", "--out", rows)
    with rows.open(newline="", encoding="utf-8") as file:
        found = {row["file"]: row["predicted"] for row in csv.DictReader(file)}
    write_predictions(task, (found[str(path)] for path in task.test_files))
