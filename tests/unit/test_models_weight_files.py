"""Weights files of every kind: whole, renamed, foreign, damaged and malicious."""

import builtins
import pickle
import sys

import h5py
import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from headstart.errors import WeightsError
from headstart.models.backbones import load_backbone


@pytest.fixture(scope="module")
def trained():
    """Stand for trained weights: a small network with its classifier, all tensors distinct."""
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=7).state_dict()


@pytest.fixture
def expected(trained):
    return {name: tensor for name, tensor in trained.items() if not name.startswith("fc.")}


def assert_loaded(backbone, expected):
    own = backbone.module.state_dict()
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[name], expected[name]) for name in own)
    assert backbone.weights.source == "file"


@pytest.mark.parametrize("wrap", ["bare", "state_dict", "model", "module.", "model.", "module.model.", "_orig_mod."])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_a_torch_state_dict_is_read_through_its_wrappings(tmp_path, trained, expected, wrap, suffix):
    content = dict(trained)
    if wrap.endswith("."):
        content = {f"{wrap}{name}": tensor for name, tensor in content.items()}
    elif wrap != "bare":
        content = {wrap: content, "epoch": 3}
    path = tmp_path / f"weights{suffix}"
    torch.save(content, path)
    backbone = load_backbone("test_resnet", weights=str(path))
    assert_loaded(backbone, expected)
    assert backbone.weights.unmatched == ()
    assert backbone.weights.origin == str(path)


def test_safetensors_are_read(tmp_path, trained, expected):
    save_file(trained, tmp_path / "w.safetensors")
    assert_loaded(load_backbone("test_resnet", weights=str(tmp_path / "w.safetensors")), expected)


def test_the_hash_tells_files_apart_and_not_their_kinds(tmp_path, trained):
    save_file(trained, tmp_path / "a.safetensors")
    torch.save(trained, tmp_path / "b.pth")
    torch.save({name: tensor + 1 for name, tensor in trained.items()}, tmp_path / "c.pth")
    a, b, c = (load_backbone("test_resnet", weights=str(tmp_path / n)) for n in ("a.safetensors", "b.pth", "c.pth"))
    assert a.weights.sha256 == b.weights.sha256 != c.weights.sha256


def test_what_did_not_match_is_listed(tmp_path, trained):
    changed = dict(trained)
    del changed["layer1.0.bn1.bias"]
    changed["extra.weight"] = torch.zeros(1)
    torch.save(changed, tmp_path / "w.pth")
    backbone = load_backbone("test_resnet", weights=str(tmp_path / "w.pth"))
    assert backbone.weights.unmatched == ("missing: layer1.0.bn1.bias", "unused: extra.weight")


def test_a_wrong_shape_is_named(tmp_path, trained):
    torch.save(trained | {"conv1.0.weight": torch.zeros(2, 3, 3, 3)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"conv1.0.weight: \(2, 3, 3, 3\) in the weights, \(\d+, 3, 3, 3\) in the"):
        load_backbone("test_resnet", weights=str(tmp_path / "w.pth"))


@pytest.mark.parametrize("other", ["test_vit", "test_convnext", "test_efficientnet", "resnet18"])
def test_weights_of_another_architecture_are_refused(tmp_path, trained, other):
    torch.save(trained, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"belong to another network: only .* of the .* tensors"):
        load_backbone(other, weights=str(tmp_path / "w.pth"))


def test_torchvisions_resnet_and_efficientnet_give_torchvisions_features(tmp_path):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for name, module, classifier in (
        ("resnet18", torchvision.models.resnet18(), "fc"),
        ("efficientnet_b0", torchvision.models.efficientnet_b0(), "classifier"),
    ):
        torch.save(module.state_dict(), tmp_path / f"{name}.pth")
        backbone = load_backbone(name, weights=str(tmp_path / f"{name}.pth"))
        setattr(module, classifier, torch.nn.Identity())
        with torch.inference_mode():
            torch.testing.assert_close(backbone.module(images), module.eval()(images))
        assert backbone.weights.unmatched == ()


def test_torchvisions_efficientnet_does_not_pass_for_tensorflows(tmp_path):
    torch.save(torchvision.models.efficientnet_b0().state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="Give the backbone efficientnet_b0"):
        load_backbone("tf_efficientnet_b0", weights=str(tmp_path / "w.pth"))


def test_an_original_release_is_renamed_by_timms_own_filter(tmp_path):
    own = load_backbone("convnext_atto", weights="none").module.state_dict()
    # The names of ConvNeXt's first release.
    original = {
        name.replace("stem.0", "downsample_layers.0.0").replace("stem.1", "downsample_layers.0.1"): tensor
        for name, tensor in own.items()
    }
    assert original.keys() != own.keys()
    original = {
        _original_convnext(name): tensor.flatten() if "mlp" in name and "bias" in name else tensor
        for name, tensor in original.items()
    }
    torch.save(original, tmp_path / "w.pth")
    assert_loaded(load_backbone("convnext_atto", weights=str(tmp_path / "w.pth")), own)


def _original_convnext(name):
    stage_downsample = name.split(".")
    if name.startswith("stages.") and stage_downsample[2] == "downsample":
        return f"downsample_layers.{stage_downsample[1]}.{'.'.join(stage_downsample[3:])}"
    name = name.replace(".blocks.", ".").replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
    return name.replace("head.norm", "norm")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.safetensors", b"\x00" * 40, "not a whole safetensors file"),
        ("w.pth", b"not a torch file", "headstart never runs code|not a whole torch file"),
        ("w.pth", b"", "not a whole torch file"),
        ("w.h5", b"not hdf5", "not a whole HDF5 file"),
        ("w.onnx", b"", "unknown kind '.onnx'. Allowed: .safetensors"),
    ],
    ids=["safetensors", "torch", "empty torch", "keras", "unknown kind"],
)
def test_damaged_and_unknown_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        load_backbone("resnet50v1.keras_in1k", weights=str(tmp_path / name))


def test_a_missing_file_is_an_error():
    with pytest.raises(WeightsError, match=r"no weights file at nowhere/w.pth"):
        load_backbone("test_resnet", weights="nowhere/w.pth")


class Malicious:
    def __reduce__(self):
        return (exec, ("import builtins; builtins.headstart_was_fooled = True",))


def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path, trained):
    torch.save({"state_dict": trained, "hook": Malicious()}, tmp_path / "w.pth")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Malicious(), protocol=2))
    for name in ("w.pth", "plain.pt"):
        with pytest.raises(WeightsError, match="headstart never runs code from a weights file"):
            load_backbone("test_resnet", weights=str(tmp_path / name))
    assert not hasattr(builtins, "headstart_was_fooled")


def test_a_file_without_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3, "state_dict": {}}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no state dict"):
        load_backbone("test_resnet", weights=str(tmp_path / "w.pth"))


def test_a_keras_file_for_another_backbone_is_refused(tmp_path):
    (tmp_path / "w.h5").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"for the backbone resnet50v1.keras_in1k only, not for test_resnet"):
        load_backbone("test_resnet", weights=str(tmp_path / "w.h5"))


def test_a_keras_file_of_another_network_is_refused(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["block1_conv1/block1_conv1/kernel:0"] = np.zeros((3, 3, 3, 64), np.float32)
    with pytest.raises(WeightsError, match="belong to another network"):
        load_backbone("resnet50v1.keras_in1k", weights=str(tmp_path / "w.h5"))


def test_without_h5py_the_install_command_is_given(tmp_path, monkeypatch):
    (tmp_path / "w.h5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(WeightsError, match="pip install h5py"):
        load_backbone("resnet50v1.keras_in1k", weights=str(tmp_path / "w.h5"))
