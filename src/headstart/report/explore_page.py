"""From what ``headstart explore`` has found to one self-contained page; the figures on it are those of explore.json."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.contracts import UInt8Images
from headstart.data.copies import RELATIONS, relation
from headstart.report import charts
from headstart.report.budget import within
from headstart.report.histograms import class_chart, histogram_chart
from headstart.report.mistakes import data_uri
from headstart.report.page import render
from headstart.wording import counted, number, percent

MADE_BY = "headstart explore"
"""Mark at the beginning of both files, so that a later call may replace them and nothing else."""
COPIES_SHOWN = 20
"""Groups of copies shown for each relation; copies.csv lists all."""
ISSUES_SHOWN = 10
SUSPECTS_SHOWN = 40
_SAMPLES_LIMIT, _OUTLIERS_LIMIT, _MEANS_LIMIT, _PAIRS_LIMIT = 1_300_000, 800_000, 400_000, 900_000
_ISSUES_LIMIT = 300_000
"""Characters that the images of each section may take."""
_NAMED = 3
"""Images of a group of copies that a sentence names."""
_BIN = 4
"""Values of a pixel that share a bin in the drawings; explore.json has all 256."""

FileName = Callable[[dict[str, Any]], str]
"""From an image's split and row to its name in all lists: its file's path, or ``train/17`` for a row of an array."""
Picture = Callable[[str, int], UInt8Images]
"""From a split's name and a row to pixels, shape (height, width, 3)."""


def explore_page(
    found: dict[str, Any],
    *,
    picture: Picture,
    file_name: FileName,
    samples: dict[str, list[int]],
    mean_images: NDArray[np.float64] | None,
) -> str:
    """Return the page.

    Args:
        found: What ``explore.json`` holds.
        picture: Called for the images on the page only.
        file_name: The same.
        samples: Rows of training images to show, by class.
        mean_images: Shape (k, height, width, 3), 0 to 255, of the first k classes; None where sizes differ.
    """

    def uri(place: dict[str, Any]) -> str:
        return data_uri(np.asarray(picture(place["split"], place["row"])))

    names, exact, near = found["class_names"], *(found["duplicates"][kind]["list"] for kind in ("exact", "near"))
    # What matters most first: copies across splits flatter the test accuracy.
    copies: dict[str, list[dict[str, Any]]] = {name: [] for name in reversed(RELATIONS)}
    for group in ({"images": images, "pixel_similarity": None} for images in exact):
        copies[relation(group["images"])].append(group)
    for pair in near:
        copies[relation(pair["images"])].append(pair)
    shown_copies = within(
        {name: groups[:COPIES_SHOWN] for name, groups in copies.items()},
        lambda group: tuple(map(uri, group["images"][:2])),
        limit=_PAIRS_LIMIT,
    )
    means = {} if mean_images is None else dict(zip(names, ([mean] for mean in mean_images), strict=False))
    shown = {name: [mean for mean in of_class if np.isfinite(mean).all()] for name, of_class in means.items()}
    splits = {name: found[name] for name in ("train", "test") if found[name]}
    few = len(names) <= charts.MOST_CLASSES_LABELLED
    return render(
        "explore.html.jinja",
        found=found,
        made_by=MADE_BY,
        train=found["train"],
        test=found["test"],
        splits=splits,
        findings=findings(found),
        samples=within(samples, lambda row: (uri({"split": "train", "row": row}),), limit=_SAMPLES_LIMIT),
        classes=class_chart({name: split["class_counts"] for name, split in splits.items()}) if few else None,
        histograms=_histograms(found["train"]),
        bin=_BIN,
        means=within(shown, lambda mean: (data_uri(np.rint(mean).astype(np.uint8)),), limit=_MEANS_LIMIT),
        copies={name: (groups, shown_copies.get(name, [])) for name, groups in copies.items()},
        outliers=within(found["outliers"], lambda image: (uri(image),), limit=_OUTLIERS_LIMIT),
        issues=within(
            {issue: images[:ISSUES_SHOWN] for issue, images in found["quality"]["issues"].items()},
            lambda image: (uri(image),),
            limit=_ISSUES_LIMIT,
        ),
        file_name=file_name,
        label_errors=" ".join(_labels(found["label_errors"])),
        suspects=within(
            {"all": (found["label_errors"] or {"list": []})["list"][:SUSPECTS_SHOWN]},
            lambda image: (uri(image),),
            limit=_ISSUES_LIMIT,
        ).get("all", []),
    )


def findings(found: dict[str, Any]) -> list[str]:
    """Return what a reader should know first, in sentences made of the figures: what needs mending leads."""
    train, test, copies = found["train"], found["test"] or {"sizes": {}, "n": 0}, found["duplicates"]
    return [
        *contradictions(copies),
        *_unreadable(found["files"]),
        *_labels(found["label_errors"]),
        _copies(copies, test["n"]),
        *found["splits"],
        _balance(train["class_counts"]),
        _quality([split for split in (train, found["test"]) if split]),
        _sizes(train, test),
        f"The pixel values of the training images, from 0 to 255, have a mean of {number(train['mean'], 2)} and a "
        f"standard deviation of {number(train['std'], 2)}; {percent(train['near_black_share'], 1)} of them are "
        f"near-black and {percent(train['near_white_share'], 1)} near-white.",
    ]


def _balance(counts: dict[str, int]) -> str:
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[least] == counts[most]:
        return f"The classes of the training images are balanced: {counted(counts[most], 'image')} each."
    ratio = counts[most] / max(1, counts[least])
    verdict = "balanced" if ratio < 1.25 else "somewhat unbalanced" if ratio < 2 else "unbalanced"
    return (
        f"The classes of the training images are {verdict}: {number(counts[least])} ({least}) to "
        f"{counted(counts[most], 'image')} ({most}) each."
    )


def _sizes(train: dict[str, Any], test: dict[str, Any]) -> str:
    sizes = sorted({*train["sizes"], *test["sizes"]})
    if len(sizes) == 1:
        return f"All images have the same shape, {sizes[0]}."
    return f"The images have {counted(len(sizes), 'different size')}."


def _quality(splits: Sequence[dict[str, Any]]) -> str:
    constant = sum(split["constant"]["n"] for split in splits)
    bad = sum(split["scaled"][kind] for split in splits for kind in ("nan", "inf"))
    verb = "has" if constant == 1 else "have"
    blank = f"{counted(constant, 'image')} {verb} a single color" if constant else "No image has a single color"
    scaled = f", and {counted(bad, 'value')} {'is' if bad == 1 else 'are'} NaN or infinite after scaling" if bad else ""
    return f"{blank}{scaled}."


def _copies(copies: dict[str, Any], tested: int) -> str:
    exact, test = copies["exact"], copies["test_images"]
    same = (
        f"{counted(exact['images'], 'image')} have an exact copy, pixel for pixel."
        if exact["groups"]
        else "No image occurs twice, pixel for pixel."
    )
    if not tested:
        return f"{same} There is no test split."
    if not test["copied_in_train"]:
        return f"{same} No near duplicate of a test image was found in the training split."
    share = percent(test["copied_in_train_share"], 1)
    close = test["copied_in_train_by_correlation"]["0.90"]
    return (
        f"{same} {number(test['copied_in_train'])} of {counted(tested, 'test image')} ({share}) show the same photo as "
        f"a training image, exactly or nearly; {number(close)} ({percent(close / tested, 1)}) match almost to the "
        "pixel. A classifier that memorizes them gets a higher test score."
    )


def _unreadable(files: dict[str, Any] | None) -> list[str]:
    unreadable = sum(map(len, files["refused"].values())) if files else 0
    return [f"{counted(unreadable, 'file')} can't be read."] if unreadable else []


def contradictions(copies: dict[str, Any]) -> list[str]:
    """Return how many exact and near copies have contradictory labels and the images of the first, as a sentence."""
    kinds = {
        ("group of exact copies", "groups of exact copies"): copies["exact"]["list"],
        ("pair of near copies", "pairs of near copies"): [pair["images"] for pair in copies["near"]["list"]],
    }
    torn = {
        kind: [group for group in groups if len({image["label"] for image in group}) > 1]
        for kind, groups in kinds.items()
    }
    told = [counted(len(groups), *kind) for kind, groups in torn.items() if groups]
    found = [group for groups in torn.values() for group in groups]
    if not found:
        return []
    names = [image.get("file", f"{image['split']}/{image['row']}") + f" ({image['label']})" for image in found[0]]
    return [
        f"{' and '.join(told)} {'has' if len(found) == 1 else 'have'} contradictory labels, such as "
        f"{' = '.join(names[:_NAMED])}. copies.csv lists all copies; review.html lets you correct them."
    ]


def _labels(errors: dict[str, Any] | None) -> list[str]:
    if errors is None:
        return []
    suspected, share = errors["suspected"], percent(errors["estimated_precision"] or 0, 0)
    judged = f"{number(errors['judged'])} in {' and '.join(errors['splits'])}"
    text = f"{counted(suspected, 'label')} of {judged} may be wrong"
    if suspected:
        text += f", with a probability of {share}" if suspected == 1 else f", and by estimate {share} of these are"
    return [f"{text}. About {percent(errors['estimated_noise'], 1)} of all labels are wrong by the same estimate."]


def _histograms(train: dict[str, Any]) -> dict[str, Any]:
    binned: dict[str, Sequence[int]] = {
        name: [sum(counts[i : i + _BIN]) for i in range(0, 256, _BIN)] for name, counts in train["histograms"].items()
    }
    overall = binned.pop("overall")
    return {
        "overall": histogram_chart({"overall": overall}),
        "channels": histogram_chart(binned),
        "brightness": histogram_chart({"brightness": train["brightness"]["histogram"]}),
        "contrast": histogram_chart({"contrast": train["contrast"]["histogram"]}),
        "table": list(zip(range(0, 256, _BIN), overall, *binned.values(), strict=True)),
        "per_image": list(
            zip(
                range(0, 256, 256 // len(train["brightness"]["histogram"])),
                train["brightness"]["histogram"],
                train["contrast"]["histogram"],
                strict=True,
            )
        ),
    }
