"""A real Chromium, and a page drawn from the same run that the unit tests of the report read."""

import os
import runpy
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

make_evaluated_run = runpy.run_path(str(Path(__file__).parents[1] / "unit" / "conftest.py"))["make_evaluated_run"]
_CONTRAST = """() => {
  const channel = v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 };
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = parse(c).map(channel); return .2126 * r + .7152 * g + .0722 * b };
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
      if (parse(c).length < 4 || parse(c)[3] > 0) return c } return 'rgb(255, 255, 255)' };
  const worst = [];
  for (const e of document.querySelectorAll('body *')) {
    if (e.closest('svg') && !(e.tagName === 'text' && !e.classList.contains('count'))) continue;
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    const style = getComputedStyle(e), color = e.tagName === 'text' ? style.fill : style.color;
    const [a, b] = [light(color), light(ground(e))].sort((x, y) => y - x);
    worst.push([(a + .05) / (b + .05), e.tagName + ' ' + e.textContent.trim().slice(0, 30)]);
  }
  return worst.sort((x, y) => x[0] - y[0])[0];
}"""


FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="package")
def chromium():
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        told = "There is no Chromium on the PATH. Install it, e.g. with: apt-get install chromium"
        if os.environ.get("HEADSTART_BROWSER_TESTS") == "1":
            pytest.fail(told)
        pytest.skip(told)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def kept_page(chromium):
    """A page that all tests of a file share: opening one takes five times as long as going somewhere else with it."""
    context = chromium.new_context()
    yield _watched(context)
    context.close()


@pytest.fixture
def browse(chromium, kept_page):
    """Open an address in a page that remembers nothing; ``page.problems`` collects what the console complains about."""
    contexts = []

    def browse(url, *, width=1100, scheme="light", **options):
        page = kept_page
        if options:
            contexts.append(chromium.new_context(**options))
            page = _watched(contexts[-1])
        page.goto("about:blank")
        if not options.get("is_mobile"):
            page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(media="screen", color_scheme=scheme)
        page.requested.clear()
        page.problems.clear()
        page.goto(url)
        return page

    yield browse
    kept_page.evaluate("location.href == 'about:blank' || (localStorage.clear(), sessionStorage.clear())")
    for context in contexts:
        context.close()


def _watched(context):
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.requested, page.problems = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("console", lambda message: page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    return page


@pytest.fixture
def contrast():
    """Script that returns the least contrast of a text with its ground, and where."""
    return _CONTRAST
