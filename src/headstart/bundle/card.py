"""The README.md of a saved classifier, in the form that model hubs read: YAML front matter, then Markdown."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from headstart.bundle.schema import Abstention
from headstart.contracts import HUB_EXPORT
from headstart.models.architectures import OWN_ARCHITECTURES
from headstart.tasks.metrics import shown_in
from headstart.wording import listed, number, percent, percent_range, percent_short, significant

LICENSES = frozenset(
    [
        *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "mpl-2.0", "unlicense", "openrail"),
        *("gpl-3.0", "lgpl-3.0", "agpl-3.0"),
        *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
    ]
)
"""Identifiers that hubs know; any other licence is given by its own name."""

_SPLITS = {"val": "validation", "test": "test"}
_WEAK_RECALL = 0.8
"""Recall below which a class is named as one not to rely on."""
_FEW_TESTED = 20
_CONDITIONS = (
    ({"nc", "noncommercial", "research", "academic"}, "does not allow commercial use"),
    ({"nd", "noderivatives"}, "does not allow changed versions to be shared"),
    ({"sa", "sharealike", "gpl", "lgpl", "agpl"}, "asks that what is made from it is shared under the same terms"),
    ({"gated", "restricted"}, "gives access to those only who have accepted its terms"),
)
"""Words of a licence's name, and what they mean for those who use a classifier."""
_CLASSES_LISTED = 100
"""A card names no more classes than these; ``config.json`` has all."""


def model_card(config: Mapping[str, Any], *, repository: str | None = None, export: bool = False) -> str:
    """Return the model card of a saved classifier.

    ``repository`` is its ``owner/name`` on the Hub; there an ``export`` may lie beside it.
    """
    linear = not config["headstart"]["hidden"]
    timm_loads = linear and config["architecture"] not in OWN_ARCHITECTURES
    sections = [
        _front_matter(config, timm_loads=timm_loads),
        _introduction(config),
        _use(config, timm_loads=timm_loads, repository=repository, export=export),
        _preprocessing(config),
        _scores(config["headstart"]["metrics"]),
        _limits(config),
        _licences(config),
        _provenance(config),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(config: Mapping[str, Any], *, timm_loads: bool) -> str:
    own = config["headstart"]
    accuracy = (own["metrics"].get("test") or {}).get("accuracy")
    dataset = own["dataset"]
    head = {
        **_license(str(own["weights"].get("license") or "")),
        "library_name": "timm" if timm_loads else "headstart",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "headstart", *(["timm"] if timm_loads else [])],
        # Hubs refuse names that can't be identifiers.
        "datasets": [dataset] if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", dataset) else [],
        "metrics": ["accuracy", "f1"],
    }
    if own["weights"].get("source") in ("package", "hub"):
        # timm's own owner has them all; weights of other sources have no page on the Hub.
        head["base_model"] = f"timm/{own['backbone']}"
    if accuracy is not None and head["datasets"]:
        measured = {"type": "accuracy", "value": accuracy, "name": "test accuracy"}
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": dataset, "type": dataset, "split": "test"},
            "metrics": [measured],
        }
        head["model-index"] = [{"name": own["backbone"], "results": [result]}]
    text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---"


def _license(stated: str) -> dict[str, str]:
    """A classifier inherits the licence of the weights that it was made from."""
    if stated.lower() in LICENSES:
        return {"license": stated.lower()}
    return {"license": "other", "license_name": stated} if stated else {"license": "unknown"}


def _introduction(config: Mapping[str, Any]) -> str:
    own, names = config["headstart"], config["label_names"]
    head = " -> ".join(str(width) for width in (*own["hidden"], len(names)))
    kind = f"an MLP head ({head})" if own["hidden"] else "a linear head"
    return (
        f"# {_text(own['backbone'])}, trained on {_text(own['dataset'])}\n\n"
        f"An image classifier: the network `{config['architecture']}` with {kind}, fine-tuned with "
        f"headstart {own['version']}.\n\n"
        f"## Classes\n\nIn the order of the outputs ({number(len(names))}):\n\n"
        + "\n".join(f"{index}. {_text(name)}" for index, name in enumerate(names[:_CLASSES_LISTED]))
        + _rest(names)
    )


def _rest(names: Sequence[str]) -> str:
    more = len(names) - _CLASSES_LISTED
    return f"\n\nand {number(more)} more, all listed in `config.json`." if more > 0 else ""


def _use(config: Mapping[str, Any], *, timm_loads: bool, repository: str | None, export: bool) -> str:
    own = config["headstart"]
    place = f"hf://{repository}" if repository else "path/to/this/folder"
    timms_place = f"hf-hub:{repository}" if repository else "local-dir:path/to/this/folder"
    text = (
        "## How to use it\n\n"
        "```python\n"
        "import headstart\n\n"
        f'predictions = headstart.load("{place}").predict(["image.jpg"])\n'
        "print(predictions.labels, predictions.top(3))\n"
        "```\n\n"
        f"or `headstart predict {place} image.jpg`."
    )
    if export:
        text += (
            f"\n\n`{place}/{HUB_EXPORT}` is this classifier exported to ONNX, which needs no PyTorch; "
            f"`{HUB_EXPORT}/certificate.html` compares its predictions with those of the original."
        )
    if not timm_loads:
        return f"{text}\n\ntimm alone does not know this network and refuses it."
    flip = ", and of the image and its mirror image averaged," if own["flip"] else ""
    return (
        f"{text}\n\nWithout headstart, timm alone gives the same logits for the same input:\n\n"
        "```python\n"
        "import timm\n"
        "from PIL import Image\n\n"
        f'model = timm.create_model("{timms_place}", pretrained=True).eval()\n'
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n"
        'logits = model(transform(Image.open("image.jpg").convert("RGB")).unsqueeze(0))\n'
        'label = model.pretrained_cfg["label_names"][logits.argmax()]\n'
        "```\n\n"
        f"The scores below are those of the logits{flip} divided by the temperature "
        f"{significant(own['temperature'], 4)} before the softmax, which headstart does by itself. timm's transform "
        "rounds pixels where headstart does not."
    )


_FITS = {
    "crop": "the central square is kept",
    "pad": "the whole image, with borders in the mean color",
    "stretch": "the whole image, its proportions changed",
}


def _preprocessing(config: Mapping[str, Any]) -> str:
    image, own = config["pretrained_cfg"], config["headstart"]
    size = image["input_size"][1]
    crop = "" if image["crop_pct"] == 1 else f", of which the central {percent_short(image['crop_pct'])} is kept"
    rows = [
        ("colors", "RGB; transparency is laid on white, the orientation in EXIF is honored"),
        ("square", f"{_FITS[own.get('fit', 'crop')]}{crop}"),
        ("size", f"{size} x {size} pixels, {image['interpolation']}, antialiased"),
        ("mean", ", ".join(significant(value, 6) for value in image["mean"])),
        ("standard deviation", ", ".join(significant(value, 6) for value in image["std"])),
        ("mirror image", "averaged in" if own["flip"] else "not used"),
        ("temperature", significant(own["temperature"], 6)),
    ]
    return "## Preprocessing\n\n" + _table(("step", "value"), rows)


def _scores(metrics: Mapping[str, Any]) -> str:
    """Tabulate the measured scores; a score that was not measured gets no row."""
    splits = [split for split in _SPLITS if isinstance(metrics.get(split), dict)]
    if not splits:
        return "## Scores\n\nNot measured yet. `headstart evaluate` measures them."
    rows = []
    for metric in shown_in("card"):
        cells = [_cell(metrics[split].get(metric.name), metric.write) for split in splits]
        rows += [(metric.title, *cells)] if any(cells) else []
        if metric.interval is not None:
            ends = [_cell(metrics[split].get(metric.interval), percent_range) for split in splits]
            rows += [("95% interval", *ends)] if any(ends) else []
    heads = (f"{_SPLITS[split]} ({_cell(metrics[split].get('n'), number) or '?'} images)" for split in splits)
    text = "## Scores\n\n" + _table(("score", *heads), rows)
    if per_class := (metrics.get("test") or {}).get("per_class"):
        columns = ("precision", "recall", "f1-score", "support")
        lines = [
            (name, *(percent(row[key]) for key in columns[:3]), number(row["support"]))
            for name, row in list(per_class.items())[:_CLASSES_LISTED]
        ]
        text += "\n\nPer class, on the test split:\n\n" + _table(("class", *columns), lines) + _rest(list(per_class))
    return text


def _cell(value: Any, write: Callable[[Any], str]) -> str:
    return "" if value is None else write(value)


def _limits(config: Mapping[str, Any]) -> str:
    own = config["headstart"]
    doubt = own.get("abstention")
    return (
        "## Intended use and limits\n\n"
        f"Use it to tell apart the {number(len(config['label_names']))} classes above in images like those of "
        f"{_text(own['dataset'])}.\n\n"
        '- It has no class "none of these": an image of something else is given one of the classes too, sometimes with '
        "a high probability.\n"
        "- Its probabilities were calibrated on held-out images of the same data set. On images from another source "
        "neither the probabilities nor the scores need to hold: measure it on your own images before relying on it.\n"
        "- It inherits the gaps and biases of its data set and of the images that its backbone was pretrained on. "
        "It was not tested for decisions about people or for uses where an error does harm."
        + (f"\n- A prediction that it marks as `unsure`: {Abstention(**doubt).meaning}." if doubt else "")
        + _weak_classes(own["metrics"])
    )


def _weak_classes(metrics: Mapping[str, Any]) -> str:
    """Name the classes that are often missed, worst first, and those that were hardly tested."""
    per_class = (metrics.get("test") or {}).get("per_class") or {}
    tested = {name: row for name, row in per_class.items() if row["support"]}
    weak = sorted((row["recall"], name) for name, row in tested.items() if row["recall"] < _WEAK_RECALL)
    few = [name for name, row in per_class.items() if row["support"] < _FEW_TESTED]
    text = ""
    if weak:
        named = [f"{_text(name)} ({percent_short(recall)} found)" for recall, name in weak]
        text += f"\n- Do not rely on it to find {listed(named)}."
    if few:
        text += (
            f"\n- Fewer than {_FEW_TESTED} test images tell how well it does on {listed(list(map(_text, few)))}: their "
            "scores are hardly more than chance."
        )
    return text


def _licences(config: Mapping[str, Any]) -> str:
    own = config["headstart"]
    parts = {"pretrained weights": str(own["weights"].get("license") or "")}
    if own.get("data"):
        parts["images"] = str(own["data"].get("licence") or "")
    rows = [(what, stated if _is_stated(stated) else "not stated") for what, stated in parts.items()]
    warnings = [f"- {warning}" for what, stated in parts.items() if (warning := _licence_warning(what, stated))]
    return "\n\n".join(
        ["## Licences", _table(("of the", "licence"), rows), *(["\n".join(warnings)] if warnings else [])]
    )


def _is_stated(licence: str) -> bool:
    return licence.lower() not in ("", "unknown", "none")


def _licence_warning(what: str, licence: str) -> str:
    """Return what a licence forbids or ties to conditions of what people usually do; empty for a free one."""
    words = set(re.split(r"[^a-z]+", licence.lower()))
    if not _is_stated(licence):
        return f"The licence of the {what} is not stated: find out what it allows before you publish or sell anything."
    warnings = [warning for signs, warning in _CONDITIONS if signs & words]
    return f"The licence of the {what} ({_text(licence)}) {' and '.join(warnings)}." if warnings else ""


def _provenance(config: Mapping[str, Any]) -> str:
    own = config["headstart"]
    weights = own["weights"]
    rows = [
        ("headstart", own["version"]),
        ("backbone", own["backbone"]),
        *(
            (f"pretrained weights: {key}", str(weights[key]))
            for key in ("origin", "license", "sha256")
            if weights.get(key)
        ),
        ("data set", own["dataset"]),
        *((f"images: {split}", number(n)) for split, n in (own.get("data") or {}).get("images", {}).items()),
        ("split manifest, SHA-256", own["manifest_sha256"]),
    ]
    return "## Where it comes from\n\n" + _table(("what", "value"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_text(cell) for cell in line) + " |" for line in lines)


def _text(value: str) -> str:
    """Keep what a user named from being read as Markdown or HTML."""
    escaped = re.sub(r"([\\`*\[\]|])", r"\\\1", " ".join(value.split()))
    return escaped.replace("<", "&lt;")
