"""Hugging Face: ``Trainer`` with a timm backbone (``TimmWrapper``)."""

import json

import timm
import torch
from safetensors.torch import save_file
from torchvision import transforms
from torchvision.datasets import ImageFolder
from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments

from task import read_task, write_predictions

task = read_task()
torch.set_num_threads(task.threads)

# The Hub can't be reached, so the weights lie in a folder as the Hub would have them.
local = task.out / "backbone"
local.mkdir()
network = timm.create_model(task.architecture, checkpoint_path=str(task.weights))
about = {"architecture": task.architecture, "num_classes": 1000, "pretrained_cfg": network.pretrained_cfg}
(local / "config.json").write_text(json.dumps(about, default=str), encoding="utf-8")
save_file(network.state_dict(), local / "model.safetensors")
del network

# begin: what a user writes
processor = AutoImageProcessor.from_pretrained(local)
config = processor.data_config
normalize = transforms.Normalize(config["mean"], config["std"])
augment = [transforms.RandomResizedCrop(task.size), transforms.RandomHorizontalFlip()]
if task.expert:
    augment[0] = transforms.RandomResizedCrop(task.size, scale=(0.5, 1.0))
train_set = ImageFolder(task.data / "train", transforms.Compose([*augment, transforms.ToTensor(), normalize]))
plain = [transforms.Resize(task.size), transforms.CenterCrop(task.size), transforms.ToTensor(), normalize]
test_set = ImageFolder(task.data / "test", transforms.Compose(plain))
model = AutoModelForImageClassification.from_pretrained(local, num_labels=10, ignore_mismatched_sizes=True)
if task.frozen:
    model.requires_grad_(False)
    model.timm_model.get_classifier().requires_grad_(True)
better = {"learning_rate": 5e-4, "lr_scheduler_type": "cosine", "weight_decay": 0.05, "warmup_steps": 0.1}
arguments = TrainingArguments(
    output_dir=str(task.out / "trainer"),
    num_train_epochs=task.epochs,
    per_device_train_batch_size=32 if task.expert else 8,
    per_device_eval_batch_size=64,
    dataloader_num_workers=1,
    remove_unused_columns=False,
    save_strategy="no",
    report_to=[],
    seed=task.seed,
    use_cpu=True,
    **(better if task.expert else {}),
)


def collate(rows):
    images, labels = zip(*rows, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


trainer = Trainer(model=model, args=arguments, data_collator=collate, train_dataset=train_set)
trainer.train()
found = trainer.predict(test_set).predictions.argmax(axis=1)
# end

names = {path: label for (path, _), label in zip(test_set.samples, found.tolist(), strict=True)}
write_predictions(task, (test_set.classes[names[str(path)]] for path in task.test_files))
