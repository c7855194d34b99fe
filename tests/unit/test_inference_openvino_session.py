"""OpenVINO runs the graph of an export as it was certified, or says what is missing."""

import json
import runpy
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from openvino import Core

import headstart
from headstart.bundle.exported import read_export
from headstart.cli import main
from headstart.errors import BundleError, InputError
from headstart.inference.openvino_session import OpenVinoSession
from headstart.inference.predictor import load
from headstart.workflows.export import ExportOptions
from made_run import restate


@pytest.fixture
def for_openvino(exported, tmp_path):
    """A copy of an export whose configuration names OpenVINO, in float32."""
    copy = shutil.copytree(exported, tmp_path / "export")
    restate(copy, runtime="openvino")
    return copy


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 30, 30, 3), dtype=np.uint8)


def test_it_answers_like_onnx_runtime(for_openvino, exported, images):
    ours, theirs = load(for_openvino, threads=1), load(exported, threads=1)
    for some in (images, images[:1, :7, :7], np.repeat(np.repeat(images, 2, 1), 2, 2)):
        found, expected = (p.outputs(some, features=True, evidence=True) for p in (ours, theirs))
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)
        np.testing.assert_allclose(found.features, expected.features, atol=1e-3)
        np.testing.assert_allclose(found.evidence, expected.evidence, atol=1e-3)
    assert headstart.verify(for_openvino).ok
    alone = runpy.run_path(str(for_openvino / "predict.py"))["classifier"](read_export(for_openvino).model_dump())
    np.testing.assert_allclose(alone(images), ours.outputs(images).probabilities, atol=1e-5)


def test_threads_can_share_it(for_openvino, images):
    predictor = load(for_openvino, threads=1)
    alone = [predictor.outputs(image[None]).logits for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda number: predictor.outputs(images[number % 5][None]).logits, range(40)))
    for number, logits in enumerate(together):
        np.testing.assert_array_equal(logits, alone[number % 5])


def test_a_batch_is_computed_in_halves_that_give_the_same_bits(for_openvino, images, monkeypatch):
    expected, predictor = load(for_openvino, threads=1).outputs(images), load(for_openvino, threads=2)
    infer, seen = OpenVinoSession._infer, []
    monkeypatch.setattr(OpenVinoSession, "_infer", lambda *given: (seen.append(len(given[2])), infer(*given))[1])
    for some in (images, images[:1]):
        found = predictor.outputs(some)
        np.testing.assert_array_equal(found.probabilities, expected.probabilities[: len(some)])
    assert sorted(seen) == [1, 2, 3]


def test_bfloat16_differs_by_a_little_where_the_processor_has_it(for_openvino, images, monkeypatch):
    expected = load(for_openvino, threads=1).outputs(images).probabilities
    restate(for_openvino, precision="bf16")
    if "BF16" in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        found = load(for_openvino, threads=1).outputs(images).probabilities
        assert 1e-6 < np.abs(found - expected).max() < 0.1
    monkeypatch.setattr(Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(InputError, match="no instructions for bfloat16"):
        load(for_openvino)


def test_what_is_missing_is_said_before_anything_is_done(for_openvino, measured, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match=r"pip install 'headstart\[openvino\]'"):
        load(for_openvino)
    assert main(["export", str(measured.path), "--out", str(tmp_path / "x"), "--openvino"]) == 2
    assert "headstart[openvino]" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_graph_that_it_can_not_read_is_an_error(tmp_path):
    with pytest.raises(BundleError, match=r"model\.onnx can't be run by OpenVINO"):
        OpenVinoSession(b"no graph", tmp_path / "model.onnx", precision="fp32", threads=1)


def test_only_the_processor_runs_it(for_openvino):
    with pytest.raises(InputError, match="--device cuda"):
        load(for_openvino, device="cuda")


def test_no_page_is_made_of_it(for_openvino, tmp_path, capsys):
    assert main(["export", str(for_openvino), "--format", "html", "--out", str(tmp_path / "page.html")]) == 2
    assert "was certified on openvino" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bf16": True}, "--bf16 needs --openvino"),
        ({"bf16": True, "int8": True, "openvino": True}, "one of them"),
        ({"program": True, "openvino": True}, "exported-program"),
        ({"program": True, "int8": True}, "exported-program"),
        ({"openvino": True, "force": True}, "--int8 and --bf16"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        ExportOptions(**options)


def test_an_export_in_bfloat16_is_certified_by_what_it_costs(built, measured, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("headstart.evaluation.certify._SECONDS", 0.01)
    run = shutil.copytree(measured.path, tmp_path / "run")
    arguments = ["export", str(run), "--out", str(tmp_path / "x"), "--openvino", "--bf16", "--tolerance", "30"]
    if "BF16" not in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert main(arguments) == 2
        return
    assert main([*arguments, "--json"]) == 0
    certificate = json.loads(capsys.readouterr().out)
    kept = {key: certificate[key] for key in ("verdict", "precision", "runtime", "quantization", "tolerance")}
    assert kept == {
        "verdict": "within tolerance",
        "precision": "bf16",
        "runtime": "openvino",
        "quantization": None,
        "tolerance": {"points": 30},
    }
    assert "openvino" in certificate["surroundings"]["versions"]
    assert headstart.verify(tmp_path / "x").ok
    assert "OpenVINO" in (tmp_path / "x" / "certificate.html").read_text()


def test_the_core_outlives_every_classifier_since_ctrl_c_would_crash_without_it(for_openvino):
    first, second = (load(for_openvino, threads=1).artifact._session._core for _ in range(2))
    assert first is second
