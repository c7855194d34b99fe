"""The page on which a person corrects labels: one file with one script, which needs no server and asks for nothing."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from headstart.contracts import UInt8Image
from headstart.report.mistakes import data_uri
from headstart.report.page import render

MOST_IMAGES = 1000
_LIMIT = 3_500_000
"""Characters that all images together may take."""


def review_page(
    found: dict[str, Any], *, picture: Callable[[str, int], UInt8Image], file_name: Callable[[dict[str, Any]], str]
) -> str:
    """Return the page.

    Args:
        found: What ``explore.json`` holds.
        picture: From a split's name and a row to pixels, shape (height, width, 3); called for shown images only.
        file_name: From an image's split and row to the name by which ``labels.csv`` will call it.
    """
    images: dict[str, dict[str, Any]] = {}
    used = left_out = 0
    for image, suggested, why in _questions(found):
        name = file_name(image)
        if name in images:
            continue
        if used > _LIMIT or len(images) >= MOST_IMAGES:
            left_out += 1
            continue
        uri = data_uri(np.asarray(picture(image["split"], image["row"])))
        used += len(uri)
        images[name] = {"name": name, "label": image["label"], "suggested": suggested, "why": why, "uri": uri}
    content = {
        "key": f"headstart {found['data'].get('sha256', '')[:16]}",
        "classes": found["class_names"],
        "images": list(images.values()),
    }
    script = (Path(__file__).parent / "templates" / "review.js").read_text(encoding="utf-8")
    return render(
        "review.html.jinja",
        found=found,
        shown=len(images),
        left_out=left_out,
        # Inside a script element nothing but its end is markup.
        content=json.dumps(content, ensure_ascii=False).replace("<", "\\u003c"),
        script=script,
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _questions(found: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str | None, str]]:
    """Yield images with a suggested class and the reason for looking at them, the most urgent first."""
    errors = (found.get("label_errors") or {"list": []})["list"]
    likely = [f"looks like {image['suggested']} ({image['confidence']:.0%})" for image in errors]
    for image, why in zip(errors, likely, strict=True):
        if image["suspected"]:
            yield image, image["suggested"], f"Suspected; {why}"
    copies = found["duplicates"]
    for group in [*copies["exact"]["list"], *(pair["images"] for pair in copies["near"]["list"])]:
        labels = sorted({image["label"] for image in group})
        if len(labels) > 1:
            for image in group:
                if image["split"] == "train":
                    other = next(label for label in labels if label != image["label"])
                    yield image, other, f"A copy is labeled {other}"
    for image, why in zip(errors, likely, strict=True):
        if not image["suspected"]:
            yield image, image["suggested"], f"Not suspected; {why}"
    for issue, images in found["quality"]["issues"].items():
        for image in images[:50]:
            if image["split"] == "train":
                yield image, None, issue.replace("_", " ").capitalize()
    for name, images in found["outliers"].items():
        for image in images[:2]:
            yield image | {"label": name}, None, "Unlike the rest of its class"
