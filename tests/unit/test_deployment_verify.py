"""Golden predictions: an export answers as it was certified, and what drifts, or is damaged, is told."""

import csv
import json
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

import headstart
from headstart.cli import main
from headstart.deployment.golden import read_golden
from headstart.errors import BundleError, InputError


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "export")


@pytest.fixture
def unnamed(copy):
    """A copy whose golden predictions no certificate names."""
    (copy / "certificate.json").unlink()
    return copy


def test_the_golden_images_have_several_sizes_and_modes(exported):
    files = read_golden(exported, headstart.load(exported).class_names).files
    facts = []
    for file in files:
        with Image.open(file) as image:
            facts.append((image.format, image.mode, image.size, image.getexif().get(0x0112)))
    formats, modes, sizes, turns = (set(column) for column in zip(*facts, strict=True))
    assert len(files) == 16
    assert formats == {"PNG", "JPEG"}
    assert modes >= {"RGB", "L", "RGBA", "P", "I;16"}
    assert len(sizes) > 3
    assert 6 in turns


def test_they_are_validation_images_of_every_class(exported, measured, sample):
    content = json.loads((exported / "golden" / "golden.json").read_text())
    val = measured.manifest().select(sample.train, "val")
    assert {entry["label"] for entry in content["images"]} == set(sample.class_names)
    with Image.open(exported / "golden" / "00.png") as image:
        pixels = np.array(image)
    assert any(np.array_equal(pixels, val.image(position)) for position in range(len(val)))


def test_an_export_answers_here_as_it_was_certified(copy, capsys):
    found = headstart.verify(copy)
    assert found.ok
    assert found.largest_difference < 1e-5
    assert {image.square_steps for image in found.images} == {0}
    assert max(image.logit_difference for image in found.images) < 1e-3
    assert main(["verify", str(copy)]) == 0
    told = capsys.readouterr().out
    assert "16 golden images as certified" in told
    assert "squares by up to 0 of 255" in told
    assert main(["verify", str(copy), "--tolerance", "0", "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["tolerance"] == 0


def test_predictions_that_drifted_are_named(unnamed, capsys):
    copy = unnamed
    with np.load(copy / "golden" / "golden.npz") as stored:
        arrays = dict(stored)
    arrays["probabilities"][3] = np.roll(arrays["probabilities"][3], 1)
    np.savez_compressed(copy / "golden" / "golden.npz", **arrays)
    assert main(["verify", str(copy)]) == 1
    told = capsys.readouterr().out
    assert "03.png" in told
    assert "1 of 16 golden images drifted" in told
    found = headstart.verify(copy)
    assert [image.drifted for image in found.images].count(True) == 1
    assert found["images"][3]["drifted"]


def test_an_image_that_is_prepared_differently_is_named(unnamed, capsys):
    """Such as a JPEG, by another decoder; a single step is rounding."""
    copy = unnamed
    with np.load(copy / "golden" / "golden.npz") as stored:
        arrays = dict(stored)
    arrays["square_03"][0, 0, 0] ^= 2
    arrays["square_04"][0, 0, 0] ^= 1
    arrays["logits"][5] += 0.5
    np.savez_compressed(copy / "golden" / "golden.npz", **arrays)
    assert main(["verify", str(copy)]) == 1
    told = capsys.readouterr().out
    assert [line.partition(":")[0][-6:] for line in told.splitlines()[:-2]] == ["03.png"]
    assert "its square by 2 steps of 255" in told
    assert "1 of 16 golden images drifted" in told
    assert "Logits differ by up to 0.5; squares by up to 2 of 255" in told
    assert headstart.verify(copy).largest_difference < 1e-5


def write_csv(path, folder, *, change=None):
    golden = read_golden(folder, headstart.load(folder).class_names)
    names = list(headstart.load(folder).class_names)
    rows = [{"file": f"C:\\images\\{file.name}"} for file in golden.files]
    for row, probabilities in zip(rows, golden.probabilities.tolist(), strict=True):
        row |= {f"p_{name}": value for name, value in zip(names, probabilities, strict=True)}
    if change:
        change(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_predictions_of_another_runtime_are_checked(copy, tmp_path, capsys, monkeypatch):
    same = write_csv(tmp_path / "same.csv", copy, change=lambda rows: rows.reverse())
    with monkeypatch.context() as patch:
        patch.setattr("headstart.deployment.verify.load", lambda *_, **__: pytest.fail("the export itself was run"))
        assert headstart.verify(copy, predictions=same).largest_difference < 1e-6

    def disturb(rows):
        rows[2]["p_cat"] += 0.2

    other = write_csv(tmp_path / "other.csv", copy, change=disturb)
    assert main(["verify", str(copy), "--answers", str(other)]) == 1
    assert "02.png" in capsys.readouterr().out
    assert main(["verify", str(copy), "--answers", str(other), "--tolerance", "0.3"]) == 0


def test_what_predict_writes_can_be_checked(copy, tmp_path):
    out = tmp_path / "answers.csv"
    assert main(["predict", str(copy), str(copy / "golden"), "--out", str(out)]) == 0
    assert headstart.verify(copy, predictions=out).ok


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows.pop(), "15.png"),
        (lambda rows: [row.pop("p_cat") for row in rows], "p_cat"),
        (lambda rows: rows[0].update(p_dog="often"), "often"),
        (lambda rows: rows[0].update(p_dog="nan"), "finite"),
    ],
)
def test_a_table_that_lacks_something_is_refused(copy, tmp_path, change, words):
    path = write_csv(tmp_path / "some.csv", copy, change=change)
    with pytest.raises(InputError, match=words):
        headstart.verify(copy, predictions=path)


def test_golden_predictions_that_are_damaged_are_refused(unnamed, tmp_path):
    copy, place = unnamed, unnamed / "golden"
    for name in ("golden.json", "golden.npz", "04.png"):
        content = (place / name).read_bytes()
        for part in (content[:-9], b"", None):
            if part is None:
                (place / name).unlink()
            else:
                (place / name).write_bytes(part)
            with pytest.raises(BundleError, match="golden"):
                headstart.verify(copy)
        (place / name).write_bytes(content)
    with pytest.raises(BundleError, match="holds no export"):
        headstart.verify(tmp_path)
    with pytest.raises(InputError, match="--tolerance 2"):
        headstart.verify(copy, tolerance=2)
    assert main(["verify", str(tmp_path / "nowhere")]) == 2


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("logits", np.full((16, 10), "x"), "float32"),
        ("logits", np.full((16, 10), np.nan, np.float32), "not finite"),
        ("square_03", np.zeros((1000, 1000, 3), np.uint8), "larger than those of any export"),
        ("square_03", b"no array", "damaged"),
    ],
)
def test_golden_arrays_of_another_kind_are_refused(unnamed, name, array, words, monkeypatch):
    monkeypatch.setattr("headstart.deployment.golden._LARGEST_FILE", 2_000_000)
    path = unnamed / "golden" / "golden.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    if isinstance(array, np.ndarray):
        np.savez_compressed(path, **(arrays | {name: array}))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{name}.npy", array)
    with pytest.raises(BundleError, match=words):
        headstart.verify(unnamed)


@pytest.mark.parametrize("name", ["golden/golden.json", "golden/golden.npz", "golden/04.png", "certificate.json"])
def test_devices_in_place_of_files_are_refused_at_once(copy, name):
    (copy / name).unlink()
    (copy / name).symlink_to("/dev/zero")
    with pytest.raises(BundleError, match="a pipe or a device"):
        headstart.verify(copy)


def test_a_certificate_that_names_other_files_is_told(copy, capsys):
    (copy / "measured" / "metrics.json").write_text("{}")
    with pytest.raises(BundleError, match=r"metrics\.json is not the file that certificate\.json names"):
        headstart.verify(copy)
    certificate = json.loads((copy / "certificate.json").read_text())
    (copy / "certificate.json").write_text(json.dumps(certificate | {"manifest_sha256": "0" * 64}))
    with pytest.raises(BundleError, match="certificate of another model"):
        headstart.verify(copy)
    (copy / "certificate.json").unlink()
    found = headstart.verify(copy)
    assert found.ok, "what an export needs to predict is complete without it"
    assert not found.certified
    assert main(["verify", str(copy)]) == 0
    assert "16 golden images as recorded, but the export has no certificate" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["golden.json", "golden.npz"])
def test_golden_predictions_that_are_not_those_of_the_certificate_are_told(copy, name):
    path, certificate = copy / "golden" / name, json.loads((copy / "certificate.json").read_text())
    with zipfile.ZipFile(path, "a") if name == "golden.npz" else path.open("a") as file:
        file.write("\n") if name == "golden.json" else file.writestr("more.npy", b"")
    with pytest.raises(BundleError, match=rf"{name} is not the file that certificate\.json names"):
        headstart.verify(copy)
    assert certificate.pop("golden_files").keys() == {"golden.json", "golden.npz"}
    (copy / "certificate.json").write_text(json.dumps(certificate))
    assert headstart.verify(copy).certified, "certificates of early versions name no golden files"


@pytest.mark.parametrize("tolerance", [1e9, 1, -0.1, True])
def test_a_tolerance_that_everything_passes_is_refused(unnamed, tolerance):
    content = json.loads((unnamed / "golden" / "golden.json").read_text())
    (unnamed / "golden" / "golden.json").write_text(json.dumps(content | {"tolerance": tolerance}))
    with pytest.raises(BundleError, match="golden is damaged: its tolerance is"):
        headstart.verify(unnamed)


def test_another_script_is_told_and_none_is_needed(copy):
    (copy / "predict.py").write_text("print('mine')")
    with pytest.raises(BundleError, match=r"predict\.py is not the file that certificate\.json names"):
        headstart.verify(copy)
    (copy / "predict.py").unlink()
    assert headstart.verify(copy).ok


def test_an_image_elsewhere_is_not_read(unnamed):
    copy = unnamed
    content = json.loads((copy / "golden" / "golden.json").read_text())
    content["images"][0]["file"] = "../../../etc/passwd"
    (copy / "golden" / "golden.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match="golden"):
        headstart.verify(copy)
