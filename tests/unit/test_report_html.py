"""The page as text: complete, self-contained, accessible, and honest about what it shows."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from headstart.bundle.exported import OFFLINE_PAGE
from headstart.data.arrays import image_hashes
from headstart.errors import RunError
from headstart.report.exports import link_exports
from headstart.report.html import write_report
from headstart.report.mistakes import data_uri, worst
from headstart.report.page import flat
from headstart.report.saliency import layer
from headstart.runs.predictions import TestPredictions
from headstart.tasks.abstention import Judgement, measure_abstention
from headstart.wording import percent

VOID = {"meta", "link", "img", "br", "wbr", "line", "rect", "circle", "path"}


class Page(HTMLParser):
    """Elements with their attributes and text, and whether every tag that is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag, attributes):
        self.elements.append({"tag": tag, "text": "", "inside": [e["tag"] for e in self.open], **dict(attributes)})
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attributes):
        self.elements.append({"tag": tag, "text": "", "inside": [e["tag"] for e in self.open], **dict(attributes)})

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data
        if "style" not in [element["tag"] for element in self.open]:
            self.text += data

    def all(self, *tags):
        return [element for element in self.elements if element["tag"] in tags]


def report(run):
    text = write_report(run.run, run.picture).read_text(encoding="utf-8")
    page = Page(text)
    page.source = text
    page.words = re.sub(r"\s+", " ", page.text)
    return page


def test_averages_over_classes_come_first_where_classes_are_uneven(make_evaluated_run):
    run = make_evaluated_run(uneven=True)
    page = report(run)
    recalls = [figures["recall"] for figures in run.metrics.per_class.values()]
    score = page.words.index(f"Balanced test accuracy{percent(np.mean(recalls))}")
    assert score < page.words.index("Macro F1") < page.words.index("Accuracy" + percent(run.metrics.accuracy))
    assert "classes are uneven" in page.words
    even = report(make_evaluated_run(name="even"))
    assert "Balanced" not in even.words


def test_copies_and_what_they_are_worth_are_told(make_evaluated_run):
    run = make_evaluated_run()
    found = {"exact": 2, "contradictory": 1, "contradictory_files": [["cat/1.png", "dog/1.png"]]}
    near = {"near": 30, "test_with_copy_in_train_if_ignored": 7, "test_if_ignored": 50}
    data = json.loads((run.path / "environment.json").read_text())["data"]
    run.change("environment.json", data=data | {"copies": found | near})
    page = report(run)
    assert "7 of 50 test images would have had a copy in train" in page.words
    assert "cat/1.png = dog/1.png" in page.words
    lines = (run.path / "split_manifest.csv").read_text().splitlines()
    train, test = lines[1].split(","), next(line for line in lines if ",test," in line).split(",")
    (run.path / "split_manifest.csv").write_text(
        "\n".join([*lines, ",".join([test[0], "train", train[2], "9999"])]) + "\n"
    )
    words = report(run).words
    assert "1 test image also occurs in the training" in words
    assert re.search(r"Accuracy is (100|0)\.00% on them and \d+\.\d+% on the others", words)


def test_the_page_is_one_file_that_loads_and_runs_nothing(make_evaluated_run):
    run = make_evaluated_run()
    page = report(run)
    for element in page.elements:
        assert element["tag"] not in {"script", "iframe", "object", "embed"}
        for attribute in ("src", "href", "srcset", "action", "data", "xlink:href", "poster"):
            assert element.get(attribute, "data:").startswith("data:")
        assert not [name for name in element if name.startswith("on")]
    assert "url(" not in page.source
    assert "@import" not in page.source
    assert not re.search(r"https?://", page.source)
    policy = next(e for e in page.all("meta") if e.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")
    assert sorted(path.name for path in run.path.iterdir() if path.name.startswith((".", "report"))) == ["report.html"]


def test_the_headline_says_what_was_measured(make_evaluated_run):
    run = make_evaluated_run()
    words = report(run).words
    test = run.metrics
    low, high = test["accuracy_ci95"]
    correct = round(test["accuracy"] * 240)
    assert f"Test accuracy{percent(test['accuracy'])} 95% interval {percent(low)} to {percent(high)}" in words
    assert f"right label to {correct} of 240 test images" in words
    assert f"Macro F1{percent(test['macro_f1'])}" in words
    assert f"from {percent(test['ece'])} to {percent(test['ece_calibrated'])}" in words
    assert "2 min 43 s" in words
    assert "tf_efficientnet_lite0.in1k" in words


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "No opening of the test split is on record"), (1, "opened once, on 4 May 2026, 10:14"), (3, "opened 3 times")],
)
def test_it_says_how_often_the_test_split_was_opened(make_evaluated_run, count, said):
    run = make_evaluated_run()
    opening = {"time": "2026-05-04T10:14:22+00:00", "command": "headstart evaluate runs/a-run"}
    run.change("environment.json", test_openings=[opening] * count)
    page = report(run)
    assert said in page.words
    assert page.words.count("headstart evaluate runs/a-run") == (3 if count == 3 else 0)


def test_it_says_when_the_test_split_was_opened_for_one_classifier_alone(make_evaluated_run):
    run = make_evaluated_run()
    opening = {"time": "2026-05-04T10:14:22+00:00", "command": "headstart evaluate runs/a-run"}
    first, second = (opening | {"weights_sha256": letter * 64} for letter in "ab")
    run.change("environment.json", test_openings=[first, first])
    assert "opened 2 times, each time for the same weights" in report(run).words
    for openings in ([first, second], [first, opening], [opening, opening]):
        run.change("environment.json", test_openings=openings)
        assert "opened 2 times. If settings were changed in between" in report(run).words


def test_every_chart_has_a_title_a_description_and_a_table(make_evaluated_run):
    page = report(make_evaluated_run())
    drawings = page.all("svg")
    assert len(drawings) == 6
    ids = {element["id"]: element for element in page.elements if "id" in element}
    for drawing in drawings:
        for name in drawing["aria-labelledby"].split():
            assert ids[name]["text"].strip()
            assert ids[name]["tag"] in {"title", "desc"}
    assert len(ids) == sum("id" in element for element in page.elements), "identifiers are unique"
    captions = [element["text"] for element in page.all("summary")]
    # The charts of classes and of coverage have their tables right below them.
    for words in ("Table of epochs", "Table of counts and percentages", "Table of confidence bins"):
        assert any(words in caption for caption in captions)
    assert all("details" in element["inside"] for element in page.all("summary"))


def test_tables_are_accessible_and_scroll_inside_their_box(make_evaluated_run):
    page = report(make_evaluated_run())
    assert len(page.all("table")) >= 8
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(header["scope"] in {"row", "col"} for header in page.all("th"))
    assert all("div" in table["inside"] for table in page.all("table"))
    boxes = [element for element in page.all("div") if element.get("class") == "scroll"]
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)


def test_the_most_confident_mistakes_are_shown_with_their_pictures(make_evaluated_run):
    run = make_evaluated_run()
    page = report(run)
    predictions = run.predictions
    wrong = np.flatnonzero(predictions.indices != run.labels)
    confidence = predictions.probabilities.max(axis=1)
    expected = wrong[np.argsort(-confidence[wrong].round(6), kind="stable")][:24].tolist()
    pictures = [picture for picture in page.all("img") if "ul" in picture["inside"]]
    assert len(run.pictures_asked) == len(page.all("img")), "only pictures that are shown are asked for"
    assert len(pictures) == 24
    names = predictions.class_names
    for row, picture in zip(expected, pictures, strict=True):
        said = f"Test image, row {row}: labeled {names[int(run.labels[row])]}, predicted {predictions.labels[row]}"
        assert picture["alt"].startswith(said)
        decoded = Image.open(io.BytesIO(base64.b64decode(picture["src"].partition(",")[2])))
        np.testing.assert_array_equal(np.asarray(decoded), run.images[row])
    assert f"The 24 of {len(wrong)} mistakes" in page.words


def test_mistakes_are_linked_to_their_files_relative_to_the_page(make_evaluated_run, tmp_path):
    run = make_evaluated_run()
    (tmp_path / "my photos" / "cat").mkdir(parents=True)
    (run.path / "recipe.yaml").write_text(f"data:\n  name: {tmp_path / 'my photos'}\n")
    n = len(run.labels)
    files = [f"cat/{row} <b>.png" for row in range(n)]
    for file in files:
        (tmp_path / "my photos" / file).touch()
    run.run.write_predictions(
        TestPredictions(np.arange(n), image_hashes(run.images), run.labels, run.predictions, files)
    )
    run.change(
        "environment.json",
        data={
            "name": "animals",
            "sha256": "ab" * 32,
            "licence": "cc-by-4.0",
            "files": {"used": 480, "copy": 3, "refused": 2},
        },
    )
    page = write_report(run.run, run.picture).read_text()
    links = re.findall(r'<a href="([^"]+)">', page)
    examples = page[page.index("Examples of the most frequent confusions") : page.index('aria-labelledby="classes"')]
    assert len(links) == 24 + examples.count("<img ")
    assert examples.count("<a href=") == examples.count("<img ") > 6
    assert all(re.fullmatch(r"\.\./my%20photos/cat/\d+%20%3Cb%3E\.png", link) for link in links)
    alternatives = re.findall(r'alt="Test image, ([^:]+): labeled', page)
    assert len(alternatives) == len(links)
    assert all(re.fullmatch(r"cat/\d+ &lt;b&gt;\.png", named) for named in alternatives)
    assert "480 used, 3 copies, 2 refused" in " ".join(page.split())
    for file in files:
        (tmp_path / "my photos" / file).unlink()
    assert "<a href=" not in write_report(run.run, run.picture).read_text()
    assert "Licence of the images: cc-by-4.0." in page


def test_the_pairs_confused_most_are_shown_with_the_surest_pictures_of_each(make_evaluated_run):
    run = make_evaluated_run()
    page = report(run)
    predictions, labels = run.predictions, run.labels
    counts = np.array(run.metrics["confusion_matrix"])
    np.fill_diagonal(counts, 0)
    best = np.sort(counts.ravel())[::-1][:6]
    captions = [element["text"] for element in page.all("figcaption") if " predicted as " in element["text"]]
    shown = [re.match(r"([a-z]+) predicted as ([a-z]+)(\d+) images?, ([\d.]+)%", text).groups() for text in captions]
    assert [int(count) for _, _, count, _ in shown] == best.tolist()
    pictures = [picture for picture in page.all("img") if "figure" in picture["inside"]]
    for label, said, count, share in shown:
        i, j = (predictions.class_names.index(name) for name in (label, said))
        assert counts[i, j] == int(count)
        assert float(share) == pytest.approx(100 * int(count) / (labels == i).sum(), abs=0.051)
        own = np.flatnonzero((labels == i) & (predictions.indices == j))
        surest = own[np.argsort(-predictions.probabilities[own, j].round(6), kind="stable")][:6]
        for row in surest:
            alt = pictures.pop(0)["alt"]
            assert alt.startswith(f"Test image, row {row}: labeled {label}, predicted {said} with")
    assert pictures == []


def test_the_confusion_matrix_has_counts_and_percentages(make_evaluated_run):
    run = make_evaluated_run()
    texts = [element["text"] for element in report(run).all("text") if "count" in (element.get("class") or "")]
    counts = np.array(run.metrics["confusion_matrix"])
    filled = counts > 0
    expected = np.stack([counts[filled], (100 * counts / counts.sum(1, keepdims=True))[filled]], 1).ravel()
    np.testing.assert_allclose([float(text) for text in texts], expected, atol=0.051)


def test_the_matrix_of_two_classes_and_its_letters_stay_small_and_few_test_images_are_doubted(make_evaluated_run):
    page = report(make_evaluated_run(names=("cat", "dog"), n=40))
    (matrix,) = [svg for svg in page.all("svg") if svg["aria-labelledby"].startswith("matrix-")]
    largest = float(matrix["style"].removeprefix("max-width: ").removesuffix("px"))
    assert largest <= 1.25 * float(matrix["viewbox"].split()[2])
    assert "mostly chance, from 40 test images" in page.words
    assert "test images" not in report(make_evaluated_run(name="more")).words.partition("mostly chance, from")[2][:20]


def test_the_probabilities_on_the_coverage_curve_keep_off_the_axis_below_it(make_evaluated_run):
    page = report(make_evaluated_run(n=100, strength=2))
    source = page.source.partition('aria-labelledby="coverage-chart-title')[2].partition("</svg>")[0]
    chart = Page(f"<svg>{source.partition('>')[2]}</svg>")
    bottom = next(float(line["y1"]) for line in chart.all("line") if line["class"] == "axis")
    places = [float(text["y"]) for text in chart.all("text")]
    assert len(chart.all("circle")) > 2
    assert all(y <= bottom + 4 or y >= bottom + 18 for y in places), places


def test_every_class_has_its_bars_and_the_report_its_averages(make_evaluated_run):
    run = make_evaluated_run()
    page = report(run)
    bars = [element["text"] for element in page.all("text") if element.get("class") == "bar-value"]
    expected = [
        100 * row[key] for row in run.metrics["per_class"].values() for key in ("precision", "recall", "f1-score")
    ]
    np.testing.assert_allclose([float(text) for text in bars], expected, atol=0.051)
    for row in ("accuracy", "macro avg", "weighted avg"):
        assert row in [header["text"] for header in page.all("th")]


def test_the_classes_that_stand_out_are_named(make_evaluated_run):
    run = make_evaluated_run()
    words = report(run).words
    table = run.metrics["per_class"]
    for said, key, choose in (
        ("Highest precision", "precision", max),
        ("Highest recall", "recall", max),
        ("Lowest F1", "f1-score", min),
    ):
        value = choose(row[key] for row in table.values())
        named = re.search(rf"{said}: (\w+) \(", words).group(1)
        assert table[named][key] == value


def test_a_target_that_was_missed_on_test_is_marked_beside_its_interval(make_evaluated_run):
    run = make_evaluated_run()
    val, poor, fair = (Judgement(np.full(200, 0.9), np.arange(200) >= wrong) for wrong in (0, 13, 3))
    for test, missed in ((poor, {"98%", "99%"}), (fair, set())):
        run.change("metrics.json", abstention=measure_abstention(0.98, val, test))
        page = report(run)
        rows = [element["text"] for element in page.all("tr") if "below its target on test" in element["text"]]
        assert {text[:3] for text in rows} == missed
        assert ("test split missed it: 93.5% of 200 predictions" in page.words) is bool(missed)


def test_a_run_without_epochs_says_so(make_evaluated_run):
    run = make_evaluated_run(epochs=0)
    page = report(run)
    assert "no curves" in page.words
    assert len(page.all("svg")) == 4
    (run.path / "history.csv").unlink()
    assert "no epochs" in report(run).words


def test_the_best_epoch_is_marked_in_the_drawing_and_in_the_table(make_evaluated_run):
    page = report(make_evaluated_run())
    assert [e["text"] for e in page.all("text")].count("best: 3") == 2
    assert "3 (best)" in page.words
    assert "The weights after epoch 3 were kept, because they were the best on validation" in page.words


def test_an_epoch_that_was_kept_without_being_the_best_is_not_called_that(make_evaluated_run):
    run = make_evaluated_run()
    metrics = json.loads((run.path / "metrics.json").read_text(encoding="utf-8"))
    (run.path / "metrics.json").write_text(json.dumps(metrics | {"best_epoch": 2}), encoding="utf-8")
    page = report(run)
    assert [e["text"] for e in page.all("text")].count("kept: 2") == 2
    assert "3 (best)" not in page.words
    assert "The weights after epoch 2 were kept, as the recipe asks" in page.words


def test_where_balanced_accuracy_selects_the_page_says_so(make_evaluated_run):
    run = make_evaluated_run()
    lines = (run.path / "history.csv").read_text().splitlines()
    cells = ["val_balanced_accuracy", "0.5", "0.6", "0.8123", "0.7"]
    (run.path / "history.csv").write_text("\n".join(map(",".join, zip(lines, cells, strict=True))) + "\n")
    page = report(run)
    assert "balanced accuracy 81.23%" in page.words
    assert "best on validation" in page.words
    assert "selects here, because the classes of the training images are uneven" in page.words
    cells[3] = "0.1"
    (run.path / "history.csv").write_text("\n".join(map(",".join, zip(lines, cells, strict=True))) + "\n")
    assert "as the recipe asks" in report(run).words


def test_a_classifier_without_mistakes_has_a_page(make_evaluated_run):
    page = report(make_evaluated_run(strength=50.0))
    assert page.words.count("every test image was classified correctly") == 2
    assert page.all("img") == []


def test_names_are_text_and_never_markup(make_evaluated_run):
    names = ("<script>alert(1)</script>", 'a "quoted" & b', "кошка", "x" * 60)
    page = report(make_evaluated_run(names=names))
    assert page.all("script") == []
    for name in names:
        assert name in page.text
    assert any('labeled a "quoted" & b' in picture["alt"] for picture in page.all("img"))


@pytest.mark.parametrize("names", [("=cmd|calc", "+1", "-2", "@x"), ("a\u2028b", "c\x85d", "e\nf", 'g "h", i')])
def test_a_run_of_odd_class_names_has_a_page(make_evaluated_run, names, monkeypatch):
    # Runs of earlier versions may have names that are refused today.
    monkeypatch.setattr("headstart.contracts._UNPRINTABLE", set())
    run = make_evaluated_run(names=names)
    for name in names:
        assert " ".join(name.split()) in report(run).words


def test_the_page_does_not_tell_the_folders_of_the_machine(make_evaluated_run):
    run = make_evaluated_run()
    command = "headstart train /srv/anna/photos --data-dir C:\\Users\\anna\\x.tgz --out runs/a-run"
    opening = {"time": "2026-05-04T10:14:22+00:00", "command": command}
    run.change("environment.json", command=command, data_dir="/srv/anna/my copies/x.tgz", test_openings=[opening] * 2)
    run.change("environment.json", weights={"origin": "/srv/anna/weights.h5", "source": "https://example.org/a/b"})
    recipe = run.path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("name: animals", "name: /srv/anna/photos"))
    page = report(run)
    assert "anna" not in page.source
    for words in (".../photos", ".../x.tgz", ".../weights.h5", "https://example.org/a/b", "--out runs/a-run"):
        assert words in page.text


def test_many_classes_stay_under_a_megabyte(make_evaluated_run):
    run = make_evaluated_run(names=[f"class number {i}" for i in range(100)], n=2000)
    page = report(run)
    assert len(page.source.encode()) < 1_000_000
    assert "The most frequent confusions" in page.words
    assert "Table of counts and percentages" not in page.words


def test_a_thousand_classes_make_a_page_of_less_than_five_megabytes(make_evaluated_run):
    run = make_evaluated_run(names=[f"class number {i}" for i in range(1000)], n=2000, strength=0.5)
    page = report(run)
    assert len(page.source.encode()) < 5_000_000
    assert "Figures of all 1,000 classes" in [element["text"] for element in page.all("summary")]
    assert "class number 999" in page.text
    assert [element for element in page.all("div") if element.get("class") == "matrix"] == []


CORRUPTIONS = {
    "n": 40,
    "seed": 0,
    "severities": [1, 2, 3, 4, 5],
    "clean_accuracy": 0.875,
    "accuracy": 0.61,
    "accuracy_ci95": [0.55, 0.67],
    "relative_accuracy": 0.7,
    "by_severity": [0.85, 0.75, 0.6, 0.5, 0.3625],
    "categories": {"noise": [0.8, 0.7, 0.6, 0.5, 0.4], "blur": [0.9, 0.8, 0.6, 0.5, 0.325]},
    "corruptions": {
        "shot noise": {"category": "noise", "accuracy": [0.8, 0.7, 0.6, 0.5, 0.4]},
        "motion blur": {"category": "blur", "accuracy": [0.9, 0.8, 0.6, 0.5, 0.325]},
    },
}


def test_corrupted_images_are_on_the_page_once_they_are_measured(make_evaluated_run):
    run = make_evaluated_run()
    assert "Corrupted images" not in report(run).words
    (run.path / "corruptions.json").write_text(json.dumps(CORRUPTIONS))
    sheet = np.random.default_rng(0).integers(0, 256, (2 * 8, 5 * 8, 3), dtype=np.uint8)
    Image.fromarray(sheet).save(run.path / "corruptions.png")
    page = report(run)
    assert "40 test images" in page.words
    assert "falls from 87.5% on the original images to 61.0%" in page.words
    assert "motion blur at severity 5, with 32.5%" in page.words
    pictures = {picture["alt"]: picture for picture in page.all("img") if "table" in picture["inside"]}
    assert len(pictures) == 10
    shown = Image.open(io.BytesIO(base64.b64decode(pictures["motion blur, severity 2"]["src"].partition(",")[2])))
    np.testing.assert_array_equal(np.asarray(shown), sheet[8:, 8:16])
    (run.path / "corruptions.png").unlink()
    assert [picture for picture in report(run).all("img") if "table" in picture["inside"]] == []


def test_the_maps_lie_over_the_mistakes_that_were_explained(make_evaluated_run):
    run = make_evaluated_run()
    assert "Where the model looked" not in report(run).words
    wrong = worst(run.run.predictions(), count=3)
    images = [
        {"row": p.row, "size": [32, 32], "box": [0, 0, 32, 32], "maps": {p.label: [[0, 0], [0, 1]], p.predicted: [[0]]}}
        for p in (wrong[2], wrong[0])
    ]
    content = {"method": "Grad-CAM", "library": "captum 0.9.0", "layer": "bn2", "images": images}
    (run.path / "saliency.json").write_text(json.dumps(content))
    page = report(run)
    assert "Grad-CAM (captum 0.9.0, at bn2)" in page.words
    layers = [picture for picture in page.all("img") if picture.get("class") == "heat"]
    assert [picture["alt"] for picture in layers] == [
        text
        for p in (wrong[0], wrong[2])
        for text in (
            f"Parts of test image {p.row} that supported the prediction, {p.predicted}",
            f"Parts of test image {p.row} that supported the label, {p.label}",
        )
    ]
    clear, lit = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(picture["src"].partition(",")[2])))) for picture in layers[:2]
    )
    assert (clear.shape, clear[..., 3].max()) == ((32, 32, 4), 0)
    assert lit[-1, -1, 3] > 150
    assert lit[0, 0, 3] == 0


def test_a_layer_covers_the_part_that_the_network_saw():
    uri = layer(np.ones((2, 2), np.float32), box=(0, 100, 200, 200), height=200, width=400)
    opacity = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))[..., 3]
    assert opacity.shape == (48, 96)
    assert (opacity[:, 24:72] > 0).all()
    assert not opacity[:, :24].any()
    assert not opacity[:, 72:].any()


@pytest.mark.parametrize("file", ["corruptions.json", "saliency.json"])
@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"images": [1]}', '{"severities": [1], "images": 3}'])
def test_damaged_additions_are_named_with_the_remedy(make_evaluated_run, file, content):
    run = make_evaluated_run()
    (run.path / file).write_text(content)
    with pytest.raises(RunError, match=file):
        write_report(run.run, run.picture)


def test_split_counts_hash_recipe_and_environment_are_there(make_evaluated_run):
    run = make_evaluated_run()
    page = report(run)
    for words in ("Training: 180 images", "selects: 60 images", "reports: 240 images"):
        assert words in page.words
    assert re.search(r"SHA-256 of the manifest is [0-9a-f]{64}", page.words)
    assert "data:\n  name: animals\nseed: 3" in page.text
    assert "versions.torch" in page.words
    assert "headstart train animals --out runs/a-run" in page.words
    assert "No test image occurs in the training or validation split" in page.words


@pytest.mark.parametrize(("copies", "said"), [(1, "1 test image also occurs"), (3, "3 test images also occur")])
def test_test_images_in_another_split_are_counted_one_by_one_and_nothing_denies_them(make_evaluated_run, copies, said):
    run = make_evaluated_run()
    manifest = run.path / "split_manifest.csv"
    lines = manifest.read_text().splitlines()
    first_train = next(line for line in lines if ",train," in line).split(",")[0]
    # All of them copies of one and the same training image.
    for place in [i for i, line in enumerate(lines) if ",test," in line][:copies]:
        lines[place] = ",".join([first_train, *lines[place].split(",")[1:]])
    manifest.write_text("\n".join(lines) + "\n")
    words = report(run).words
    assert said in words
    assert "never saw" not in words
    assert "No test image occurs" not in words


@pytest.mark.parametrize("file", ["metrics.json", "predictions.csv", "environment.json", "recipe.yaml"])
def test_a_missing_file_is_named(make_evaluated_run, file):
    run = make_evaluated_run()
    (run.path / file).unlink()
    with pytest.raises(RunError, match=file):
        write_report(run.run, run.picture)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics.json", "{"),
        ("metrics.json", "[]"),
        ("metrics.json", "{}"),
        ("environment.json", "nothing"),
        ("predictions.csv", "row,label\n1,cat\n"),
        ("predictions.csv", "row,sha256,label,predicted,probability\n1,a,cat,dog,much\n"),
        ("history.csv", "epoch,train_loss\n1,low\n"),
    ],
)
def test_a_damaged_file_is_named_and_an_earlier_page_stays(make_evaluated_run, file, content):
    run = make_evaluated_run()
    (run.path / "report.html").write_text("an earlier page")
    (run.path / file).write_text(content)
    with pytest.raises(RunError, match=file):
        write_report(run.run, run.picture)
    assert (run.path / "report.html").read_text() == "an earlier page"


def test_exports_in_the_folder_of_a_run_are_linked_when_the_page_is_written_and_afterwards(make_evaluated_run):
    evaluated = make_evaluated_run()
    run, page = evaluated.run, write_report(evaluated.run, evaluated.picture)
    whole = page.read_text()

    def links():
        return re.findall('<a href="([^"]*)">', page.read_text().partition("exports -->")[2].partition("<!--")[0])

    export, alone = run.path / "to ship", run.path / "pets.html"
    export.mkdir()
    for name in ("model.onnx", "certificate.html"):
        (export / name).touch()
    alone.write_text(f'<meta name="generator" content="{OFFLINE_PAGE}">')
    (run.path / "notes.html").write_text("<p>mine")
    link_exports(run, run.path.parent / "elsewhere")
    assert page.read_text() == whole
    for added in (export, alone):
        link_exports(run, added)
        assert links() == ["pets.html", "to%20ship/certificate.html"]
    write_report(run, evaluated.picture)
    assert links() == ["pets.html", "to%20ship/certificate.html"]
    alone.unlink()
    link_exports(run, export)
    assert links() == ["to%20ship/certificate.html"]
    shutil.rmtree(export)
    link_exports(run, export)
    assert page.read_text() == whole
    page.write_text("of an earlier version")
    link_exports(run, export)
    assert page.read_text() == "of an earlier version"


def test_large_pictures_are_reduced_and_small_ones_are_not():
    def size(shape):
        uri = data_uri(np.zeros((*shape, 3), np.uint8))
        return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size

    assert size((32, 32)) == (32, 32)
    assert size((1000, 500)) == (48, 96)


def test_nested_settings_are_flattened_for_a_table():
    assert flat({"a": {"b": 1, "c": [1, 2]}, "d": None, "e": []}) == [
        ("a.b", "1"),
        ("a.c", "1, 2"),
        ("d", "none"),
        ("e", "none"),
    ]
