"""timm: its data sets, loader, augmentation, optimizer and schedule, with the default values of its ``train.py``."""

import timm
import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

from task import read_task, write_predictions

task = read_task()
torch.manual_seed(task.seed)
torch.set_num_threads(task.threads)

# begin: what a user writes
network = timm.create_model(task.architecture, checkpoint_path=str(task.weights))
network.reset_classifier(10)
config = resolve_data_config({"input_size": (3, task.size, task.size)}, model=network)
shown = {name: config[name] for name in ("input_size", "interpolation", "mean", "std")}
places = {"train": create_dataset("", task.data / "train"), "test": create_dataset("", task.data / "test")}
if task.expert:
    augment = {"scale": (0.5, 1.0), "color_jitter": 0.0, "auto_augment": None, "re_prob": 0.0}
else:
    augment = {"scale": (0.08, 1.0), "color_jitter": 0.4, "auto_augment": None, "re_prob": 0.0}
common = {"use_prefetcher": False, "num_workers": 1, "device": torch.device("cpu")}
train = create_loader(places["train"], batch_size=128, is_training=True, **augment, **shown, **common)
test = create_loader(places["test"], batch_size=128, crop_pct=1.0, **shown, **common)
if task.frozen:
    network.requires_grad_(False)
    network.get_classifier().requires_grad_(True)
if task.expert:
    optimizer = create_optimizer_v2(network, opt="adamw", lr=2e-3 if task.frozen else 5e-4, weight_decay=0.05)
    warmup = 0
else:
    optimizer = create_optimizer_v2(network, opt="sgd", lr=0.1 * 128 / 256, momentum=0.9, weight_decay=2e-5)
    warmup = min(5, task.epochs - 1)
schedule, _ = create_scheduler_v2(
    optimizer,
    num_epochs=task.epochs,
    warmup_epochs=warmup,
    warmup_lr=1e-5,
    updates_per_epoch=len(train),
    step_on_epochs=False,
)
criterion = LabelSmoothingCrossEntropy(smoothing=0.1)
for epoch in range(task.epochs):
    network.train(not task.frozen)
    for step, (images, labels) in enumerate(train):
        optimizer.zero_grad()
        criterion(network(images), labels).backward()
        optimizer.step()
        schedule.step_update(epoch * len(train) + step + 1)
network.eval()
found = []
with torch.inference_mode():
    for images, _ in test:
        found += network(images).argmax(dim=1).tolist()
# end

names = {index: name for name, index in places["test"].reader.class_to_idx.items()}
by_file = dict(zip(places["test"].filenames(absolute=True), found, strict=True))
write_predictions(task, (names[by_file[str(path)]] for path in task.test_files))
