"""The map from Keras's arrays and files to timm's tensors, and the network that goes with it."""

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from headstart.models.architectures import create_network
from headstart.models.backbones import load_backbone
from headstart.models.keras_files import read_keras
from headstart.models.keras_resnet50 import ARCHITECTURE, EPSILON, INPUT_UNIT, from_keras


@pytest.fixture(scope="module")
def network():
    return create_network(ARCHITECTURE, num_classes=1000)


def keras_layers(style):
    """Name layers as Keras did before 2019 (old) or does since (new), each with its kernel's (size, in, out)."""
    layers = [(("conv1", "bn_conv1") if style == "old" else ("conv1_conv", "conv1_bn"), (7, 3, 64))]
    entering = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=2):
        for block in range(blocks):
            shapes = {1: (1, entering, width), 2: (3, width, width), 3: (1, width, 4 * width)}
            if block == 0:
                shapes[0] = (1, entering, 4 * width)
            for number, shape in shapes.items():
                if style == "old":
                    branch = f"{stage}{'abcdef'[block]}_branch{'1' if number == 0 else '2' + 'abc'[number - 1]}"
                    names = (f"res{branch}", f"bn{branch}")
                else:
                    stem = f"conv{stage}_block{block + 1}_{number}"
                    names = (f"{stem}_conv", f"{stem}_bn")
                layers.append((names, shape))
            entering = 4 * width
    return layers


def keras_arrays(style):
    """Make a whole set of arrays, constant within each to stay small in memory."""
    arrays = {}
    for (convolution, norm), (size, entering, leaving) in keras_layers(style):
        arrays[f"{convolution}/kernel"] = np.broadcast_to(np.float32(0.1), (size, size, entering, leaving))
        arrays[f"{convolution}/bias"] = np.full(leaving, 0.25, np.float32)
        for kind, value in (("gamma", 1.0), ("beta", 0.5), ("moving_mean", 2.0), ("moving_variance", 4.0)):
            arrays[f"{norm}/{kind}"] = np.full(leaving, value, np.float32)
    head = "fc1000" if style == "old" else "predictions"
    arrays[f"{head}/kernel"] = np.broadcast_to(np.float32(0.1), (2048, 1000))
    arrays[f"{head}/bias"] = np.zeros(1000, np.float32)
    return arrays


@pytest.mark.parametrize("style", ["old", "new"])
def test_every_tensor_is_filled_from_either_style_of_names(network, style):
    arrays = keras_arrays(style)
    assert len(arrays) == 320
    tensors, unknown = from_keras(arrays)
    own = {n: t.shape for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert unknown == ()
    assert {name: tensor.shape for name, tensor in tensors.items()} == own
    assert all((t == 1.75).all() for name, t in tensors.items() if name.endswith("running_mean"))


def test_a_convolution_with_its_norm_computes_what_keras_computes():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 4, 5)).astype(np.float32)
    bias, gamma, beta, mean = (rng.normal(size=5).astype(np.float32) for _ in range(4))
    variance = rng.uniform(0.0005, 2, size=5).astype(np.float32)
    pixels = rng.normal(size=(1, 3, 3, 4)).astype(np.float32)
    # One output pixel of a 3 x 3 convolution, written out as Keras defines it.
    sums = np.einsum("hwi,hwio->o", pixels[0], kernel) + bias
    names = {
        "old": ("res2a_branch2b", "bn2a_branch2b", 1e-3),
        "new": ("conv2_block1_2_conv", "conv2_block1_2_bn", 1.001e-5),
    }
    for convolution, norm, epsilon in names.values():
        expected = gamma * (sums - mean) / np.sqrt(variance + epsilon) + beta
        tensors, _ = from_keras(
            {
                f"{convolution}/kernel": kernel,
                f"{convolution}/bias": bias,
                f"{norm}/gamma": gamma,
                f"{norm}/beta": beta,
                f"{norm}/moving_mean": mean,
                f"{norm}/moving_variance": variance,
            }
        )
        summed = nn.functional.conv2d(torch.from_numpy(pixels).permute(0, 3, 1, 2), tensors["layer1.0.conv2.weight"])
        ours = nn.functional.batch_norm(
            summed,
            *(tensors[f"layer1.0.bn2.{part}"] for part in ("running_mean", "running_var", "weight", "bias")),
            eps=EPSILON,
        )
        np.testing.assert_allclose(ours.flatten().numpy(), expected, rtol=2e-4, atol=1e-5)


def test_the_first_kernel_reads_rgb_in_our_unit_where_keras_reads_bgr():
    kernel = np.zeros((7, 7, 3, 64), np.float32)
    kernel[:, :, 0] = 1  # blue
    tensors, _ = from_keras({"conv1/kernel": kernel})
    assert tensors["conv1.weight"][:, 2].eq(INPUT_UNIT).all()
    assert tensors["conv1.weight"][:, :2].eq(0).all()


def test_foreign_arrays_are_named():
    arrays = {"res6a_branch2a/kernel": np.zeros((1, 1, 1, 1)), "conv1/depth": np.zeros(1)}
    assert from_keras(arrays)[1] == ("conv1/depth", "res6a_branch2a/kernel")


def test_strides_and_epsilon_are_those_of_the_first_version(network):
    for stage in (network.layer2, network.layer3, network.layer4):
        assert (stage[0].conv1.stride, stage[0].conv2.stride) == ((2, 2), (1, 1))
        assert stage[1].conv1.stride == stage[1].conv2.stride == (1, 1)
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 53
    assert {norm.eps for norm in norms} == {EPSILON}


def test_the_preprocessing_subtracts_keras_means_from_pixels_and_only_the_unit_differs(network):
    mean, std = (np.array(network.pretrained_cfg[key]) for key in ("mean", "std"))
    white = (1.0 - mean) / std
    np.testing.assert_allclose(white * INPUT_UNIT, 255 - np.array([123.68, 116.779, 103.939]))


def keras_kind(style, layer, kind):
    """Return the dataset's path in a Keras file of one of three generations."""
    if style == "keras1":
        words = {"kernel": "W", "bias": "b", "moving_mean": "running_mean", "moving_variance": "running_std"}
        return f"{layer}/{layer}_{words.get(kind, kind)}_1:0"
    return f"{'model_weights/' if style == 'model' else ''}{layer}/{layer}/{kind}:0"


@pytest.mark.parametrize("style", ["keras1", "keras2", "model"])
def test_the_arrays_of_a_keras_file_are_named_alike_in_every_generation(tmp_path, style):
    arrays = {
        f"{layer}/{kind}": np.full(3, number, np.float32)
        for number, (layer, kind) in enumerate(
            [("res2a_branch2a", "kernel"), ("res2a_branch2a", "bias"), ("predictions", "bias")]
            + [("bn2a_branch2a", kind) for kind in ("gamma", "beta", "moving_mean", "moving_variance")]
        )
    }
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for name, array in arrays.items():
            file[keras_kind(style, *name.split("/"))] = array
    read = read_keras(tmp_path / "w.h5")
    assert read.keys() == arrays.keys()
    assert all((read[name] == arrays[name]).all() for name in arrays)


@pytest.mark.parametrize(("style", "words"), [("keras1", "old"), ("keras2", "new")])
def test_a_keras_file_without_top_fills_the_backbone(tmp_path, style, words):
    arrays = {n: a for n, a in keras_arrays(words).items() if not n.startswith(("fc1000", "predictions"))}
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(keras_kind(style, *name.split("/")), data=array, compression="gzip", compression_opts=1)
    backbone = load_backbone("resnet50v1.keras_in1k", weights=str(tmp_path / "w.h5"))
    expected, _ = from_keras(arrays)
    own = backbone.module.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in expected.items())
    assert backbone.weights.unmatched == ()
