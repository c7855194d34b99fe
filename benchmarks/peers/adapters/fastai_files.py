"""fastai: ``load_learner``, ``test_dl`` and ``get_preds``, with the same network inside an exported learner."""

import timm
import torch
from fastai.vision.all import (
    CrossEntropyLossFlat,
    ImageDataLoaders,
    Learner,
    Normalize,
    Resize,
    load_learner,
)

from task import read_task, write_predictions

task = read_task()
torch.set_num_threads(task.threads)
place = task.weights / "fastai.pkl"
if task.setting == "prepare":
    network = timm.create_model(f"local-dir:{task.weights / 'run' / 'model'}", pretrained=True)
    config = network.pretrained_cfg
    loaders = ImageDataLoaders.from_folder(
        task.data / "train",
        valid_pct=0.1,
        item_tfms=Resize(task.size),
        batch_tfms=Normalize.from_stats(config["mean"], config["std"]),
    )
    Learner(loaders, network, loss_func=CrossEntropyLossFlat()).export(place)
else:
    # begin: what a user writes
    learner = load_learner(place)
    loader = learner.dls.test_dl(task.test_files, bs=64, num_workers=task.threads)
    probabilities, _ = learner.get_preds(dl=loader)
    # end
    write_predictions(task, (learner.dls.vocab[label] for label in probabilities.argmax(dim=1).tolist()))
