"""Plain PyTorch: the classifier on a folder of files, in batches."""

import timm
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from task import read_task, write_predictions

task = read_task()
torch.set_num_threads(task.threads)

# begin: what a user writes
network = timm.create_model(f"local-dir:{task.weights / 'run' / 'model'}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=network))
test_set = ImageFolder(task.data / "test", transform)
found = []
with torch.inference_mode():
    for images, _ in DataLoader(test_set, batch_size=64, num_workers=task.threads):
        found += network(images).argmax(dim=1).tolist()
# end

names = network.pretrained_cfg["label_names"]
by_file = {path: names[label] for (path, _), label in zip(test_set.samples, found, strict=True)}
write_predictions(task, (by_file[str(path)] for path in task.test_files))
