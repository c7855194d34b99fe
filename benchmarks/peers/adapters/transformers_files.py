"""Hugging Face: ``pipeline("image-classification")`` on the classifier, which ``TimmWrapper`` reads."""

import torch
from transformers import pipeline

from task import read_task, write_predictions

task = read_task()
torch.set_num_threads(task.threads)

# begin: what a user writes
classify = pipeline("image-classification", str(task.weights / "run" / "model"), device="cpu")
files = [str(path) for path in task.test_files]
found = classify(files, top_k=1, batch_size=64, num_workers=task.threads)
# end

write_predictions(task, (best["label"] for (best,) in found))
