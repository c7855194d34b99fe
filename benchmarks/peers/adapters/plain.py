"""The floor: a training loop in plain PyTorch, as a person would write it who knows transfer learning."""

import timm
import torch
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from task import read_task, write_predictions

task = read_task()
torch.manual_seed(task.seed)
torch.set_num_threads(task.threads)

# begin: what a user writes
network = timm.create_model(task.architecture, checkpoint_path=str(task.weights))
network.reset_classifier(10)
normalize = transforms.Normalize(network.default_cfg["mean"], network.default_cfg["std"])
augment = [transforms.RandomResizedCrop(task.size, scale=(0.5, 1.0)), transforms.RandomHorizontalFlip()]
train_set = ImageFolder(task.data / "train", transforms.Compose([*augment, transforms.ToTensor(), normalize]))
plain = [transforms.Resize(task.size), transforms.CenterCrop(task.size), transforms.ToTensor(), normalize]
test_set = ImageFolder(task.data / "test", transforms.Compose(plain))
if task.frozen:
    network.requires_grad_(False)
    network.get_classifier().requires_grad_(True)
trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-3 if task.frozen else 3e-4, weight_decay=0.05)
batches = DataLoader(train_set, batch_size=64, shuffle=True, drop_last=True, num_workers=1)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, task.epochs * len(batches))
for _ in range(task.epochs):
    network.train(not task.frozen)
    if task.expert:  # the statistics of batch norm stay those of ImageNet: small batches of small images spoil them
        for module in network.modules():
            module.train(module.training and not isinstance(module, torch.nn.BatchNorm2d))
    for images, labels in batches:
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
network.eval()
found = []
with torch.inference_mode():
    for images, _ in DataLoader(test_set, batch_size=64, num_workers=1):
        found += network(images).argmax(dim=1).tolist()
# end

names = {path: label for (path, _), label in zip(test_set.samples, found, strict=True)}
write_predictions(task, (test_set.classes[names[str(path)]] for path in task.test_files))
