"""A study in plain sentences, each made from the numbers of ``study.json`` and from nothing else."""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from headstart.wording import (
    counted,
    duration,
    in_training_time,
    listed,
    number,
    p_text,
    percent,
    points,
    points_range,
    quoted,
    signed_points,
)


def stage_sentence(row: Mapping[str, Any]) -> str:
    """Return what a stage changed against the one before it.

    Example:
        >>> change = {"value": 0.231, "ci95": [0.219, 0.243]}
        >>> cat = {"f1_change": {"value": 0.3, "ci95": [0.2, 0.4]}}
        >>> against = {"same_run": False, "verdict": "second", "accuracy_change": change, "train_seconds_ratio": 0.46}
        >>> stage_sentence({"title": "Fine-tuning", "against": against | {"per_class": {"cat": cat}}})
        'Fine-tuning added 23.1 points (95% interval 21.9 to 24.3) in 46% of the training time; "cat" improved most.'
    """
    against = row["against"]
    if against is None:
        return f"The first stage of this study reaches {percent(row['test']['accuracy'])} on the test split."
    if against["same_run"]:
        return _unchanged(row)
    change = against["accuracy_change"]
    ratio = against["train_seconds_ratio"]
    cost = "" if ratio is None else f" {in_training_time(ratio)}"
    if discarded_finetuning(row):
        return (
            f"{row['title']}: fine-tuning was not kept, because no epoch beat the classifier from before it on "
            f"validation. The change of {signed(change['value'])} points (95% interval {interval(change)}) against the "
            f"stage before comes from the other settings of this stage{cost and ','}{cost}."
        )
    if against["verdict"] in ("noise", "same answers"):
        return (
            f"{row['title']}: the test images can't tell whether this helps. The measured change is "
            f"{signed(change['value'])} points ({p_text(against['mcnemar']['p'])}), but the true one could be anything "
            f"from {points_range(change['ci95'], 1)} points{cost and ','}{cost}."
        )
    gained = change["value"] > 0
    low, high = change["ci95"]
    size = interval({"ci95": [low, high] if gained else [-high, -low]})
    return (
        f"{row['title']} {'added' if gained else 'cost'} {points(change['value'], 1)} (95% interval {size}){cost}"
        f"{_class(against, gained)}."
    )


def discarded_finetuning(row: Mapping[str, Any]) -> bool:
    """Return whether a stage fine-tuned its network, but kept the classifier from before that."""
    return row.get("train_images_per_second", 0) > 0 and row.get("best_epoch") == 0


def published_sentence(row: Mapping[str, Any], study: Mapping[str, Any]) -> str:
    """Return how a stage's figure compares with the one that the published study reports of it.

    Returns:
        Nothing where the study is of other data than the published one.
    """
    published = row["published"]
    if not published:
        return ""
    note = f" ({published['note']})" if published.get("note") else ""
    if "accuracy" not in published:
        return f"The published study gives no figure{note}."
    compared = _compared(row["test"]["accuracy"] - published["accuracy"])
    on_validation = ""
    if "val_accuracy" in published:
        theirs, ours = published["val_accuracy"], row["val"]["accuracy"]
        compared_there = _compared(ours - theirs)
        on_validation = (
            f" On validation it reports {percent(theirs)}; this run reaches {percent(ours)}, {compared_there}."
        )
    reported = f"{percent(published['accuracy'])}{note}{_apart(row, study)}"
    return f"The published study reports {reported}; this run is {compared}.{on_validation}{_differs(published)}"


def _unchanged(row: Mapping[str, Any]) -> str:
    if not row.get("variant"):
        return "The recipe of this stage is that of an earlier one, so nothing changes."
    if was_kept(row):
        return f"No variant beat `{row['variant']}` by more than one standard error on validation, so it was kept."
    return f"`{row['variant']}`, which was there before, did best on validation, so nothing changes."


def _compared(gap: float) -> str:
    # Beyond a digit of what is printed.
    return "the same" if abs(gap) < 0.0005 else f"{points(gap, 1)} {'higher' if gap > 0 else 'lower'}"


def _differs(published: Mapping[str, Any]) -> str:
    return f" What differs here: {published['differs']}." if published.get("differs") else ""


def _apart(row: Mapping[str, Any], study: Mapping[str, Any]) -> str:
    """Return what the published study was made with, where that is another network or other images than this row's."""
    theirs = study.get("published_with")
    if theirs is None:
        return ""
    # The tag behind the point says which weights a network has.
    network, of_row = (made_with["backbone"].partition(".")[0] for made_with in (theirs, row))
    if (network, theirs["limit"]) == (of_row, row["limit"]):
        return ""
    return f" with {theirs['backbone']} on {counted(theirs['limit'], 'image')}"


def study_commands(study: Mapping[str, Any]) -> list[str]:
    """Return the commands that repeat the study in a folder called ``study``, one for all seeds of equal stages."""
    published_with = study["published_with"]
    common = ["headstart", "study", study["data_argument"]]
    if study["backbone"] != published_with["backbone"]:
        common += ["--backbone", study["backbone"]]
    if study["limit"] is None:
        common += ["--full"]
    elif study["limit"] != published_with["limit"]:
        common += ["--limit", str(study["limit"])]
    if study["plan"]:
        common += ["--plan", study["plan"]]
    for key, value in study["overrides"].items():
        common += ["--set", f"{key}={json.dumps(value)}"]
    # A stage begins with what earlier ones of its seed chose, so a seed's stages belong into one command.
    stages_of: dict[int, tuple[str, ...]] = {}
    for row in study["stages"]:
        stages_of[row["seed"]] = (*stages_of.get(row["seed"], ()), row["name"])
    commands: list[str] = []
    for stages in dict.fromkeys(stages_of.values()):
        seeds = [seed for seed, found in stages_of.items() if found == stages]
        chosen = [] if seeds == [0] else [part for seed in seeds for part in ("--seed", str(seed))]
        again = ["--resume"] if commands else []
        commands.append(shlex.join([*common, "--stages", ",".join(stages), *chosen, "--out", "study", *again]))
    return commands


def described_seed(study: Mapping[str, Any]) -> int:
    """Return the seed whose stages are described one by one: the one with most stages, the smallest among equals."""
    stages = Counter(row["seed"] for row in study["stages"] if not row["aside"])
    return min(stages, key=lambda seed: (-stages[seed], seed), default=0)


def variants_sentence(row: Mapping[str, Any]) -> str:
    """Return what each variant of a stage reached on validation, what its training took, and which was selected.

    It follows ``stage_sentence``, which has named the variant already where an earlier run was kept.
    """
    told = ", ".join(f"`{v['name']}` {percent(v['val_accuracy'])} in {duration(v['seconds'])}" for v in row["variants"])
    without = "".join(f" `{missing}` was left out: {why.rstrip('.')}." for missing, why in row["left_out"].items())
    if row["against"] and row["against"]["same_run"]:
        return f"On validation: {told}.{without}"
    if was_kept(row):
        return (
            f"No variant beat `{row['variant']}` by more than one standard error on validation, so it was kept: "
            f"{told}.{without}"
        )
    return f"Validation selected `{row['variant']}`: {told}.{without}"


def was_kept(row: Mapping[str, Any]) -> bool:
    """Return whether a stage kept what was there before, though another variant was a little better on validation."""
    accuracy = {v["name"]: v["val_accuracy"] for v in row["variants"]}
    return bool(row["variant"]) and accuracy[row["variant"]] < max(accuracy.values())


def seeds_sentence(study: Mapping[str, Any], stage: str) -> str:
    """Return how far a stage's figures lie apart where it was run with several seeds, and else nothing."""
    rows = [row for row in study["stages"] if row["name"] == stage]
    if len(rows) == 1:
        return ""
    told: list[str] = []
    for split, name, key in (("test", "test", "accuracy"), ("val", "validation", "val_accuracy")):
        accuracies = [row[split]["accuracy"] for row in rows]
        low, middle, high = (percent(of(accuracies)) for of in (min, median, max))
        published = rows[0]["published"].get(key)
        beside = f" (published {percent(published)})" if published and not _apart(rows[0], study) else ""
        told.append(f"{low} to {high} on {name}, median {middle}{beside}")
    return f"Over {len(rows)} seeds: {'; '.join(told)}."


def weak_class_sentences(row: Mapping[str, Any]) -> list[str]:
    """Return F1 of the classes that the variants were made for: on validation, and on test with the selected one."""
    if not row["weakest"]:
        return []
    variants = row["variants"]
    names = [quoted(name) for name in row["weakest"]]
    told = [f"Weakest {'class' if len(names) == 1 else 'classes'} on validation before this stage: {listed(names)}."]
    for name in row["weakest"]:
        scores = ", ".join(f"`{v['name']}` {percent(v['val_f1_of_weakest'][name])}" for v in variants)
        test = percent(row["test"]["per_class"][name]["f1-score"])
        told.append(f"F1 of {quoted(name)} on validation: {scores}. On test, with the selected variant: {test}.")
    return told


def lesson_sentences(study: Mapping[str, Any], seed: int) -> list[str]:
    """Return what preprocessing alone changes, from the pairs of runs that differ in nothing else."""
    pairs = [pair for pair in study["lesson"] if pair["seed"] == seed and not pair["same_run"]]
    told: list[str] = []
    for pair in pairs:
        told.append(_lesson_sentence(pair))
        for row in study["stages"]:
            # The others stand beside the published study among the stages.
            if (row["name"], row["seed"]) == (pair["unit"]["stage"], seed) and row["aside"]:
                told[-1] += _published_mistake(row, study)
    if len(pairs) > 1:
        first, last = pairs[0]["accuracy_change"]["value"], pairs[-1]["accuracy_change"]["value"]
        if first > 0 and last < first / 2:
            told.append(
                f"The mistake costs {points(first, 1)} with the network {pairs[0]['what']}, but {points(last, 1)} with "
                f"the network {pairs[-1]['what']}: training makes up for most of it, so it is easy to miss."
            )
    accuracy = {row["name"]: row["test"]["accuracy"] for row in study["stages"] if row["seed"] == seed}
    published, tuned = accuracy.get("as-published"), accuracy.get("finetune")
    if pairs and published is not None and tuned is not None:
        whole = tuned - published
        part = pairs[0]["accuracy_change"]["value"]
        if pairs[0]["unit"]["test_accuracy"] == published and 0 < part < whole:
            told.append(
                f"Of the {points(whole, 1)} between `as-published` and `finetune` in this study, {points(part, 1)} "
                "come from the preprocessing that the weights expect, before any weight of the network is trained."
            )
    return told


def signed(share: float) -> str:
    """Write a difference of shares in percentage points with its sign, one digit."""
    return signed_points(share, digits=1)


def interval(change: Mapping[str, Any]) -> str:
    """Write the 95% interval of a change in points, with signs where it is no clear gain."""
    low, high = change["ci95"]
    if low >= 0:
        return f"{number(100 * low, 1)} to {number(100 * high, 1)}"
    return points_range((low, high), 1)


def _lesson_sentence(pair: Mapping[str, Any]) -> str:
    change = pair["accuracy_change"]
    sides: Sequence[str] = [percent(pair[side]["test_accuracy"]) for side in ("unit", "weights")]
    return (
        f"{pair['what'].capitalize()}: {sides[0]} with RGB/255, {sides[1]} with the preprocessing that the weights "
        "expect, "
        f"{signed(change['value'])} points (95% interval {interval(change)}; {p_text(pair['mcnemar']['p'])})."
    )


def _published_mistake(row: Mapping[str, Any], study: Mapping[str, Any]) -> str:
    """Return what the published study reached with RGB/255, beside what was so reached here; nothing if unknown."""
    published = row["published"]
    if "accuracy" not in published:
        return ""
    theirs, ours = published["accuracy"], row["test"]["accuracy"]
    return (
        f" The published study, also with RGB/255, reports {percent(theirs)}{_apart(row, study)}; the {percent(ours)} "
        f"of this study is {_compared(ours - theirs)}.{_differs(published)}"
    )


def _class(against: Mapping[str, Any], gained: bool) -> str:
    changes = {name: row["f1_change"]["value"] for name, row in against["per_class"].items() if row["f1_change"]}
    if not changes:
        return ""
    name = max(changes, key=lambda n: changes[n] if gained else -changes[n])
    return f"; {quoted(name)} {'improved' if gained else 'lost'} most"
