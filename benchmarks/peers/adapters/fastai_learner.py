"""fastai: ``vision_learner`` and ``fine_tune``."""

import torch
from fastai.vision.all import (
    AdaptiveConcatPool2d,  # noqa: F401  # part of the head that vision_learner makes
    ImageDataLoaders,
    LabelSmoothingCrossEntropy,
    Resize,
    aug_transforms,
    set_seed,
    vision_learner,
)

from task import read_task, write_predictions

task = read_task()
torch.set_num_threads(task.threads)
set_seed(task.seed)

# begin: what a user writes
tfms = aug_transforms(max_rotate=0, max_lighting=0, max_warp=0) if task.expert else aug_transforms()
loaders = ImageDataLoaders.from_folder(
    task.data / "train", valid_pct=0.1, seed=task.seed, item_tfms=Resize(task.size), batch_tfms=tfms, num_workers=1
)
learner = vision_learner(
    loaders,
    task.architecture,
    loss_func=LabelSmoothingCrossEntropy() if task.expert else None,
    pretrained_cfg_overlay={"file": str(task.weights)},
)
if task.frozen:
    learner.fit_one_cycle(task.epochs)
elif task.expert:
    learner.fine_tune(task.epochs, base_lr=4e-3)
else:
    learner.fine_tune(task.epochs)
probabilities, _ = learner.get_preds(dl=loaders.test_dl(task.test_files))
# end

write_predictions(task, (loaders.vocab[label] for label in probabilities.argmax(dim=1).tolist()))
