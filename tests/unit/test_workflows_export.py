"""An export answers like its run, says so in its certificate, and is there whole or not at all."""

import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import headstart
from headstart.bundle.exported import description, read_export
from headstart.bundle.folder import load_bundle, save_bundle
from headstart.cli import main
from headstart.cli.export import _text as told
from headstart.contracts import ClassNames
from headstart.data.decode import FORMATS
from headstart.deployment.graph import WholeClassifier
from headstart.deployment.localize import first_difference
from headstart.errors import BundleError, HeadstartError, LossyExportError, RunError
from headstart.evaluation import certify
from headstart.files import file_sha256
from headstart.inference.images import square_of
from headstart.inference.predictor import load
from headstart.inference.program_session import plain_archive, with_description
from headstart.report.certificate_page import write_certificate
from headstart.workflows import export as room
from headstart.workflows.export import Exported, ExportOptions
from made_run import PREPROCESS, random_bundle

NAMES = ClassNames(("cat", "dog", "bird"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(certify, "_SECONDS", 0.01)


@pytest.fixture
def certificate(exported):
    return json.loads((exported / "certificate.json").read_text())


def test_the_export_answers_like_the_bundle_with_all_its_doubts(exported, measured, sample):
    images = sample.sealed_test._subset.source.array
    sizes = [images[0], images[1][:20, :31], np.repeat(np.repeat(images[2], 5, 0), 4, 1), images[3][:1, :1]]
    ours, theirs = load(exported), load(measured.model)
    for batch in (images, sizes):
        found, expected = ours.predict(batch), theirs.predict(batch)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
        # The features of a network that was never trained lie so close together that rounding shows.
        np.testing.assert_allclose(found.novelty, expected.novelty, atol=0.1)
        assert found.unsure.tolist() == expected.unsure.tolist()
        clear = np.abs(expected.novelty - theirs.artifact.novelty_threshold) > 0.1
        assert found.unfamiliar[clear].tolist() == expected.unfamiliar[clear].tolist()
    assert found.class_names == sample.class_names


def test_the_certificate_has_the_figures_of_the_run(certificate, measured):
    stated, test = measured.metrics().test, certificate["test"]
    assert certificate["verdict"] == "identical"
    assert test["n"] == 100
    assert test["export"]["accuracy"] == test["original"]["accuracy"] == stated.accuracy
    assert test["export"]["ece_calibrated"] == pytest.approx(stated.ece_calibrated, abs=1e-5)
    assert test["agreement"]["changed"] == 0
    assert test["agreement"]["largest_difference"] < 1e-5
    assert test["mcnemar"]["p_value"] == 1
    assert [row["batch"] for row in certificate["speed"]] == [1, 16]
    assert certificate["bytes"]["export"] > 100_000
    assert certificate["golden"]["n"] == 16


def test_the_opening_of_the_test_split_is_logged(exported, measured):
    assert exported.is_dir()
    commands = [opening.command for opening in measured.environment().test_openings]
    assert any(command.startswith("headstart export") for command in commands)


def test_the_page_says_what_the_certificate_says(exported, certificate):
    page = (exported / "certificate.html").read_text()
    assert "every one of the 100 test images" in page
    assert certificate["files"]["model.onnx"] in page
    assert "script" not in page


@pytest.mark.parametrize(("others", "busy"), [(1.1, True), (0.9, False)])
def test_the_page_says_whether_other_programs_kept_the_machine_busy(others, busy, certificate, tmp_path):
    certificate["surroundings"]["hardware"]["cores"] = 4
    certificate["speed"][1]["others"], certificate["speed"][0]["others"] = others, 0.0
    page = write_certificate(tmp_path, certificate).read_text()
    assert ("they used 1.1 of its 4 cores" in page) is busy


def test_the_command_prints_the_figures(certificate, capsys, exported, measured):
    text = told(certificate, exported)
    assert "0 of 100 predictions differ" in text
    assert f"{certificate['test']['export']['accuracy']:.2%}" in text
    assert "certificate.html" in text
    assert "Not measured" in told(certificate | {"test": None}, exported)
    assert main(["export", str(exported), "--out", "x", "--json"]) == 2
    assert "already" in json.loads(capsys.readouterr().out)["error"]


def test_nothing_in_the_export_names_this_machine(exported):
    for path in exported.rglob("*"):
        if path.is_file() and path.suffix in {".onnx", ".json", ".html"}:
            content = path.read_bytes()
            assert str(Path.home()).encode() + b"/" not in content
            assert str(Path(headstart.__file__).parent).encode() not in content
            assert b"site-packages" not in content


def test_the_graph_is_plain_onnx_and_describes_itself(exported):
    model = onnx.load(exported / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    config = read_export(exported)
    assert {node.domain for node in model.graph.node} == {""}
    assert [(entry.domain, entry.version) for entry in model.opset_import if not entry.domain] == [("", config.opset)]
    told = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert told["headstart.label_names"] == config.label_names
    assert told["headstart.image"]["side"] == 44
    assert told["headstart.licences"] == {"weights": "apache-2.0"}
    assert config.bundle_sha256.keys() == {"model.safetensors", "config.json"}


PREDICT = """
import sys
import headstart
found = headstart.load("export").predict(sys.argv[1:])
from headstart.cli import main
assert main(["predict", "export", *sys.argv[1:], "--json"]) == 0
assert not {"torch", "timm", "scipy", "onnxscript"} & set(sys.modules), sorted(sys.modules)
"""


def test_predicting_with_an_export_needs_no_torch(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "export")
    command = [sys.executable, "-c", PREDICT, "export/golden/00.png", "export/golden/15.png"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["predictions"]) == 2


def test_the_script_names_what_it_can_not_read_and_goes_on(exported, tmp_path, capsys):
    copy = shutil.copytree(exported, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["abstention"]["threshold"] = 0.0
    (copy / "config.json").write_text(json.dumps(config))
    script = runpy.run_path(str(copy / "predict.py"))
    assert script["FORMATS"] == FORMATS
    kinds = {"a.eps": "RGB", "b.tif": "F", "c.tif": "LAB", "d.png": "RGB"}
    for name, mode in kinds.items():
        Image.new(mode, (50, 40)).save(tmp_path / name)
    (tmp_path / "d.png").write_bytes((tmp_path / "d.png").read_bytes()[:60])
    good = next((exported / "golden").glob("*.png"))
    with warnings.catch_warnings():
        assert script["main"]([*(str(tmp_path / name) for name in [*kinds, "gone.png", "."]), str(good)]) == 1
    printed = capsys.readouterr()
    assert [line.partition(": ")[0] for line in printed.err.splitlines()] == [
        str(tmp_path / name) for name in [*kinds, "gone.png", "."]
    ]
    assert "name image files" in printed.err.splitlines()[-1]
    assert printed.out.startswith(f"{good}\t")
    assert "unsure" not in printed.out
    assert script["main"]([]) == 2
    assert "IMAGE" in capsys.readouterr().err


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_the_script_prepares_images_as_headstart_does(fit, exported, photos, tmp_path):
    script = runpy.run_path(str(exported / "predict.py"))
    rule = PREPROCESS.resized(36)
    rule = type(rule)(rule.size, rule.mean, rule.std, "bicubic", 0.9, fit)
    stated = {"side": rule.side, "interpolation": "bicubic", "fit": fit, "mean": rule.mean}
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGBA", (60, 40), (200, 0, 0, 100)).save(tmp_path / "turned.png", exif=turned)
    Image.effect_noise((60, 40), 50).convert("CMYK").save(tmp_path / "adobe.jpg")
    content = (tmp_path / "adobe.jpg").read_bytes()
    mark = content.index(b"\xff\xee")  # 16 bytes that say "Adobe", without which colours are not inverted
    (tmp_path / "cmyk.jpg").write_bytes(content[:mark] + content[mark + 16 :])
    odd = [tmp_path / "turned.png", tmp_path / "adobe.jpg", tmp_path / "cmyk.jpg"]
    for path in [*odd, *sorted((exported / "golden").glob("*.[pj][np]g")), *sorted(photos.rglob("*.jpg"))[:4]]:
        with Image.open(path) as image:
            np.testing.assert_array_equal(script["square"](image, stated), square_of(path, rule))


def test_a_bundle_alone_is_exported_without_test_figures(graph, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "to_onnx", lambda _: graph)
    save_bundle(random_bundle(NAMES, flip=False), tmp_path / "model")
    (tmp_path / "behind").mkdir()
    (tmp_path / "export").symlink_to("behind")
    made = headstart.export(tmp_path / "model", out=tmp_path / "export", progress=False)
    assert (tmp_path / "export").is_symlink(), "the folder that a link leads to is replaced"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["behind", "export", "model"]
    assert made["test"] is None
    assert made["verdict"] == "not measured on the test set"
    assert made["golden"]["images_are"] == "made up"
    image = np.random.default_rng(0).integers(0, 256, (50, 30, 3), dtype=np.uint8)
    ours, theirs = (load(tmp_path / name).predict(image) for name in ("export", "model"))
    np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)
    assert ours.novelty is ours.unsure is None


def test_an_export_that_answers_differently_is_refused_and_leaves_nothing(graph, tmp_path, monkeypatch):
    """One weight in the middle of the graph is another one; the message names its layer."""
    save_bundle(random_bundle(NAMES, flip=False), tmp_path / "model")
    built = {}

    def damaged(_):
        model = onnx.ModelProto.FromString(graph.SerializeToString())
        node = next(n for n in model.graph.node if n.name.startswith("blocks.2.0") and n.op_type == "Conv")
        built["layer"] = node.name.partition("#")[0]
        weights = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
        weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) * 1.5, weights.name))
        return model

    monkeypatch.setattr(room, "to_onnx", damaged)
    with pytest.raises(HeadstartError, match=r"does not answer like the original.*first layer that differs") as caught:
        headstart.export(tmp_path / "model", out=tmp_path / "export", progress=False)
    assert f"first layer that differs is {built['layer']}:" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_one_test_image_with_another_class_is_enough_to_refuse_an_export(built, measured, tmp_path, monkeypatch):
    """And the figures of the exported file are those of the probabilities that it gives."""
    real, certified, kept = certify.outputs_of_images, room.certify, []

    def with_one_turned_over(predictors, split, progress=None):
        first, *others = real(predictors, split, progress)
        for exported in others:
            exported.probabilities[7] = exported.probabilities[7, ::-1].copy()
        return first, *others

    monkeypatch.setattr(certify, "outputs_of_images", with_one_turned_over)
    monkeypatch.setattr(room, "certify", lambda *given, **more: kept.append(certified(*given, **more)) or kept[0])
    with pytest.raises(HeadstartError, match=r"of 100 images 1 get another class.*Nothing was exported"):
        headstart.export(measured.path, out=tmp_path / "x", progress=False)
    assert list(tmp_path.iterdir()) == []
    found, changed = kept[0].predictions, np.array(measured.metrics().test.confusion_matrix)
    label, now = found.labels[7], found.predictions.indices[7]
    changed[label, 9 - now] -= 1
    changed[label, now] += 1
    assert kept[0].metrics.test.confusion_matrix == changed.tolist()


def test_ranges_of_integers_come_from_training_images_and_choices_from_validation(
    built, measured, sample, tmp_path, monkeypatch
):
    seen = {}
    monkeypatch.setattr(room, "divergence_from", lambda _, squares, **__: seen.update(val=squares))

    def quantize(graph, squares, divergence, **_):
        seen.update(train=squares)
        raise HeadstartError("that is all")

    monkeypatch.setattr(room, "quantize", quantize)
    with pytest.raises(HeadstartError, match="that is all"):
        headstart.export(measured.path, out=tmp_path / "x", options=ExportOptions(int8=True), progress=False)
    found = {name: {square.tobytes() for square in squares} for name, squares in seen.items()}
    manifest = measured.manifest()
    splits = [manifest.select(sample.train, "train"), manifest.select(sample.train, "val"), sample.sealed_test._subset]
    # Images of 32 pixels are their own squares.
    train, val, test = ({split.image(place).tobytes() for place in range(len(split))} for split in splits)
    assert found["val"] == val
    assert len(found["train"]) == room.CALIBRATION_IMAGES
    assert found["train"] <= train
    assert not (found["train"] | found["val"]) & test


def test_a_graph_that_agrees_has_no_layer_that_differs(plain_classifier, graph):
    squares = np.random.default_rng(0).integers(0, 256, (2, 30, 30, 3), dtype=np.uint8)
    assert "No layer differs" in first_difference(plain_classifier, graph, squares)


def test_agreement_counts_what_changed_and_what_was_a_tie():
    class Stub:
        artifact = None

        def __init__(self, *rows):
            self.rows = np.array(rows, np.float32)

        def judged(self, _):
            return headstart.Predictions(self.rows, NAMES)

    first = Stub((0.40001, 0.39999, 0.2), (0.6, 0.3, 0.1), (0.1, 0.2, 0.7))
    second = Stub((0.39999, 0.40001, 0.2), (0.3, 0.6, 0.1), (0.1, 0.2, 0.7))
    outputs = certify.Outputs(np.zeros((3, 3), np.float32))
    found = certify.agreement((outputs, first), (outputs, second))
    assert (found.changed, found.ties, found.is_rounding) == (2, 1, False)
    assert found.largest_difference == pytest.approx(0.3)
    same = certify.agreement((outputs, first), (outputs, first))
    assert same.is_rounding


def test_sixteen_images_that_are_timed_are_one_batch():
    seen = set()

    class Stub:
        def outputs_of(self, squares):
            seen.add(tuple(map(len, squares)))

    squares = [np.zeros((side, side, 3), np.uint8) for side in (8, 9, 9, 7)]
    rows = certify.images_per_second(certify.Pair(Stub(), Stub()), squares)
    assert [row["batch"] for row in rows] == [1, 16]
    assert seen == {(9,), (9,) * 16}


def test_what_can_not_be_exported_is_refused_before_anything_is_done(exported, measured, tmp_path, monkeypatch):
    with pytest.raises(BundleError, match="is an export already"):
        headstart.export(exported, out=tmp_path / "again")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"taken exists and is no export"):
        headstart.export(measured.path, out=tmp_path / "taken")
    with pytest.raises(RunError, match=r"exists and is no export"):
        headstart.export(measured.path, out=measured.path)
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(RunError, match="link is a link that leads nowhere"):
        headstart.export(measured.path, out=tmp_path / "link")
    with pytest.raises(RunError, match=r"/proc is where a disk is mounted.*--out /proc/export"):
        headstart.export(measured.path, out="/proc")
    (tmp_path / "here" / "golden").mkdir(parents=True)
    for inside, out in (("here/golden", "."), ("here", tmp_path / "here" / "golden" / ".."), ("here/golden", "..")):
        monkeypatch.chdir(tmp_path / inside)
        with pytest.raises(RunError, match=r"is the folder that you work in, or holds it.*--out"):
            headstart.export(measured.path, out=out)
    assert (tmp_path / "here" / "golden").is_dir()
    with pytest.raises(BundleError, match="nowhere does not exist"):
        headstart.export(tmp_path / "nowhere", out=tmp_path / "x")
    sealed = shutil.copytree(measured.path, tmp_path / "sealed")
    (sealed / "metrics.json").unlink()
    with pytest.raises(RunError, match="not measured yet"):
        headstart.export(sealed, out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_changed_bundle_does_not_share_memory_with_what_was_exported(measured):
    bundle = load_bundle(measured.model)
    before = {name: tensor.clone() for name, tensor in bundle.module.state_dict().items()}
    WholeClassifier(bundle)
    assert all(torch.equal(tensor, before[name]) for name, tensor in bundle.module.state_dict().items())


def test_a_program_is_certified_like_a_graph(measured, sample, tmp_path, capsys):
    run = shutil.copytree(measured.path, tmp_path / "run")
    folder = run / "program"
    (run / "report.html").write_text("<!-- exports --><!-- /exports -->")
    assert main(["export", str(run), "--out", str(folder), "--format", "exported-program", "--json"]) == 0
    certificate = json.loads(capsys.readouterr().out)
    stated = {key: certificate[key] for key in ("verdict", "precision", "runtime")}
    assert stated == {"verdict": "identical", "precision": "fp32", "runtime": "torch"}
    assert '<a href="program/certificate.html">' in (run / "report.html").read_text()
    assert certificate["test"]["agreement"]["changed"] == 0
    assert set(certificate["files"]) == {"model.pt2", "novelty.safetensors"}
    assert not (folder / "model.onnx").exists()
    images = sample.sealed_test._subset.source.array
    found, expected = load(folder).predict(images), load(measured.model).predict(images)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
    assert found.unfamiliar is not None
    assert headstart.verify(folder).ok
    alone = runpy.run_path(str(folder / "predict.py"))["classifier"](read_export(folder).model_dump())
    np.testing.assert_allclose(alone(images[:3]), expected.probabilities[:3], atol=1e-5)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"label_names": config["label_names"][::-1]}))
    with pytest.raises(BundleError, match=r"config\.json and model\.pt2 differ in label_names"):
        load(folder)
    # Now all of it says that there is a class more than the program computes.
    (folder / "config.json").write_text(json.dumps(config | {"label_names": [*config["label_names"], "more"]}))
    content = plain_archive((folder / "model.pt2").read_bytes())
    content = with_description(content, description(read_export(folder)))
    (folder / "model.pt2").write_bytes(content)
    changed = json.loads((folder / "config.json").read_text())
    changed["files"]["model.pt2"] = file_sha256(folder / "model.pt2")
    (folder / "config.json").write_text(json.dumps(changed))
    with pytest.raises(BundleError, match=r"of shape \(1, 10\) for 1 squares and 11 classes"):
        load(folder)
    (folder / "model.pt2").write_bytes(b"x")
    with pytest.raises(BundleError, match="is not the file that"):
        load(folder)


@pytest.mark.parametrize(
    "ignored", ["--int8", "--bf16", "--openvino", "--force", "--tolerance 0", "--threads 1", "--data-dir x"]
)
def test_a_page_refuses_options_that_would_mean_nothing(ignored, exported, tmp_path, capsys):
    place = tmp_path / "page.html"
    assert main(["export", str(exported), "--format", "html", "--out", str(place), *ignored.split()]) == 2
    assert ignored.split()[0] in capsys.readouterr().err
    assert not place.exists()


@pytest.mark.parametrize("words", [["--openvino"], ["--bf16", "--openvino"], []])
def test_a_page_of_a_run_is_refused_before_the_run_is_measured_again(words, measured, tmp_path, capsys):
    opened = len(measured.environment().test_openings)
    place = tmp_path / "page.html" if words else tmp_path
    assert main(["export", str(measured.path), "--format", "html", "--out", str(place), *words]) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in words or ["is a folder", "classifier.html"])
    assert len(measured.environment().test_openings) == opened
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("asked", [[], ["--int8"]])
def test_a_page_computes_in_float32_where_integers_could_cost_accuracy(
    asked, measured, exported, tmp_path, monkeypatch, capsys
):
    def export(model, *, out, options, **_):
        if options.int8 and not options.fall_back:
            raise LossyExportError("The export in int8 could cost too much.", "-0.50 points on 100 test images")
        return Exported(out, json.loads((shutil.copytree(exported, out) / "certificate.json").read_text()))

    monkeypatch.setattr(room, "export", export)
    monkeypatch.setattr("headstart.server.offline.runtime_file", lambda *_: b"")
    page = tmp_path / "page.html"
    status = main(["export", str(measured.path), "--format", "html", "--out", str(page), *asked])
    told = capsys.readouterr()
    if asked:
        assert (status, page.exists(), "could cost too much" in told.err) == (1, False, True)
    else:
        assert (status, "Page  " in told.out) == (0, True)


def test_a_page_replaces_no_other_file(exported, tmp_path, capsys):
    copy = shutil.copytree(exported, tmp_path / "copy")
    model = (copy / "model.onnx").read_bytes()
    os.mkfifo(tmp_path / "pipe")
    for place in (copy / "model.onnx", tmp_path / "pipe"):
        assert main(["export", str(copy), "--format", "html", "--out", str(place)]) == 2
        assert "exists and is no page of an export" in capsys.readouterr().err
    assert main(["export", str(copy), "--format", "html", "--out", str(copy)]) == 2
    assert f"--out {copy}.html" in capsys.readouterr().err
    assert main(["export", str(copy), "--format", "html", "--out", str(tmp_path / f"{'x' * 300}.html")]) == 2
    assert "can't be written: File name too long" in capsys.readouterr().err
    assert (copy / "model.onnx").read_bytes() == model


def test_the_script_says_what_it_does(exported, capsys):
    assert runpy.run_path(str(exported / "predict.py"))["main"](["--help"]) == 0
    assert "python predict.py IMAGE..." in capsys.readouterr().out


def test_the_script_escapes_names_that_its_output_can_not_show(exported, tmp_path, monkeypatch):
    image = shutil.copy(next((exported / "golden").glob("*.png")), tmp_path / "schön.png")
    out = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.argv", ["predict.py", str(image)])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
        runpy.run_path(str(exported / "predict.py"), run_name="__main__")
    assert ended.value.code == 0
    assert b"sch\\xf6n.png\t" in out.buffer.getvalue()


@pytest.mark.parametrize("gone", [False, True])
def test_the_script_ends_in_words_when_nobody_takes_its_lines(exported, gone):
    image = next((exported / "golden").glob("*.png"))
    reading, writing = os.pipe() if gone else (None, os.open("/dev/full", os.O_WRONLY))
    if reading is not None:
        os.close(reading)
    command = [sys.executable, exported / "predict.py", image]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=300)
    os.close(writing)
    assert done.returncode == 1
    assert re.fullmatch(r"predict\.py: .*(Broken pipe|No space left on device)\n", done.stderr)


def test_an_export_that_was_moved_aside_when_a_later_one_was_killed_is_put_back(exported, tmp_path):
    shutil.copytree(exported, tmp_path / ".mine-01234567.old")
    assert load(tmp_path / "mine").class_names
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
