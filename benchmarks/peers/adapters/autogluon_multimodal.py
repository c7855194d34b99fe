"""AutoGluon MultiModal: ``MultiModalPredictor.fit`` with a timm backbone."""

import json

import pandas
import timm
import torch
from autogluon.multimodal import MultiModalPredictor
from safetensors.torch import load_file

from task import read_task, write_predictions

task = read_task()
torch.set_num_threads(task.threads)

# A local backbone must be a folder with a pickled state dict, without the classifier, and the size in its description.
local = task.out / "backbone"
local.mkdir()
state = {name: tensor for name, tensor in load_file(task.weights).items() if not name.startswith("classifier")}
torch.save(state, local / "pytorch_model.bin")
network = timm.create_model(task.architecture)
shown = {name: network.default_cfg[name] for name in ("mean", "std", "interpolation", "crop_pct")}
shown |= {"input_size": [3, task.size, task.size], "num_features": network.num_features}
(local / "config.json").write_text(json.dumps({"architecture": task.architecture} | shown), encoding="utf-8")

# begin: what a user writes
files = sorted((task.data / "train").rglob("*.*"))
train = pandas.DataFrame({"image": map(str, files), "label": [path.parent.name for path in files]})
test = pandas.DataFrame({"image": map(str, task.test_files)})
settings = {
    "model.names": ["timm_image"],
    "model.timm_image.checkpoint_name": str(local),
    "optim.max_epochs": task.epochs,
    "env.num_gpus": 0,
    "env.num_workers": 1,
    "env.num_workers_inference": 1,
}
if task.expert:
    settings |= {
        "model.timm_image.train_transforms": ["random_resize_crop", "random_horizontal_flip"],
        "optim.lr": 5e-4,
        "optim.weight_decay": 0.05,
        "optim.top_k": 1,
        "optim.val_check_interval": 1.0,
        "env.batch_size": 64,
        "env.per_gpu_batch_size": 64,
    }
predictor = MultiModalPredictor(label="label", problem_type="multiclass", path=str(task.out / "predictor"))
predictor.fit(train, hyperparameters=settings, seed=task.seed)
found = predictor.predict(test, as_pandas=False)
# end

write_predictions(task, found)
