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


@pytest.fixture(scope="module")
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


@pytest.fixture
def contrast():
    """Script that returns the least contrast of a text with its ground, and where."""
    return _CONTRAST
