"""docs/reference.md shows the options and keys that the program has."""

from scripts import load_script

write_reference = load_script("write_reference")


def test_the_reference_is_fresh():
    page = write_reference.PAGE.read_text(encoding="utf-8")
    assert write_reference.page_with_tables(page) == page, "run python benchmarks/write_reference.py"
    stale = page.replace("`--limit N`", "`--first N`")
    assert stale != page
    assert write_reference.page_with_tables(stale) == page


def test_every_command_and_section_is_in_it():
    page = write_reference.PAGE.read_text(encoding="utf-8")
    for title in ("headstart train", "headstart predict", "finetune.augment", "data"):
        assert f"### `{title}`" in page
