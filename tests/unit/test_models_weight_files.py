"""Weights files of every kind: whole, renamed, foreign, damaged and malicious."""

import builtins
import contextlib
import pickle
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from headstart.errors import WeightsError
from headstart.models import backbones, keras_files
from headstart.models.architectures import create_network, outline
from headstart.models.backbones import load_backbone
from headstart.models.weight_files import read_weights_file
from headstart.models.weights import load_tensors


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


@pytest.fixture
def no_weights(monkeypatch):
    """Networks without weights: of a file that is refused, nothing gets as far as that."""
    monkeypatch.setattr(backbones, "create_network", outline)


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


@pytest.mark.usefixtures("no_weights")
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


@pytest.mark.usefixtures("no_weights")
def test_a_keras_file_of_another_network_is_refused(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["block1_conv1/block1_conv1/kernel:0"] = np.zeros((3, 3, 3, 64), np.float32)
    with pytest.raises(WeightsError, match="belong to another network"):
        load_backbone("resnet50v1.keras_in1k", weights=str(tmp_path / "w.h5"))


@pytest.fixture
def secret(tmp_path):
    """A file of the user's that a weights file must not be able to read."""
    path = tmp_path / "secret.bin"
    path.write_bytes(np.arange(64, dtype=np.float32).tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["values"] = np.arange(64, dtype=np.float32)
    return path


def external_storage(file, secret):
    file.create_dataset("conv1/kernel", (64,), np.float32, external=[(str(secret), 0, 256)])


def virtual_dataset(file, secret):
    layout = h5py.VirtualLayout((64,), np.float32)
    layout[:] = h5py.VirtualSource(str(secret.with_name("other.h5")), "values", (64,))
    file.create_virtual_dataset("conv1/kernel", layout)


def external_link(file, secret):
    file["conv1/kernel"] = h5py.ExternalLink(str(secret.with_name("other.h5")), "values")


def soft_link(file, _secret):
    file["conv1/kernel"] = h5py.SoftLink("/elsewhere")


def hollow_dataset(file, _secret):
    file.create_dataset("conv1/kernel", (10**12,), np.float32)


def hollow_chunks(file, _secret):
    file.create_dataset("conv1/kernel", (10**12,), np.float32, compression="gzip", chunks=(10**6,))


def compressed_zeros(file, _secret):
    file.create_dataset("conv1/kernel", data=np.zeros(10**6, np.float32), compression="gzip")


def many_datasets(file, _secret):
    for number in range(300):
        file.create_dataset(f"conv{number}/kernel", data=np.ones(10, np.float32))


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("craft", "told"),
    [
        (external_storage, "lie in another file"),
        (virtual_dataset, "lie in another file"),
        (external_link, "is a link"),
        (soft_link, "is a link"),
        (hollow_dataset, "declares 4,000,000,000,000 bytes, but only 0 are stored"),
        (hollow_chunks, "declares 4,000,000,000,000 bytes, but only 0 are stored"),
        (compressed_zeros, "arrays take more than 1 MB"),
        (many_datasets, "more than 250 objects"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("deep", [False, True])
def test_a_keras_file_that_reaches_outside_itself_is_refused(tmp_path, secret, craft, told, deep, monkeypatch):
    monkeypatch.setattr(keras_files, "_MAX_OBJECTS", 250)
    monkeypatch.setattr(keras_files, "_MAX_BYTES", 1_000_000)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        craft(file.create_group("model_weights") if deep else file, secret)
    with pytest.raises(WeightsError, match=f"is refused: .*{told}"):
        load_backbone("resnet50v1.keras_in1k", weights=str(tmp_path / "w.h5"))


@pytest.mark.usefixtures("no_weights")
def test_a_keras_file_with_a_loop_of_groups_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(keras_files, "_MAX_OBJECTS", 250)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["a/b"] = file["/"]
    with pytest.raises(WeightsError, match="more than 250 objects"):
        load_backbone("resnet50v1.keras_in1k", weights=str(tmp_path / "w.h5"))


def test_keras_files_as_they_are_written_are_read(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        layer = file.create_group("model_weights/conv1_conv/conv1_conv")
        layer.create_dataset("kernel:0", data=np.ones((7, 7, 3, 64), np.float64), compression="gzip", shuffle=True)
        layer.create_dataset("bias:0", data=np.zeros(64, np.float16), fletcher32=True)
        file.create_dataset("optimizer_weights/iterations", data=np.int64(7))
        file.create_dataset("top_level_model_weights/name", data="a text")
    arrays = keras_files.read_keras(tmp_path / "w.h5")
    assert {name: array.shape for name, array in arrays.items() if name.startswith("conv1")} == {
        "conv1_conv/kernel": (7, 7, 3, 64),
        "conv1_conv/bias": (64,),
    }
    assert not any("name" in name for name in arrays)


@pytest.mark.usefixtures("no_weights")
def test_keras_arrays_of_other_shapes_are_refused(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["conv1/kernel"] = np.ones((7, 7, 3), np.float32)
    with pytest.raises(WeightsError, match="other shapes"):
        load_backbone("resnet50v1.keras_in1k", weights=str(tmp_path / "w.h5"))


def test_a_torch_file_that_unpacks_to_too_much_is_refused(tmp_path, trained):
    torch.save(trained | {"bomb": torch.zeros(10_000_000)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "w.pth", "w") as packed:
        for part in plain.infolist():
            packed.writestr(part.filename, plain.read(part), zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="is refused: it unpacks to 42 MB"):
        load_backbone("test_resnet", weights=str(tmp_path / "w.pth"))
    assert load_backbone("test_resnet", weights=str(tmp_path / "plain.pth"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, trained, value):
    bad = trained["conv1.0.weight"].clone()
    bad[0, 0, 0, 0] = value
    torch.save(trained | {"conv1.0.weight": bad}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"infinite values or NaN.*conv1\.0\.weight"):
        load_backbone("test_resnet", weights=str(tmp_path / "w.pth"))


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_tensors_of_odd_kinds_count_as_missing(tmp_path, trained):
    odd = {
        "conv1.0.weight": trained["conv1.0.weight"].to_sparse(),
        "layer1.0.bn1.bias": torch.complex(trained["layer1.0.bn1.bias"], trained["layer1.0.bn1.bias"]),
        3: torch.zeros(1),
    }
    torch.save(trained | odd, tmp_path / "w.pth")
    backbone = load_backbone("test_resnet", weights=str(tmp_path / "w.pth"))
    assert backbone.weights.unmatched == ("missing: conv1.0.weight", "missing: layer1.0.bn1.bias")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".h5", ".old.pth"])
def test_damage_ends_in_a_named_error(tmp_path, trained, suffix):
    path = tmp_path / f"w{suffix}"
    if suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["conv1/conv1/kernel:0"] = np.ones((7, 7, 3, 64), np.float32)
    elif suffix == ".safetensors":
        save_file(trained, path)
    else:
        torch.save(trained, path, _use_new_zipfile_serialization=suffix == ".pth")
    content = path.read_bytes()
    network = create_network("test_resnet")
    generator = np.random.default_rng(0)
    for number in range(60):
        damaged = bytearray(content)
        # Near the beginning or the end, where every kind keeps what describes the tensors.
        for place in generator.integers(0, 3000, 1 + number % 3):
            damaged[place if generator.random() < 0.6 else len(content) - 1 - place] ^= 1 << generator.integers(8)
        path.write_bytes(damaged)
        with contextlib.suppress(WeightsError):
            if suffix == ".h5":
                keras_files.read_keras(path)
            else:
                load_tensors(network, read_weights_file(path, network, "test_resnet")[0], origin=str(path))


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.h5"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, name, monkeypatch):
    def closed(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", closed)
    with pytest.raises(WeightsError, match="no permission"):
        load_backbone("resnet50v1.keras_in1k", weights=str(tmp_path / name))


@pytest.mark.parametrize("name", ["x" * 300 + ".pth", "loop.pth", "nul\0.pth", "folder.pth"])
def test_paths_that_are_no_files_are_named(tmp_path, name):
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(WeightsError, match=r"can't be read|is a folder"):
        load_backbone("test_resnet", weights=str(tmp_path / name))


@pytest.mark.usefixtures("no_weights")
def test_without_h5py_the_install_command_is_given(tmp_path, monkeypatch):
    (tmp_path / "w.h5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(WeightsError, match="pip install h5py"):
        load_backbone("resnet50v1.keras_in1k", weights=str(tmp_path / "w.h5"))
