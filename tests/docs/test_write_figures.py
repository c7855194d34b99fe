"""The script that carries measured figures into README.md and the recipes still finds their places there."""

from pathlib import Path

from scripts import load_script

ROOT = Path(__file__).parents[2]
write_figures = load_script("write_figures")


def test_the_readme_shows_what_was_measured():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert write_figures.readme_with_figures(readme) == readme
    stale = readme.replace("PNG files of 32 x 32 pixels in 9 s", "PNG files of 32 x 32 pixels in 1 s")
    assert stale != readme
    assert write_figures.readme_with_figures(stale) == readme


def test_the_guide_shows_what_the_automatic_choice_reaches():
    guide = (ROOT / "docs" / "own-images.md").read_text(encoding="utf-8")
    assert write_figures.guide_with_figures(guide) == guide
    assert guide.count("\n| TrashNet, ") == 1


def test_the_guide_to_deploying_shows_what_exports_take():
    guide = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    assert write_figures.deploying_with_figures(guide) == guide
    assert "\n| model folder, PyTorch |" in guide


def test_the_recipes_show_what_was_measured():
    for name in write_figures.MEASURED_RECIPES:
        path = write_figures.RECIPES / f"{name}.yaml"
        assert write_figures.recipe_with_header(name) == path.read_text(encoding="utf-8")


def test_the_guide_to_performance_shows_what_was_measured():
    guide = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert write_figures.performance_with_figures(guide) == guide
    assert guide.count("\n| resnet50v1, bf16, ") == 2 * 2
