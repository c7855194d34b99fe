"""timm: the classifier on a folder of files, through its data sets and loader, as its ``inference.py`` does."""

import timm
import torch
from timm.data import create_dataset, create_loader, resolve_data_config

from task import read_task, write_predictions

task = read_task()
torch.set_num_threads(task.threads)

# begin: what a user writes
network = timm.create_model(f"local-dir:{task.weights / 'run' / 'model'}", pretrained=True).eval()
test_set = create_dataset("", task.data / "test")
config = resolve_data_config({}, model=network)
loader = create_loader(
    test_set, batch_size=128, use_prefetcher=False, num_workers=task.threads, device=torch.device("cpu"), **config
)
found = []
with torch.inference_mode():
    for images, _ in loader:
        found += network(images).argmax(dim=1).tolist()
# end

names = network.pretrained_cfg["label_names"]
by_file = dict(zip(test_set.filenames(absolute=True), found, strict=True))
write_predictions(task, (names[by_file[str(path)]] for path in task.test_files))
