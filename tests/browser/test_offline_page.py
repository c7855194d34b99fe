"""A classifier as one HTML file in a real Chromium: opened from the disk, it answers as the export it was made of."""

import base64
import gzip
import io
import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from playwright.sync_api import expect

import headstart
from headstart.cli import main
from headstart.deployment import quantize
from headstart.deployment.golden import made_up_images, read_golden, write_golden
from headstart.errors import InputError
from headstart.server import offline
from headstart.server.offline import write_page
from made_run import restate

pytestmark = [pytest.mark.browser, pytest.mark.npm]
PREDICT = """async text => (await headstart.ask('/predict?top=10', {
  body: Uint8Array.from(atob(text), byte => byte.charCodeAt())})).predictions[0]"""


def as_text(file):
    return base64.b64encode(file.read_bytes()).decode()


@pytest.fixture(scope="module")
def pets(exported, once):
    """A folder with an export and its page, which tests leave as they are."""

    def make(folder):
        export = Path(shutil.copytree(exported, folder / "export"))
        shutil.rmtree(export / "golden")
        # Its classifier was never trained, and its temperature makes all probabilities alike.
        model = onnx.load(export / "model.onnx")
        *_, divide, softmax = model.graph.node
        assert (divide.op_type, softmax.op_type) == ("Div", "Softmax")
        (temperature,) = (part for part in model.graph.initializer if part.name == divide.input[1])
        temperature.CopyFrom(onnx.numpy_helper.from_array(np.float32(1), temperature.name))
        onnx.save(model, export / "model.onnx")
        restate(export, temperature=1.0)
        write_golden(export, made_up_images(), headstart.load(export), 1e-3)
        # Of two images that a browser decodes to the same pixels, one is sure and the other is not.
        first, _, third, *_ = read_golden(export, headstart.load(export).class_names).probabilities.max(axis=1)
        assert abs(first - third) > 0.005
        restate(export, abstention={"target": 0.9, "threshold": float(first + third) / 2, "answered": 9, "right": 9})
        assert main(["export", str(export), "--format", "html", "--out", str(folder / "pets.html")]) == 0

    return once("pets", make)


@pytest.fixture
def export(exported, tmp_path):
    return Path(shutil.copytree(exported, tmp_path / "export"))


@pytest.fixture
def visit(browse, pets):
    """Open the page from the disk and return it."""
    return browse((pets / "pets.html").as_uri())


def test_the_page_answers_as_the_export_without_a_server(visit, pets):
    classifier = headstart.load(pets / "export")
    golden = read_golden(pets / "export", classifier.class_names)
    expect(visit.get_by_role("heading", level=1)).to_have_text("Classify images with pets")
    visit.get_by_role("button", name="Check").click()
    expect(visit.locator("#checked")).to_contain_text("This browser answers as measured")
    checked = visit.evaluate("headstart.check()")
    assert checked["images"] == len(golden.files)
    assert checked["largest"] < 1e-4
    pair = (golden.files[0], golden.files[2])
    expected = classifier.predict(pair)
    assert sorted(expected.unsure.tolist()) == [False, True]
    visit.get_by_label("Choose images").set_input_files(pair)
    told = [f"{label} {100 * probability:.1f}%" for ((label, probability),) in expected.top(1)]
    expect(visit.locator(".card .verdict")).to_have_text(told)
    cards = visit.locator(".card").all_inner_texts()
    assert ["Not sure" in card for card in cards] == expected.unsure.tolist()
    # Decoded by the browser: transparency, palettes, 16 bits and EXIF's orientation among them.
    for file, wanted in zip(golden.files, golden.probabilities, strict=True):
        found = visit.evaluate(PREDICT, as_text(file))
        shares = dict(found["top"])
        own = [shares[name] for name in classifier.class_names]
        assert np.abs(np.array(own) - wanted).max() < 0.01, file.name
    # Of images whose pixels the browser does not change; this network's features hardly differ, so rounding shows.
    for place, file in enumerate(pair):
        found = visit.evaluate(PREDICT, as_text(file))
        assert found["novelty"] == pytest.approx(expected.novelty[place], rel=1e-2)
        assert (found["unfamiliar"], found["unsure"]) == (expected.unfamiliar[place], expected.unsure[place])
    wanted = classifier.predict(golden.files[0], evidence=True).evidence[0]
    found = visit.evaluate(PREDICT.replace("top=10", "top=10&evidence=true"), as_text(golden.files[0]))
    np.testing.assert_allclose(found["evidence"]["grid"], wanted, atol=0.02)
    visit.get_by_role("button", name="Evidence").first.click()
    expect(visit.locator(".why")).to_contain_text(f"evidence for {expected.labels[0]}")
    assert {url.partition(":")[0] for url in visit.requested} <= {"file", "blob", "data"}
    assert visit.problems == []


def test_a_webp_file_is_turned_as_its_exif_says(visit, pets):
    """Lossless, so that the browser decodes it to the pixels that headstart sees."""
    ramp = np.linspace(0, 255, 200 * 280 * 3).reshape(200, 280, 3).astype(np.uint8)
    ramp[20:80, 40:100] = (250, 20, 60)
    classifier = headstart.load(pets / "export")
    for turn in range(1, 9):
        file, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = turn
        Image.fromarray(ramp).save(file, "WEBP", lossless=True, method=0, exif=exif)
        wanted = classifier.predict(Image.open(file)).probabilities[0]
        told = dict(visit.evaluate(PREDICT, base64.b64encode(file.getvalue()).decode())["top"])
        own = [told[name] for name in classifier.class_names]
        np.testing.assert_allclose(own, wanted, atol=5e-4, err_msg=f"orientation {turn}")


def test_what_is_no_image_is_said(visit, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    visit.get_by_label("Choose images").set_input_files(tmp_path / "notes.txt")
    expect(visit.locator(".card .doubt")).to_have_text("It is no image that this browser can read.")


def test_a_runtime_that_is_another_one_is_refused(exported, tmp_path, own_home, monkeypatch):
    with tarfile.open(tmp_path / "runtime.tgz", "w:gz") as archive:
        for name in offline.RUNTIME_FILES:
            archive.addfile(tarfile.TarInfo(f"package/dist/{name}"))
    monkeypatch.setattr(offline, "fetch_package", lambda *_, **__: tmp_path / "runtime.tgz")
    with pytest.raises(InputError, match=r"does not hold the ort\.wasm\.bundle\.min\.mjs that headstart knows"):
        write_page(exported, tmp_path / "page.html", progress=False)
    assert not (tmp_path / "page.html").exists()
    assert not list((own_home / "runtime").rglob("*.mjs"))


def test_names_of_classes_can_not_end_the_data(export, tmp_path):
    golden = json.loads((export / "golden" / "golden.json").read_text())
    golden["class_names"][0] = "</script><script>alert(1)</script>"
    restate(export, label_names=golden["class_names"])
    (export / "golden" / "golden.json").write_text(json.dumps(golden))
    page = write_page(export, tmp_path / "page.html", runtime={"runtime": b""}, progress=False)
    assert "<script>alert" not in page.read_text()


def test_the_page_of_a_run_computes_with_integers(browse, built, measured, sample, tmp_path, monkeypatch, capsys):
    """What it could cost is a matter of chance for a network that was never trained."""
    monkeypatch.setattr("headstart.evaluation.certify._SECONDS", 0.01)
    monkeypatch.setattr(quantize, "METHODS", {"minmax": quantize.METHODS["minmax"]})
    monkeypatch.setattr("headstart.workflows.export._VALIDATED", 20)
    monkeypatch.setattr("headstart.workflows.export.CALIBRATION_IMAGES", 32)
    read, whole = [], offline.runtime_file
    monkeypatch.setattr(offline, "runtime_file", lambda name, terminal: read.append(name) or whole(name, terminal))
    run = shutil.copytree(measured.path, tmp_path / "run")
    (run / "report.html").write_text("<!-- exports --><!-- /exports -->")
    before = set(run.iterdir())
    page = run / "tiny.html"
    words = ["--format", "html", "--out", str(page), "--force", "--json", "--quiet"]
    assert main(["export", str(run), *words]) == 0
    assert read == list(offline.RUNTIME_FILES), "each is read and hashed once"
    certificate = json.loads(capsys.readouterr().out)["certificate"]
    assert (certificate["precision"], certificate["test"]["n"]) == ("int8", 100)
    # A run that is worked on has a lock and a folder for checkpoints.
    assert set(run.iterdir()) - before - {run / ".lock", run / "checkpoints"} == {page}
    assert 'href="tiny.html"' in (run / "report.html").read_text()
    packed = page.read_text().partition('id="packed-model">')[2].partition("<")[0]
    graph = onnx.load_from_string(gzip.decompress(base64.b64decode(packed))).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["DequantizeLinear"] > 20
    shown = browse(page.as_uri())
    shown.get_by_role("button", name="Check").click()
    expect(shown.locator("#checked")).to_contain_text("This browser answers as measured")
    image = io.BytesIO()
    Image.fromarray(sample.sealed_test._subset.source.array[0]).save(image, "PNG")
    text = base64.b64encode(image.getvalue()).decode()
    found = dict(shown.evaluate(PREDICT, text)["top"])
    wanted = dict(headstart.load(measured.model).predict(Image.open(image)).top(10)[0])
    assert found == pytest.approx(wanted, abs=0.15)
    assert shown.problems == []
