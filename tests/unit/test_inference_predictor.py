"""Predictor: every kind of input gives the same answer; bad files are told and do not stop the others."""

import dataclasses
import gc
import json
import os
import pickle
import struct
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import headstart
import warm
from headstart.bundle.folder import save_bundle
from headstart.bundle.schema import Abstention
from headstart.compute.memory import peak_memory_mb
from headstart.contracts import ClassNames
from headstart.data.preprocess import Preprocess
from headstart.data.sources.memory import ArraySource
from headstart.data.subset import Subset
from headstart.data.working_copy import working_copy
from headstart.errors import BundleError, InputError
from headstart.inference import workers
from headstart.inference.artifact import Outputs
from headstart.inference.judge import FilePrediction
from headstart.inference.predictor import Predictor, load
from headstart.inference.torch_artifact import TorchArtifact
from headstart.inference.workers import Workers
from headstart.models.heads import head_of
from made_run import random_bundle

NAMES = ClassNames(("cat", "dog", "bird", "frog"))
PREPROCESS = Preprocess(48, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bicubic", 0.9)


def make_bundle(architecture="test_efficientnet", **changes):
    """A classifier whose batch norms and head do something, so that answers differ between pictures."""
    values = {"preprocess": PREPROCESS, "dataset": "animals", "temperature": 1.7, "weights": {}}
    return random_bundle(NAMES, architecture, **(values | changes))


@pytest.fixture(scope="module")
def bundle():
    return make_bundle()


@pytest.fixture(scope="module")
def predictor(bundle):
    return Predictor(TorchArtifact(bundle, device="cpu"))


@pytest.fixture(scope="module")
def images():
    """Ten smooth pictures of 40 x 56 pixels."""
    coarse = np.random.default_rng(5).integers(0, 256, (10, 5, 7, 3), dtype=np.uint8)
    return np.stack([np.array(Image.fromarray(image).resize((56, 40))) for image in coarse])


@pytest.fixture
def files(images, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def reference(bundle, images):
    """Logits by the plain network, without what makes the predictor fast."""
    with torch.inference_mode():
        inputs = bundle.preprocess.tensor(torch.from_numpy(bundle.preprocess.squares(np.asarray(images))))
        logits = bundle.module(inputs)
        if bundle.flip:
            logits = (logits + bundle.module(inputs.flip(3))) / 2
        return logits.numpy()


@pytest.mark.parametrize("architecture", ["test_efficientnet", "test_resnet", "test_convnext", "test_vit"])
@pytest.mark.parametrize("flip", [False, True])
def test_logits_are_those_of_the_plain_network(architecture, flip, images):
    bundle = make_bundle(architecture, flip=flip)
    logits = Predictor(TorchArtifact(bundle, device="cpu")).logits(images)
    assert logits.dtype == np.float32
    assert np.ptp(logits, axis=0).max() > 0.01, "pictures must be told apart for this test to mean anything"
    np.testing.assert_allclose(logits, reference(bundle, images), rtol=1e-4, atol=1e-4)


def test_the_bundle_stays_as_it_was(images):
    bundle = make_bundle()
    before = {name: tensor.clone() for name, tensor in bundle.module.state_dict().items()}
    Predictor(TorchArtifact(bundle, device="cpu")).logits(images)
    after = bundle.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_probabilities_are_calibrated(predictor, bundle, images):
    predictions = predictor.predict(images)
    expected = torch.softmax(torch.from_numpy(reference(bundle, images)).double() / 1.7, 1).numpy()
    assert predictions.probabilities.dtype == np.float32
    np.testing.assert_allclose(predictions.probabilities, expected, atol=1e-4)
    np.testing.assert_allclose(predictions.probabilities.sum(1), 1, atol=1e-6)
    assert predictions.labels == [NAMES[int(index)] for index in expected.argmax(1)]


def test_extreme_logits_give_finite_probabilities(images):
    bundle = make_bundle()
    with torch.no_grad():
        head_of(bundle.module).weight.mul_(1e6)
    probabilities = Predictor(TorchArtifact(bundle, device="cpu")).predict(images).probabilities
    assert np.isfinite(probabilities).all()


def test_every_kind_of_input_gives_the_same_answer(predictor, images, files):
    expected = predictor.predict(images).probabilities
    mixed = [files[0], str(files[1]), Image.open(files[2]), *images[3:]]
    kinds = [list(images), tuple(files), [str(path) for path in files], mixed, iter(files), (i for i in images)]
    for many in kinds:
        np.testing.assert_allclose(predictor.predict(many).probabilities, expected, atol=1e-5)
    for one in (files[4], str(files[4]), Image.open(files[4]), images[4], images[4][None], images[4][:, ::-1][:, ::-1]):
        np.testing.assert_allclose(predictor.predict(one).probabilities, expected[4:5], atol=1e-5)


def test_an_answer_does_not_depend_on_the_other_pictures(predictor, images, files):
    alone = np.concatenate([predictor.logits(image[None]) for image in images])
    for batch_size in (1, 3, 16):
        np.testing.assert_allclose(predictor.logits(images, batch_size=batch_size), alone, atol=1e-5, rtol=0)
    np.testing.assert_allclose(predictor.logits(images[::-1])[::-1], alone, atol=1e-5, rtol=0)
    expected = predictor.predict(images).probabilities
    others = [np.full((9, 90, 3), 255, np.uint8), np.zeros((64, 3, 3), np.uint8)]
    crowd = [picture for path in files for picture in (*others, path)]
    for batch_size in (1, 4, 64):
        answers = predictor.predict(crowd, batch_size=batch_size).probabilities[2::3]
        np.testing.assert_allclose(answers, expected, atol=1e-5, rtol=0)


def test_pictures_of_any_size_are_classified(predictor):
    generator = np.random.default_rng(0)
    sizes = [(1, 1), (1, 300), (300, 1), (48, 48), (700, 500), (48, 48)]
    pictures = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    answers = predictor.predict(pictures)
    alone = np.concatenate([predictor.predict(picture).probabilities for picture in pictures])
    np.testing.assert_allclose(answers.probabilities, alone, atol=1e-5)


def test_memory_mapped_images_are_read_batch_by_batch(predictor, images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    told = []
    logits = predictor.logits(mapped, batch_size=4, progress=lambda done, of: told.append((done, of)))
    np.testing.assert_allclose(logits, predictor.logits(images), atol=1e-5)
    assert told == [(4, 10), (8, 10), (10, 10)]


def test_read_only_arrays_give_no_warning(predictor, images):
    frozen = images.copy()
    frozen.flags.writeable = False
    assert len(predictor.predict(list(frozen))) == len(images)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ([], "no image"),
        (iter(()), "no image"),
        (np.zeros((0, 8, 8, 3), np.uint8), "n at least 1"),
        (np.zeros((8, 8), np.uint8), r"shape \(height, width, 3\).*uint8 of shape \(8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"of shape \(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), r"of shape \(0, 8, 3\)"),
        (np.zeros((8, 8, 3), np.float32), "this one is float32"),
        (np.zeros((2, 8, 8, 3), np.float32), "got float32"),
        ([3], "must be a path, a Pillow image or a uint8 array, not int"),
        (3, "not int"),
        (None, "not NoneType"),
        ("nowhere.png", r"nowhere\.png: no such file\."),
        ("/", r"/: a folder, not a file\. Give its images, as in sorted\(Path\('/'\)\.iterdir\(\)\)\."),
    ],
)
def test_what_is_no_image_is_refused(predictor, wrong, told):
    with pytest.raises(InputError, match=told):
        predictor.predict(wrong)


def test_a_bad_file_in_a_list_is_named(predictor, files):
    files[6].write_text("notes")
    with pytest.raises(InputError, match=r"6\.png: not an image"):
        predictor.predict(files)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_an_impossible_batch_size_is_refused(predictor, images, files, batch_size):
    for attempt in (
        lambda: predictor.predict(images, batch_size=batch_size),
        lambda: predictor.logits(images, batch_size=batch_size),
        lambda: list(predictor.predict_files(files, batch_size=batch_size)),
    ):
        with pytest.raises(InputError, match="batch_size must be at least 1"):
            attempt()


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_one_bad_file_does_not_stop_the_others(predictor, files, batch_size):
    files[1].write_bytes(b"")
    files[4].write_text("notes")
    files[5].write_bytes(files[5].read_bytes()[:500])
    files[9].unlink()
    answers = list(predictor.predict_files([*files, files[0].parent], batch_size=batch_size))
    assert [path for path, _ in answers] == [*files, files[0].parent]
    errors = {path.name: found for path, found in answers if isinstance(found, str)}
    assert list(errors) == ["1.png", "4.png", "5.png", "9.png", files[0].parent.name]
    assert errors["1.png"] == "the file is empty"
    good = [path for path in files if path.name not in errors]
    expected = predictor.predict(good)
    found = [found for _, found in answers if isinstance(found, FilePrediction)]
    assert [answer.label for answer in found] == expected.labels
    for answer, top in zip(found, expected.top(4), strict=True):
        assert answer.top[0] == (answer.label, answer.probability)
        assert [name for name, _ in answer.top] == [name for name, _ in top]
        assert [p for _, p in answer.top] == pytest.approx([p for _, p in top], abs=1e-5)


def test_only_bad_files_and_no_files(predictor, tmp_path):
    assert list(predictor.predict_files([])) == []
    assert list(predictor.predict_files([tmp_path / "gone"] * 3)) == [(tmp_path / "gone", "no such file")] * 3


def test_files_are_looked_at_two_batches_ahead_at_most(predictor, files):
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield files[len(asked) % len(files)]

    answers = predictor.predict_files(endless(), batch_size=4)
    for _ in range(6):
        next(answers)
    assert len(asked) <= 12
    answers.close()
    assert len(asked) <= 12


def test_pillows_warnings_do_not_leak_and_filters_stay_as_they_were(predictor, tmp_path, monkeypatch):
    Image.new("RGB", (60, 40)).save(tmp_path / "large.png")
    Image.new("RGB", (10, 10)).save(tmp_path / "odd.jpg", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x05")
    Image.new("RGB", (10, 10)).save(tmp_path / "good.png")
    # Pillow warns about anything above its limit; to raise an error of its own it must be above twice that.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        found = {}
        for path, answer in predictor.predict_files(sorted(tmp_path.iterdir()), batch_size=1):
            found[path.name] = answer
        # Only now: while an answer is looked at, the next file is being decoded in another thread.
        assert list(warnings.filters) == before
    assert caught == []
    assert found["large.png"] == "more than 2,000 pixels; make it smaller first"
    assert isinstance(found["odd.jpg"], FilePrediction)
    assert isinstance(found["good.png"], FilePrediction)


def test_a_saved_classifier_is_loaded_from_its_folder_or_its_run(bundle, images, tmp_path):
    save_bundle(bundle, tmp_path / "run" / "model")
    expected = Predictor(TorchArtifact(bundle, device="cpu")).predict(images).probabilities
    for place in (tmp_path / "run" / "model", tmp_path / "run", os.fspath(tmp_path / "run")):
        predictor = headstart.load(place)
        assert (predictor.class_names, predictor.preprocess) == (NAMES, PREPROCESS)
        np.testing.assert_allclose(predictor.predict(images).probabilities, expected, atol=1e-4)


def test_loading_from_where_nothing_is(tmp_path):
    (tmp_path / "file").touch()
    for place, told in [("gone", "does not exist"), ("file", "is a file"), (".", r"config\.json is missing")]:
        with pytest.raises(BundleError, match=told):
            load(tmp_path / place)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_here_is_refused(bundle, device):
    with pytest.raises(InputError, match=f"{device} can't be used here"):
        TorchArtifact(bundle, device=device)


def test_a_fitted_temperature_changes_the_probabilities_only(bundle, images):
    hot = Predictor(TorchArtifact(dataclasses.replace(bundle, temperature=5.0), device="cpu"))
    cold = Predictor(TorchArtifact(dataclasses.replace(bundle, temperature=0.2), device="cpu"))
    np.testing.assert_array_equal(hot.logits(images), cold.logits(images))
    assert hot.predict(images).labels == cold.predict(images).labels
    assert (hot.predict(images).probabilities.max(1) < cold.predict(images).probabilities.max(1)).all()


class Brightness:
    """An artifact that has nothing to do with torch: dark images and bright ones."""

    class_names = ClassNames(("dark", "bright"))
    preprocess = Preprocess(8, (0.5, 0.5, 0.5), (1, 1, 1))
    temperature, flip, architecture, manifest_sha256, batch_size, threads = 1.0, False, "brightness", "", 4, 2
    abstention = novelty_threshold = confidence = None
    has_evidence = False

    def __init__(self):
        self.sides = []

    def outputs(self, squares, **_):
        return Outputs(self.logits(squares))

    def logits(self, squares):
        self.sides.append(squares.shape)
        bright = squares.reshape(len(squares), -1).mean(1) / 16 - 8
        return np.stack([-bright, bright], 1).astype(np.float32)


def test_anything_that_gives_logits_can_predict():
    artifact = Brightness()
    images = [np.full((side, side, 3), value, np.uint8) for side, value in ((3, 0), (30, 255), (3, 255), (8, 0))]
    assert Predictor(artifact).predict(images).labels == ["dark", "bright", "bright", "dark"]
    assert sorted(artifact.sides) == [(2, 3, 3, 3), (2, 8, 8, 3)]


def test_what_is_unsure_is_flagged_alike_for_arrays_and_files(bundle, images, files):
    assert Predictor(TorchArtifact(bundle, device="cpu")).predict(images).unsure is None
    best = Predictor(TorchArtifact(bundle, device="cpu")).predict(images).probabilities.max(axis=1)
    for threshold, expected in ((float(np.median(best)), best < np.median(best)), (None, np.ones(len(best), bool))):
        wary = dataclasses.replace(bundle, abstention=Abstention(target=0.99, threshold=threshold))
        predictor = Predictor(TorchArtifact(wary, device="cpu"))
        np.testing.assert_array_equal(predictor.predict(images).unsure, expected)
        assert [found.unsure for _, found in predictor.predict_files(files)] == expected.tolist()


def test_a_split_is_computed_from_its_working_copy(predictor, images):
    small = np.ascontiguousarray(images[:, :30, :30])
    source = ArraySource(small, np.zeros(len(images), np.int64), NAMES)
    subset = Subset(source, np.arange(len(images))[::-1].copy(), "val")
    copy = working_copy(subset, predictor.preprocess)
    np.testing.assert_allclose(predictor.logits(copy, batch_size=4), predictor.logits(small[::-1]), atol=1e-5)


def decoding_threads():
    return {thread.ident for thread in threading.enumerate() if thread.name.startswith("headstart-decode")}


def test_threads_start_when_needed_and_live_as_long_as_the_predictor(bundle, images, files):
    others = decoding_threads()
    predictor = Predictor(TorchArtifact(bundle, device="cpu"))
    predictor.predict(images)
    predictor.predict(images[0])
    predictor.predict(files[0])
    assert decoding_threads() <= others, "a single image needs no thread"
    predictor.predict(files)
    first = decoding_threads() - others
    predictor.predict(files)
    assert first
    assert len(decoding_threads() - others) <= predictor._workers.count
    assert first <= decoding_threads()
    del predictor
    gc.collect()
    deadline = time.monotonic() + 20
    while decoding_threads() & first and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not decoding_threads() & first


def test_a_forked_process_starts_threads_of_its_own(monkeypatch):
    workers = Workers(1)
    here = workers.submit(threading.get_ident).result(20)
    assert workers.submit(threading.get_ident).result(20) == here
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert workers.submit(threading.get_ident).result(20) != here


def test_many_threads_share_a_predictor_and_find_everything_as_it_was(predictor, images, files):
    expected = predictor.predict(images).probabilities
    kinds = [images, list(images), files, images[3], files[3]]
    found, failed = [], []

    def use(kind):
        try:
            before = torch.get_num_threads()
            for _ in range(3):
                found.append((kind, predictor.predict(kinds[kind]).probabilities))
            assert torch.get_num_threads() == before
        except Exception as error:
            failed.append(error)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        threads = [threading.Thread(target=use, args=(number % len(kinds),)) for number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert warnings.filters == before
    assert failed == []
    assert caught == []
    assert len(found) == 30
    for kind, probabilities in found:
        np.testing.assert_allclose(probabilities, expected if kind < 3 else expected[3:4], atol=1e-5)


@pytest.mark.parametrize("architecture", ["test_efficientnet", "test_resnet", "test_convnext", "test_vit"])
def test_a_predictor_pickles(architecture, images, files):
    predictor = Predictor(TorchArtifact(make_bundle(architecture), device="cpu"))
    expected = predictor.predict(files).probabilities
    again = pickle.loads(pickle.dumps(predictor))
    np.testing.assert_array_equal(again.predict(images).probabilities, predictor.predict(images).probabilities)
    np.testing.assert_allclose(again.predict(files).probabilities, expected, atol=1e-5)


def print_probabilities(place, files):
    predictor = pickle.loads(Path(place).read_bytes())
    print(json.dumps(predictor.predict(files).probabilities.tolist()))


def test_a_predictor_works_in_another_process(predictor, images, files, tmp_path):
    (tmp_path / "predictor").write_bytes(pickle.dumps(predictor))
    done = warm.Warm(print_probabilities, tmp_path / "predictor", [str(file) for file in files]).wait()
    expected = predictor.predict(images).probabilities
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=1e-5)


def test_threads_are_set_for_the_process_and_wherever_the_predictor_is_sent(bundle, tmp_path):
    save_bundle(bundle, tmp_path / "model")
    before = torch.get_num_threads()
    try:
        predictor = load(tmp_path, threads=3)
        assert torch.get_num_threads() == predictor._workers.count == 3
        pickled = pickle.dumps(predictor)
        torch.set_num_threads(2)
        assert pickle.loads(pickled)._workers.count == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    for threads in (0, -1, 2**31):
        with pytest.raises(InputError, match=rf"{threads}: expected a number from 1 to"):
            load(tmp_path, threads=threads)


def test_large_batches_are_computed_in_halves_by_threads_of_their_own(bundle, images, monkeypatch):
    before = torch.get_num_threads()
    artifact, many = TorchArtifact(bundle, device="cpu", threads=2), np.concatenate([images] * 4)[:35]
    compute, seen = artifact._computed, []

    def watch(squares, **asked):
        seen.append((len(squares), torch.get_num_threads()))
        return compute(squares, **asked)

    monkeypatch.setattr(artifact, "_computed", watch)
    try:
        squares = PREPROCESS.squares(many)
        found = artifact.outputs(squares)
        assert sorted(seen) == [(17, 1), (18, 1)]
        with ThreadPoolExecutor(1) as pool:
            assert torch.get_num_threads() == pool.submit(torch.get_num_threads).result() == 2
        np.testing.assert_allclose(found.logits, reference(bundle, many), atol=1e-5)
        assert Predictor(artifact).predict(many).probabilities.shape == (35, 4)
        del seen[:]
        artifact.outputs(squares[:31])
        torch.set_num_threads(3)
        artifact.outputs(squares)
        assert seen == [(31, 2), (35, 3)]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_not_finite_are_an_error_and_no_prediction(images, files, bad):
    artifact = Brightness()
    good = artifact.logits
    # Only the third image has them.
    third = artifact.preprocess.square(images[2])
    artifact.logits = lambda squares: np.where(
        np.array([(square == third).all() for square in squares])[:, None], np.float32(bad), good(squares)
    )
    predictor = Predictor(artifact)
    for kind, named in [(images, "image 2"), (list(images), "image 2"), (files, r"2\.png"), (files[2], r"2\.png")]:
        with pytest.raises(BundleError, match=f"{named}.* not finite"):
            predictor.predict(kind)
    found = dict(predictor.predict_files(files))
    assert "not finite" in found.pop(files[2])
    assert all(isinstance(prediction, FilePrediction) for prediction in found.values())
    assert not np.isfinite(predictor.logits(images)).all()


def test_weights_that_overflow_are_an_error(images):
    bundle = make_bundle()
    with torch.no_grad():
        head_of(bundle.module).weight.mul_(3e38)
    with pytest.raises(BundleError, match="not finite"):
        Predictor(TorchArtifact(bundle, device="cpu")).predict(images)


@pytest.mark.parametrize("place", ["x" * 300, "/".join(["deep"] * 2000), "loop"])
def test_odd_places_to_load_from_are_told(tmp_path, place):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(BundleError, match=r"does not exist|too long|Too many levels"):
        load(tmp_path / place)


def predict_and_measure(words):
    workers.available_cores = lambda: 16
    try:
        warm.command(words)
    finally:
        print("peak", peak_memory_mb())


def png_of_zeros(path, width, height, colour_type):
    """Write an image in little memory."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size, block = height * (1 + width * {0: 1, 6: 4}[colour_type]), bytes(2**20)
    first, last = (zlib.compressobj(1, wbits=-15) for _ in range(2))
    # Blocks that are flushed need nothing of those before, so that one stands for all.
    pixels = b"\x78\x01" + (first.compress(block) + first.flush(zlib.Z_FULL_FLUSH)) * (size // len(block))
    pixels += last.compress(bytes(size % len(block))) + last.flush() + struct.pack(">I", size % 65521 << 16 | 1)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def test_memory_is_bounded_whatever_the_images(bundle, tmp_path):
    save_bundle(bundle, tmp_path / "model")
    folder = tmp_path / "images"
    folder.mkdir()
    png_of_zeros(folder / "large.png", 9400, 9400, 6)
    png_of_zeros(folder / "thin.png", 1, 80_000, 0)
    Image.new("L", (8160, 6120), 7).save(folder / "phone0.jpg", progressive=True)
    Image.new("L", (4600, 4600), 7).save(folder / "web0.webp", method=0)
    for number in (1, 2):
        (folder / f"phone{number}.jpg").hardlink_to(folder / "phone0.jpg")
        (folder / f"web{number}.webp").hardlink_to(folder / "web0.webp")
    done = warm.Warm(predict_and_measure, ["predict", str(tmp_path), str(folder)]).wait()
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    word, megabytes = last.split()
    assert (word, len(lines)) == ("peak", 8), done.stderr
    assert float(megabytes) < 1500
