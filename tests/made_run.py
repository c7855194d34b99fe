"""A measured run and its export, made from real images and a tiny network whose batch norms do something."""

import json

import onnx
import torch

from headstart.bundle.config import Bundle
from headstart.bundle.folder import save_bundle
from headstart.data.preprocess import Preprocess
from headstart.data.splits import build_manifest, split_train
from headstart.evaluation.evaluate import evaluate_run
from headstart.files import file_sha256
from headstart.models.heads import empty_classifier, head_of
from headstart.recipe.schema import load_recipe
from headstart.runs.run import Run

PREPROCESS = Preprocess(40, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bicubic", 0.9)
FACTS = {
    "train_seconds": 12.5,
    "train_images_per_second": 100.0,
    "backbone": "test_efficientnet",
    "device": "cpu",
    "precision": "fp32",
    "seed": 0,
    "peak_rss_mb": 900.0,
    "best_epoch": 1,
}


def random_bundle(class_names, architecture="test_efficientnet", **changes):
    """A classifier with random weights; answers differ between images."""
    module = empty_classifier(architecture, num_classes=len(class_names))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1, generator=generator)
                part.running_var.uniform_(0.5, 1.5, generator=generator)
                part.weight.uniform_(0.5, 1.5, generator=generator)
        head_of(module).weight.normal_(0, 1, generator=generator)
    values = {"preprocess": PREPROCESS, "backbone": architecture, "hidden": (), "dropout": 0.0, "dataset": "sample"}
    values |= {"manifest_sha256": "", "flip": True, "weights": {"license": "apache-2.0"}}
    return Bundle(module.eval(), class_names, architecture=architecture, **(values | changes))


def measured_run(folder, dataset, data):
    """Write the folder of a run that is trained and measured on a data set, which lies at ``data``."""
    folder.mkdir()
    train, val = split_train(dataset.train, val_fraction=0.2, seed=0)
    manifest = build_manifest(train, val, dataset.sealed_test)
    run = Run(folder)
    run.write_manifest(manifest)
    run.write_recipe(load_recipe("quickstart", {"data.name": str(data)}))
    save_bundle(random_bundle(dataset.class_names, manifest_sha256=manifest.sha256), run.model)
    (folder / "training.json").write_text(json.dumps(FACTS))
    (folder / "environment.json").write_text(json.dumps({"seed": 0, "test_openings": []}))
    evaluate_run(run, dataset, command="headstart train")
    return run


def restate(export, **facts):
    """Change what an export says of itself, in all places where it says so; None takes a key out."""
    read = {name: json.loads((export / f"{name}.json").read_text()) for name in ("config", "certificate")}
    config = {key: value for key, value in (read["config"] | facts).items() if value is not None or key not in facts}
    model = onnx.load(export / "model.onnx")
    told = {f"headstart.{key}": json.dumps(value) for key, value in config.items() if key != "files"}
    onnx.helper.set_model_props(model, told)
    onnx.save(model, export / "model.onnx")
    config["files"]["model.onnx"] = file_sha256(export / "model.onnx")
    certificate = read["certificate"] | {key: config[key] for key in read["certificate"].keys() & config.keys()}
    (export / "config.json").write_text(json.dumps(config))
    (export / "certificate.json").write_text(json.dumps(certificate))
