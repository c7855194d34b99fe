"""Labels are corrected by keyboard alone in a real Chromium, from a file, and saved as a table."""

import csv

import numpy as np
import pytest

from headstart.report.review_page import review_page

pytestmark = pytest.mark.browser

TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
OPACITY = "e => { let o = 1; for (; e; e = e.parentElement) o *= getComputedStyle(e).opacity; return o }"
MANY = [f"class {i}" for i in range(998)] + ['quoted "owl", large', "zebra"]


def found_with(classes):
    errors = [
        {
            "split": "train",
            "row": row,
            "label": classes[row % 2],
            "suggested": classes[2],
            "confidence": 0.9,
            "suspected": True,
        }
        for row in range(6)
    ]
    return {
        "data": {"name": "a set", "sha256": "0" * 64},
        "class_names": classes,
        "label_errors": {"list": errors},
        "duplicates": {"exact": {"list": []}, "near": {"list": []}},
        "quality": {"issues": {}},
        "outliers": {},
        "versions": {"headstart": "0"},
    }


@pytest.fixture
def review(browse, tmp_path):
    """Open the page for some classes; it asks for nothing but itself and reports no problem."""
    pages = []

    def open_review(classes=TEN, *, width=1100, scheme="light"):
        page_file = tmp_path / "review.html"
        generator = np.random.default_rng(0)
        page_file.write_text(
            review_page(
                found_with(classes),
                picture=lambda _split, _row: generator.integers(0, 256, (32, 32, 3), dtype=np.uint8),
                file_name=lambda image: f"cat, old/{image['row']}.png",
            ),
            encoding="utf-8",
        )
        page = browse(page_file.as_uri(), width=width, scheme=scheme)
        pages.append(page)
        assert [url for url in page.requested if not url.startswith(("data:", "blob:"))] == [page_file.as_uri()]
        return page

    yield open_review
    assert [page.problems for page in pages] == [[]] * len(pages)


def saved(page):
    with page.expect_download() as download:
        page.keyboard.press("s")
    assert download.value.suggested_filename == "labels.csv"
    return list(csv.reader(download.value.path().read_text(encoding="utf-8").splitlines()))


def test_labels_are_corrected_and_saved_by_keyboard_alone(review):
    page = review()
    for key in ("Enter", "k", "d", "0", "b", "d", "ArrowLeft", "u"):
        page.keyboard.press(key)
    assert saved(page) == [
        ["file_name", "label"],
        ["cat, old/0.png", "bird"],
        ["cat, old/1.png", "automobile"],
        ["cat, old/2.png", "drop"],
        ["cat, old/3.png", "truck"],
    ]
    assert "4 of 6 decided, 3 to change" in page.get_by_role("status").inner_text()


def test_one_of_many_classes_is_found_by_typing_its_name(review):
    page = review(MANY)
    page.keyboard.press("/")
    page.keyboard.type("zeb")
    page.keyboard.press("Enter")
    page.keyboard.press("/")
    page.keyboard.type("LARGE")
    page.keyboard.press("Enter")
    page.keyboard.press("/")
    page.keyboard.type("class 99")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    page.keyboard.press("d")
    assert [row[1] for row in saved(page)] == ["label", "zebra", 'quoted "owl", large', "class 990", "drop"]


def test_what_can_be_pressed_does_not_look_disabled(review):
    button = review().get_by_role("button", name="Save labels.csv")
    assert button.is_enabled()
    assert button.evaluate(OPACITY) == 1


def test_decisions_outlive_the_page(review):
    page = review()
    page.keyboard.press("d")
    page.reload()
    assert "1 of 6 decided" in page.get_by_role("status").inner_text()


@pytest.mark.parametrize("width", [320, 768])
@pytest.mark.parametrize("classes", [TEN, MANY], ids=["ten", "many"])
def test_it_fits_a_narrow_screen(review, width, classes):
    page = review(classes, width=width)
    page.keyboard.press("/")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#matches li").count() == 8


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_schemes(review, scheme, contrast):
    page = review(scheme=scheme)
    page.keyboard.press("d")
    page.keyboard.press("/")
    ratio, where = page.evaluate(contrast)
    assert ratio >= 4.5, where
