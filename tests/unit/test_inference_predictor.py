"""Predictor: every kind of input gives the same answer; bad files are told and do not stop the others."""

import dataclasses
import os
import threading
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import headstart
from headstart.bundle import Bundle, load_bundle, save_bundle
from headstart.contracts import ClassNames
from headstart.data.preprocess import Preprocess
from headstart.errors import BundleError, InputError
from headstart.inference.predictor import FilePrediction, Predictor, load
from headstart.models.heads import empty_classifier, head_of

NAMES = ClassNames(("cat", "dog", "bird", "frog"))
PREPROCESS = Preprocess(48, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bicubic", 0.9)


def make_bundle(architecture="test_efficientnet", **changes):
    """A classifier whose batch norms and head do something, so that answers differ between pictures."""
    module = empty_classifier(architecture, num_classes=len(NAMES))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1, generator=generator)
                part.running_var.uniform_(0.5, 1.5, generator=generator)
                part.weight.uniform_(0.5, 1.5, generator=generator)
        head_of(module).weight.normal_(0, 1, generator=generator)
    values = {"class_names": NAMES, "preprocess": PREPROCESS, "backbone": architecture, "hidden": (), "dropout": 0.0}
    values |= {"dataset": "animals", "manifest_sha256": "", "temperature": 1.7, "flip": True}
    return Bundle(module=module.eval(), architecture=architecture, **(values | changes))


@pytest.fixture(scope="module")
def bundle():
    return make_bundle()


@pytest.fixture(scope="module")
def predictor(bundle):
    return Predictor(bundle, device="cpu")


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
    logits = Predictor(bundle, device="cpu").logits(images)
    assert logits.dtype == np.float32
    assert np.ptp(logits, axis=0).max() > 0.01, "pictures must be told apart for this test to mean anything"
    np.testing.assert_allclose(logits, reference(bundle, images), rtol=1e-4, atol=1e-4)


def test_the_bundle_stays_as_it_was(images):
    bundle = make_bundle()
    before = {name: tensor.clone() for name, tensor in bundle.module.state_dict().items()}
    Predictor(bundle, device="cpu").logits(images)
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
    probabilities = Predictor(bundle, device="cpu").predict(images).probabilities
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
        ([], "no picture"),
        (iter(()), "no picture"),
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
    ],
)
def test_what_is_no_picture_is_refused(predictor, wrong, told):
    with pytest.raises(InputError, match=told):
        predictor.predict(wrong)


def test_a_bad_file_in_a_list_is_named(predictor, files):
    files[6].write_text("not a picture")
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
    files[4].write_text("not a picture")
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
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


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
            assert list(warnings.filters) == before
    assert caught == []
    assert found["large.png"] == "more than 2,000 pixels; make it smaller first"
    assert isinstance(found["odd.jpg"], FilePrediction)
    assert isinstance(found["good.png"], FilePrediction)


def test_a_saved_classifier_is_loaded_from_its_folder_or_its_run(bundle, images, tmp_path):
    save_bundle(bundle, tmp_path / "run" / "model")
    expected = Predictor(bundle, device="cpu").predict(images).probabilities
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
    with pytest.raises(InputError, match=f"Device '{device}' can't be used here"):
        Predictor(bundle, device=device)


def test_a_fitted_temperature_changes_the_probabilities_only(bundle, images):
    hot = Predictor(dataclasses.replace(bundle, temperature=5.0), device="cpu")
    cold = Predictor(dataclasses.replace(bundle, temperature=0.2), device="cpu")
    np.testing.assert_array_equal(hot.logits(images), cold.logits(images))
    assert hot.predict(images).labels == cold.predict(images).labels
    assert (hot.predict(images).probabilities.max(1) < cold.predict(images).probabilities.max(1)).all()


def test_what_was_loaded_can_be_saved_again(bundle, tmp_path):
    save_bundle(bundle, tmp_path / "model")
    predictor = load(tmp_path)
    save_bundle(predictor.bundle, tmp_path / "again")
    first, again = load_bundle(tmp_path / "model").module, load_bundle(tmp_path / "again").module
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
