"""Write docs/study.md, and the table in README.md where it has a place for one, from benchmarks/results/study-*.json.

    headstart study cifar10 --out study && cp study/study.json benchmarks/results/study-resnet50v1.json
    python benchmarks/study_table.py            # writes
    python benchmarks/study_table.py --check    # fails where a page and the files disagree

The place in README.md is between the lines ``<!-- study -->`` and ``<!-- /study -->``.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from headstart.studies.plan import load_plan
from headstart.studies.words import (
    described_seed,
    lesson_sentences,
    published_sentence,
    seeds_sentence,
    stage_sentence,
    study_commands,
    variants_sentence,
    weak_class_sentences,
)
from headstart.wording import counted, duration, percent

ROOT = Path(__file__).parents[1]
OPEN, CLOSE = "<!-- study -->", "<!-- /study -->"
HEADING = """\
# The study, reproduced and continued

`python benchmarks/study_table.py` writes this page from the files of `headstart study`; nothing is typed by hand.

Within a stage, validation selects a variant, and the test split is opened once for the selected one. The stages
themselves (their sizes, heads and learning rates) were settled beforehand. Some of that used training images 10,000 to
16,000, which a study of 10,000 images neither trains nor validates on: see
[held-out.json](../benchmarks/results/held-out.json). Earlier plans of `best` were also measured on the test split; the
same file has their results.

"""
NOTHING = """\
No run of the study is recorded yet. Run `headstart study cifar10` and copy its `study.json` to
`benchmarks/results/study-NAME.json`.
"""

NONE = "\u2013"

Study = dict[str, Any]


def read_studies(folder: Path) -> list[tuple[Path, Study]]:
    """Return the recorded studies by file name."""
    return [(path, json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("study-*.json"))]


def title(study: Study) -> str:
    limit = counted(study["limit"], "image") if study["limit"] else "all images"
    return f"`{study['backbone']}`, {limit}"


def table(studies: Sequence[Study]) -> str:
    """Return stages by studies: median test accuracy over the seeds, and the training time of the chosen run."""
    order = [stage for stage in load_plan(None).stages if not stage.aside]
    lines = ["| stage | published study | " + " | ".join(map(title, studies)) + " |"]
    lines.append("|---" * (2 + len(studies)) + "|")
    for stage in order:
        cells = [cell(study, stage.name) for study in studies]
        if any(cells):
            published = percent(stage.published.accuracy) if stage.published.accuracy else NONE
            lines.append(f"| `{stage.name}` | {published} | " + " | ".join(text or NONE for text in cells) + " |")
    lines.append("")
    lines.append(
        "Test accuracy, median over seeds. In brackets: number of seeds, median training time, and the backbone if it "
        "differs from the column heading. *kept*: no variant was better on validation, so the earlier run was kept. A "
        "dash: the stage was not run, or no figure was published."
    )
    return "\n".join(lines) + "\n"


def cell(study: Study, stage: str) -> str:
    rows = [row for row in study["stages"] if row["name"] == stage]
    if not rows:
        return ""
    if all(row["against"] and row["against"]["same_run"] for row in rows):
        return "*kept*"
    accuracy = median(row["test"]["accuracy"] for row in rows)
    seconds = median(row["seconds"] for row in rows)
    others = sorted({row["backbone"] for row in rows} - {study["backbone"]})
    told = "; ".join([counted(len(rows), "seed"), duration(seconds), *(f"`{name}`" for name in others)])
    return f"{percent(accuracy)} ({told})"


def section(path: Path, study: Study) -> str:
    """Return what one study says about its stages, for one of its seeds, and about preprocessing."""
    seed = described_seed(study)
    rows = [row for row in study["stages"] if row["seed"] == seed and not row["aside"]]
    machines = " and ".join(dict.fromkeys(machine(row["environment"]) for row in study["stages"]))
    lines = [f"## {title(study)}", ""]
    lines.append(
        f"[{path.name}](../benchmarks/results/{path.name}), on {machines}. The sentences "
        f"describe seed {seed}. The commands:"
    )
    lines += ["", *(f"    {command}" for command in study_commands(study)), ""]
    last = None
    for row in rows:
        against = f"Against `{row['against']['stage']}`: " if row["against"] and row["against"]["stage"] != last else ""
        last = row["name"]
        chosen = f" {variants_sentence(row)}" if row["variant"] else ""
        if row["backbone"] != study["backbone"]:
            chosen += f" The backbone is `{row['backbone']}`."
        lines.append(f"- **{row['name']}**: {against}{stage_sentence(row)}{chosen} {published_sentence(row, study)}")
        told = [seeds_sentence(study, row["name"]), *weak_class_sentences(row)]
        lines += [f"  {sentence}" for sentence in told if sentence]
    lesson = lesson_sentences(study, seed)
    if lesson:
        lines += ["", "The effect of preprocessing:", "", *(f"- {sentence}" for sentence in lesson)]
    return "\n".join(lines) + "\n"


def machine(environment: dict[str, Any]) -> str:
    """Return what a run was made on."""
    hardware = environment["hardware"]
    device = hardware["cpu"] if hardware["device"] == "cpu" else hardware["device"]
    return f"{device} with {environment['threads']} threads, torch {environment['versions']['torch']}"


def page(studies: Sequence[tuple[Path, Study]]) -> str:
    """Return docs/study.md."""
    if not studies:
        return HEADING + NOTHING
    sections = [section(path, study) for path, study in studies]
    return HEADING + "\n".join([table([study for _, study in studies]), *sections])


def filled(readme: str, studies: Sequence[tuple[Path, Study]]) -> str:
    """Return README.md with the table in its place; unchanged where it has none, or where no study is recorded."""
    before, opening, rest = readme.partition(OPEN)
    _, closing, after = rest.partition(CLOSE)
    if not (opening and closing and studies):
        return readme
    links = ", ".join(f"[{path.name}](benchmarks/results/{path.name})" for path, _ in studies)
    return f"{before}{OPEN}\n{table([study for _, study in studies])}\nFrom {links}.\n{CLOSE}{after}"


def main(root: Path = ROOT, arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where something would change")
    options = parser.parse_args(arguments)
    studies = read_studies(root / "benchmarks" / "results")
    readme = (root / "README.md").read_text(encoding="utf-8")
    wanted = {root / "docs" / "study.md": page(studies), root / "README.md": filled(readme, studies)}
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if options.check:
            print(f"{path.relative_to(root)} does not say what the files say: run python benchmarks/study_table.py")
        else:
            path.write_text(wanted[path], encoding="utf-8")
            print(path.relative_to(root))
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
