"""A study in plain sentences, each made from the numbers of ``study.json`` and from nothing else."""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from headstart.wording import p_text, signed_points

_SAME_TIME = 0.05
"""A cost within this share of the other is called the same."""


def stage_sentence(row: Mapping[str, Any]) -> str:
    """Return what a stage changed against the one before it.

    Example:
        >>> change = {"value": 0.231, "ci95": [0.219, 0.243]}
        >>> cat = {"f1_change": {"value": 0.3, "ci95": [0.2, 0.4]}}
        >>> against = {"same_run": False, "verdict": "second", "accuracy_change": change, "train_seconds_ratio": 4.2}
        >>> stage_sentence({"title": "Fine-tuning", "against": against | {"per_class": {"cat": cat}}})
        'Fine-tuning gained 23.1 points (21.9 to 24.3) for 4.2 times the time; cat gained most.'
    """
    against = row["against"]
    if against is None:
        return f"The first stage that was run: {percent(row['test']['accuracy'])} on the test split."
    if against["same_run"]:
        return "Validation kept what was there before, so nothing changes."
    change = against["accuracy_change"]
    cost = _cost(against["train_seconds_ratio"])
    if against["verdict"] in ("noise", "same answers"):
        return (
            f"{row['title']} changed nothing that the test images can show: {signed(change['value'])} points "
            f"({interval(change)}; {p_text(against['mcnemar']['p'])}){cost}."
        )
    gained = change["value"] > 0
    verb, (low, high) = "gained" if gained else "lost", change["ci95"]
    size = interval({"ci95": [low, high] if gained else [-high, -low]})
    return f"{row['title']} {verb} {points(change['value'])} ({size}){cost}{_class(against, gained)}."


def published_sentence(row: Mapping[str, Any], study: Mapping[str, Any]) -> str:
    """Return how a stage's figure compares with the one that the published study reports of it.

    Args:
        row: Of ``study.json``.
        study: The whole; where it used another network or fewer images than the published study, that is said.

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
        on_validation = f" On validation {percent(theirs)} there and {percent(ours)} here, {_compared(ours - theirs)}."
    reported = f"{percent(published['accuracy'])}{note}{_apart(row, study)}"
    return f"The published study reports {reported}; this is {compared}.{on_validation}{_differs(published)}"


def _compared(gap: float) -> str:
    # Beyond a digit of what is printed.
    return "the same" if abs(gap) < 0.0005 else f"{points(abs(gap))} {'more' if gap > 0 else 'less'}"


def _differs(published: Mapping[str, Any]) -> str:
    return f" Otherwise here: {published['differs']}." if published.get("differs") else ""


def _apart(row: Mapping[str, Any], study: Mapping[str, Any]) -> str:
    """Return with what the published study was made, where that is another network or other images than this row's."""
    theirs = study.get("published_with")
    if theirs is None:
        return ""
    # The tag behind the point says which weights a network has.
    network, of_row = (made_with["backbone"].partition(".")[0] for made_with in (theirs, row))
    if (network, theirs["limit"]) == (of_row, row["limit"]):
        return ""
    return f" with {theirs['backbone']} on {theirs['limit']:,} images"


def study_commands(study: Mapping[str, Any]) -> list[str]:
    """Return the commands that make the study anew in a folder called ``study``, one for all seeds of equal stages."""
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


def told_seed(study: Mapping[str, Any]) -> int:
    """Return the seed whose stages are told one by one: the one with most of them, and of equals the smallest."""
    stages = Counter(row["seed"] for row in study["stages"] if not row["aside"])
    return min(stages, key=lambda seed: (-stages[seed], seed), default=0)


def variants_sentence(row: Mapping[str, Any]) -> str:
    """Return what each variant of a stage reached on validation, what its training took, which was chosen or left out.

    It follows ``stage_sentence``, which has said so already where validation kept what was there before.
    """
    told = ", ".join(f"`{v['name']}` {percent(v['val_accuracy'])} in {v['seconds']:,.0f} s" for v in row["variants"])
    name = f"`{row['variant']}`"
    kept = f"{name}, no other being better by more than a standard error" if was_kept(row) else None
    without = "".join(f" `{missing}` was left out: {why.rstrip('.')}." for missing, why in row["left_out"].items())
    if row["against"] and row["against"]["same_run"]:
        return f"That was {kept or name}. On validation: {told}.{without}"
    return f"Validation kept {kept}: {told}.{without}" if kept else f"Validation chose {name} of {told}.{without}"


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
    """Return what each variant did for the classes it was made for: F1 on validation, and of the chosen on test."""
    if not row["weakest"]:
        return []
    variants = row["variants"]
    told = [f"Weakest on validation before: {' and '.join(row['weakest'])}."]
    for name in row["weakest"]:
        scores = ", ".join(f"{v['name']} {percent(v['val_f1_of_weakest'][name])}" for v in variants)
        test = percent(row["test"]["per_class"][name]["f1-score"])
        told.append(f"F1 of {name} on validation: {scores}; of the chosen one on test: {test}.")
    return told


def lesson_sentences(study: Mapping[str, Any], seed: int) -> list[str]:
    """Return what the preprocessing alone is worth, from the pairs of runs that differ in nothing else."""
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
                f"So the mistake costs {points(first)} where the network is {pairs[0]['what']}, and {points(last)} "
                f"where it is {pairs[-1]['what']}: training makes up for most of it, so that it can stay unnoticed."
            )
    accuracy = {row["name"]: row["test"]["accuracy"] for row in study["stages"] if row["seed"] == seed}
    published, tuned = accuracy.get("as-published"), accuracy.get("finetune")
    if pairs and published is not None and tuned is not None:
        whole = tuned - published
        part = pairs[0]["accuracy_change"]["value"]
        if pairs[0]["unit"]["test_accuracy"] == published and 0 < part < whole:
            told.append(
                f"Of the {points(whole)} between as-published and finetune as measured here, {points(part)} come from "
                "feeding the weights what they want, before a single weight of the network is trained."
            )
    return told


def percent(share: float) -> str:
    """Write a share of 1 as per cent, two digits."""
    return f"{100 * share:.2f}\u00a0%"


def points(share: float) -> str:
    """Write a difference of shares as percentage points, without its sign."""
    return f"{abs(100 * share):.1f} points"


def signed(share: float) -> str:
    """Write a difference of shares in percentage points with its sign, one digit."""
    return signed_points(share, digits=1)


def interval(change: Mapping[str, Any]) -> str:
    """Write the 95 % interval of a change in points, with signs where it is no clear gain."""
    low, high = change["ci95"]
    if low >= 0:
        return f"{100 * low:.1f} to {100 * high:.1f}"
    return f"{signed(low)} to {signed(high)}"


def _lesson_sentence(pair: Mapping[str, Any]) -> str:
    change = pair["accuracy_change"]
    sides: Sequence[str] = [percent(pair[side]["test_accuracy"]) for side in ("unit", "weights")]
    return (
        f"{pair['what'].capitalize()}: {sides[0]} fed RGB/255, {sides[1]} fed what the weights want, "
        f"{signed(change['value'])} points ({interval(change)}; {p_text(pair['mcnemar']['p'])})."
    )


def _published_mistake(row: Mapping[str, Any], study: Mapping[str, Any]) -> str:
    """Return what the published study reached fed RGB/255, beside what was so reached here; nothing if unknown."""
    published = row["published"]
    if "accuracy" not in published:
        return ""
    theirs, ours = published["accuracy"], row["test"]["accuracy"]
    return (
        f" The published study, fed RGB/255 as well, reports {percent(theirs)}{_apart(row, study)}; "
        f"the {percent(ours)} here are {_compared(ours - theirs)}.{_differs(published)}"
    )


def _cost(ratio: float | None) -> str:
    if ratio is None:
        return ""
    if abs(ratio - 1) <= _SAME_TIME:
        return " for the same time"
    return f" for {ratio:.0f} times the time" if ratio >= 10 else f" for {ratio:.2g} times the time"


def _class(against: Mapping[str, Any], gained: bool) -> str:
    changes = {name: row["f1_change"]["value"] for name, row in against["per_class"].items() if row["f1_change"]}
    if not changes:
        return ""
    name = max(changes, key=lambda n: changes[n] if gained else -changes[n])
    return f"; {name} {'gained' if gained else 'lost'} most"
