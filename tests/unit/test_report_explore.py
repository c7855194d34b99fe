"""The page of a data set with very many classes can still be opened."""

import re

import numpy as np
import pytest

from headstart.contracts import ClassNames
from headstart.data.sources.memory import ArraySource
from headstart.data.subset import Subset
from headstart.inspection.copies import find_copies
from headstart.inspection.label_errors import Judged, find_label_errors
from headstart.inspection.outliers import find_outliers
from headstart.inspection.quality import find_quality_issues
from headstart.inspection.statistics import describe
from headstart.report.budget import within
from headstart.report.explore_page import explore_page, findings
from headstart.report.review_page import review_page
from headstart.terminal import Terminal
from headstart.workflows.explore_files import samples

CLASSES = ClassNames(("cat", "dog"))


def test_the_first_image_of_every_class_comes_before_the_second_of_any():
    wanted = {"cat": [1, 2, 3], "dog": [4], "owl": [5, 6]}
    asked = []

    def uris(image):
        asked.append(image)
        return ("x" * 10,)

    assert list(within(wanted, uris, limit=45)) == ["cat", "dog", "owl"]
    assert asked == [1, 4, 5, 2, 6], "nothing is made that does not fit, but for the one that shows it"
    assert {name: [image for image, _ in shown] for name, shown in within(wanted, uris, limit=45).items()} == {
        "cat": [1, 2],
        "dog": [4],
        "owl": [5],
    }
    assert list(within(wanted, uris, limit=15)) == ["cat"]
    assert within(wanted, uris, limit=5) == {}
    assert within({}, uris, limit=5) == {}


def everything_is_suspected(train):
    n = len(train)
    half, next_class = np.full(n, 0.5), (train.labels + 1) % len(train.class_names)
    return Judged(np.arange(n), half, next_class, half, half, half > 0, 0.5)


@pytest.fixture(scope="module")
def found_and_pictures():
    names = ClassNames(tuple(f"class number {i} <of> a thousand" for i in range(1000)))
    generator = np.random.default_rng(0)
    # Noise, which is what compresses worst.
    images = generator.integers(0, 256, (3000, 48, 48, 3), dtype=np.uint8)
    labels = np.arange(3000) % 1000
    train = Subset.whole(ArraySource(images[:2000], labels[:2000], names), "train")
    test = Subset.whole(ArraySource(images[2000:], labels[2000:], names), "test")
    directions = generator.normal(size=(3000, 4)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    statistics = describe(train.blocks(), train.labels, names)
    features = {"backbone": "a backbone", "size": 64}
    found = {
        "data": {"name": "a thousand", "limit": None},
        "class_names": list(names),
        "splits": ["Drew 1,000 images to test on."],
        "files": {"counts": {"used": 3000, "refused": 2}, "refused": {"truncated": ["a.jpg", "b.jpg"]}},
        "train": statistics.as_dict(),
        "test": describe(test.blocks(), test.labels, names).as_dict(),
        "duplicates": find_copies(
            (train, test), directions, np.zeros((3000, 32, 32), np.uint8), Terminal(enabled=False).bar
        ),
        "quality": find_quality_issues((train, test), (train.blocks(), test.blocks())),
        "label_errors": find_label_errors((train,), everything_is_suspected(train)) | {"features": features},
        "outliers": find_outliers(train, directions[:2000]),
        "test_opening": {"time": "2026-05-04T10:14:22+00:00", "command": "headstart explore /srv/anna/photos"},
        "features": features,
        "versions": {"headstart": "0"},
        "hardware": {"cpu": "a CPU", "cores": 2},
        "threads": 2,
        "peak_rss_mb": 1000.0,
        "seconds": {"total": 10.0, "features": 5.0},
    }

    def picture(split, row):
        return (train if split == "train" else test).image(row)

    return found, picture, samples(train), statistics.mean_images


def path_of(image):
    return f"{image['split']} photos/{image['row']}.png"


@pytest.fixture(scope="module")
def page(found_and_pictures):
    found, picture, firsts, means = found_and_pictures
    return explore_page(found, picture=picture, file_name=path_of, samples=firsts, mean_images=means)


def test_the_page_to_correct_labels_stays_small_with_a_thousand_classes_and_hides_what_would_end_its_data(
    found_and_pictures,
):
    found, picture, _, _ = found_and_pictures
    review = review_page(found, picture=picture, file_name=lambda image: f"</script>{image['split']}/{image['row']}")
    assert 1_000_000 < len(review.encode()) < 5_000_000
    assert review.count("</script>") == 2
    assert "script-src 'sha256-" in review


def test_pages_can_be_made_without_a_test_split(found_and_pictures):
    found, picture, _, _ = found_and_pictures
    train = Subset.whole(ArraySource(np.full((20, 8, 8, 3), 7, np.uint8), np.arange(20) % 2, CLASSES), "train")
    vectors = np.eye(20, dtype=np.float32)
    alone = found | {
        "test": None,
        "class_names": list(CLASSES),
        "train": describe(train.blocks(), train.labels, CLASSES).as_dict(),
        "duplicates": find_copies((train,), vectors, np.zeros((20, 32, 32), np.uint8), Terminal(enabled=False).bar),
        "outliers": find_outliers(train, vectors),
    }
    page = explore_page(alone, picture=picture, file_name=path_of, samples=samples(train), mean_images=None)
    assert "There is no test split." in page
    assert "1 group of exact copies has contradictory labels, such as train/0 (cat) = train/1 (dog)" in page


def test_a_thousand_classes_make_a_page_of_less_than_five_megabytes(page):
    assert 1_000_000 < len(page.encode()) < 5_000_000
    assert "of 1,000 classes" in page
    assert page.count("<img ") > 100
    assert "class number 999 &lt;of&gt; a thousand" in page, "the table has every class"


def test_the_page_does_not_tell_the_folders_of_the_machine(page):
    assert "anna" not in page
    assert ".../photos" in page


def test_images_are_called_by_name_and_files_are_not_asked_what_only_arrays_can_have(found_and_pictures, page):
    found, picture, firsts, means = found_and_pictures
    assert not re.search(r"\brows? \d|(train|test) \d", page)
    for image in (found["outliers"]["class number 0 <of> a thousand"][0], found["label_errors"]["list"][0]):
        assert path_of({"split": "train"} | image) in page.replace("<wbr>", "")
    arrays = explore_page(
        found | {"files": None}, picture=picture, file_name=path_of, samples=firsts, mean_images=means
    )
    for words in ("NaN after scaling", "labels: type"):
        assert words in arrays
        assert words not in page


def test_labels_that_are_not_suspected_stand_apart_and_one_suspect_is_no_share(found_and_pictures):
    found, picture, firsts, _ = found_and_pictures
    first, *others = found["label_errors"]["list"][:6]
    errors = found["label_errors"] | {"suspected": 1, "list": [first, *(o | {"suspected": False} for o in others)]}
    one = found | {"label_errors": errors}
    page = explore_page(one, picture=picture, file_name=path_of, samples=firsts, mean_images=None)
    section = page[page.index('<h2 id="labels">') : page.index('<h2 id="again">')]
    suspects, following = section.split("Next in the list")
    assert (suspects.count("<img "), following.count("<img ")) == (1, 5)
    assert (suspects.count("(wrong: 50%)"), following.count("(wrong: ")) == (1, 0)
    assert "1 label of 2,000 in train may be wrong, with a probability of 50%." in suspects
    assert "Next in the list" not in explore_page(
        found, picture=picture, file_name=path_of, samples=firsts, mean_images=None
    )


def test_what_needs_mending_comes_first(found_and_pictures):
    found, *_ = found_and_pictures
    torn = [{"split": "train", "row": row, "label": label, "file": f"{row}.png"} for row, label in enumerate(CLASSES)]
    exact = found["duplicates"]["exact"] | {"groups": 1, "images": 2, "list": [torn]}
    told = findings(found | {"duplicates": found["duplicates"] | {"exact": exact}})
    assert "contradictory labels, such as 0.png (cat) = 1.png (dog)" in told[0]
    assert ["can't be read" in told[1], "may be wrong" in told[2]] == [True, True]
    assert "pixel values" in told[-1]
