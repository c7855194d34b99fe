"""torchvision: the loop of its references/classification/train.py, with that script's presets and default values."""

import timm
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2

from task import read_task, write_predictions

task = read_task()
torch.manual_seed(task.seed)
torch.set_num_threads(task.threads)

# begin: what a user writes
network = timm.create_model(task.architecture, checkpoint_path=str(task.weights))
network.reset_classifier(10)
config = network.default_cfg
finish = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(config["mean"], config["std"])]
scale = (0.5, 1.0) if task.expert else (0.08, 1.0)
crop = v2.RandomResizedCrop(task.size, scale, interpolation=InterpolationMode.BILINEAR, antialias=True)
train_set = ImageFolder(task.data / "train", v2.Compose([crop, v2.RandomHorizontalFlip(0.5), *finish]))
test_set = ImageFolder(
    task.data / "test", v2.Compose([v2.Resize(task.size, antialias=True), v2.CenterCrop(task.size), *finish])
)
if task.frozen:
    network.requires_grad_(False)
    network.get_classifier().requires_grad_(True)
trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
train = DataLoader(train_set, batch_size=64 if task.expert else 32, shuffle=True, num_workers=1)
if task.expert:
    optimizer = torch.optim.AdamW(trained, lr=2e-3 if task.frozen else 5e-4, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=optimizer.defaults["lr"], total_steps=task.epochs * len(train), pct_start=0.1
    )
else:
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30 * len(train), gamma=0.1)
criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1 if task.expert else 0.0)
for _ in range(task.epochs):
    network.train(not task.frozen)
    for images, labels in train:
        loss = criterion(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        if task.expert:
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
network.eval()
found = []
with torch.inference_mode():
    for images, _ in DataLoader(test_set, batch_size=32, num_workers=1):
        found += network(images).argmax(dim=1).tolist()
# end

names = {path: label for (path, _), label in zip(test_set.samples, found, strict=True)}
write_predictions(task, (test_set.classes[names[str(path)]] for path in task.test_files))
