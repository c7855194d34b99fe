"""The page in a real Chromium: at every width, in both schemes, printed, without JavaScript and without network."""

import pytest

from headstart.report.html import write_report

pytestmark = pytest.mark.browser

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture
def address(make_evaluated_run):
    run = make_evaluated_run(names=NAMES, n=600)
    return write_report(run.run, run.picture).as_uri()


@pytest.fixture
def visit(browse, address):
    """Open the page and return it."""

    def open_page(*, unfold=False, **options):
        page = browse(address, **options)
        if unfold:
            page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        return page

    return open_page


def test_it_asks_for_nothing_but_itself_and_reports_no_problem(visit, address):
    page = visit(unfold=True)
    assert [url for url in page.requested if not url.startswith("data:")] == [address]
    assert page.problems == []


@pytest.mark.parametrize("unfold", [False, True])
def test_it_never_scrolls_sideways_as_a_whole(visit, unfold):
    page = visit(unfold=unfold)
    for width in (320, 360, 768, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # What is wider than its box scrolls inside it, and nothing sticks out of the page.
        outside = page.evaluate(
            """() => [...document.querySelectorAll('body *')].filter(e =>
                !e.closest('.scroll') && !e.closest('svg') && !e.closest('pre')
                && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
        )
        assert outside == [], width


def test_the_score_and_the_facts_do_not_overlap(visit):
    page = visit()
    for width in (320, 700, 720, 800, 1100):
        page.set_viewport_size({"width": width, "height": 900})
        score, facts = (page.locator(place).bounding_box() for place in (".score b", ".facts"))
        assert score["x"] + score["width"] <= facts["x"] or score["y"] + score["height"] <= facts["y"], width


def test_it_is_readable_without_javascript(visit):
    page = visit(java_script_enabled=False)
    assert page.get_by_role("heading", name="Confusions", exact=True).is_visible()
    table = page.get_by_role("table").filter(has_text="Train loss")
    assert not table.is_visible()
    page.get_by_text("Table of epochs", exact=True).click()
    assert table.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_aa_asks_for(visit, scheme, contrast):
    page = visit(scheme=scheme, unfold=True)
    ratio, where = page.evaluate(contrast)
    assert ratio >= 4.5, where


def test_dark_and_light_differ_and_both_follow_the_system(visit):
    grounds = {
        scheme: visit(scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    }
    assert grounds == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 22, 27)"}


def test_every_picture_is_decoded_and_large_enough_to_be_seen(visit):
    page = visit()
    sizes = page.evaluate(
        "[...document.images].map(i => [i.naturalWidth, i.clientWidth, getComputedStyle(i).imageRendering])"
    )
    assert len(sizes) > 24 + 6 * 4, "mistakes, and pictures of the pairs confused most"
    assert all(natural == 32 and shown >= 36 and rendering == "pixelated" for natural, shown, rendering in sizes)
    assert sum(shown >= 90 for _, shown, _ in sizes) == 24


def test_printing_uses_light_colours_and_unfolds_the_tables(visit):
    page = visit(scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    table = page.get_by_role("table").filter(has_text="Train loss")
    assert table.bounding_box()["height"] > 50
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_drawings_keep_their_words_inside(visit):
    page = visit()
    cut = page.evaluate(
        """() => [...document.querySelectorAll('svg text')].filter(t => {
            const box = t.getBoundingClientRect(), svg = t.ownerSVGElement.getBoundingClientRect();
            return box.left < svg.left - 1 || box.right > svg.right + 1
                || box.top < svg.top - 1 || box.bottom > svg.bottom + 1;
        }).map(t => t.textContent)"""
    )
    assert cut == []
