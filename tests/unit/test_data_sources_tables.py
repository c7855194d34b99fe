"""Images that tables name, that lie in parquet files, on the Hub, and corrected labels."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from headstart import files
from headstart.data.dataset import load_dataset
from headstart.data.file_dataset import FileOptions
from headstart.data.sources.discover import discover
from headstart.data.sources.tables import Columns
from headstart.errors import DataError
from headstart.terminal import Terminal
from headstart.workflows.cache import cache_contents

QUIET = Terminal(enabled=False)


def png(seed):
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


@pytest.fixture
def place(tmp_path, own_home):
    """Forty images without class folders."""
    for i in range(40):
        path = tmp_path / "data" / "images" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    return tmp_path / "data"


def rows(*, n=40, split=None):
    return [
        {"file_name": f"images/{i}.png", "label": "cat" if i % 2 else "dog"} | ({"split": split(i)} if split else {})
        for i in range(n)
    ]


def separated(content, separator=","):
    lines = [separator.join(content[0]), *(separator.join(map(str, row.values())) for row in content)]
    return "\n".join(lines) + "\n"


def find(path, *, on_bad="fail", **columns):
    return discover(path, Columns(**columns), on_bad=on_bad, terminal=QUIET)


def load(path, **options):
    return load_dataset(str(path), progress=False, options=FileOptions(**options))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", separated(rows()).encode()),
        ("t.csv", b"\xef\xbb\xbf" + separated(rows()).replace("\n", "\r\n").encode()),
        ("t.csv", separated(rows(), ";").encode()),
        ("t.csv", separated(rows()).encode("utf-16")),
        ("t.tsv", separated(rows(), "\t").encode()),
        ("t.jsonl", "\n".join(map(json.dumps, rows())).encode()),
    ],
)
def test_tables_of_all_kinds_name_images_and_labels(place, name, content):
    (place / name).write_bytes(content)
    files = find(place / name).files
    assert len(files) == 40
    assert {file.path: file.label for file in files}["images/3.png"] == "cat"
    assert min(file.size for file in files) > 0
    found = load(place / name)
    assert found.name == "t"
    assert len(found.train) + len(found.sealed_test) == 40


def test_a_parquet_table_names_images_with_the_names_of_its_classes(place):
    content = pa.table({"file_name": [row["file_name"] for row in rows()], "label": [i % 2 for i in range(40)]})
    names = {"info": {"features": {"label": {"names": ["dog", "cat"], "_type": "ClassLabel"}}}}
    content = content.replace_schema_metadata({"huggingface": json.dumps(names)})
    pyarrow.parquet.write_table(content, place / "t.parquet")
    assert {file.path: file.label for file in find(place / "t.parquet").files}["images/3.png"] == "cat"


def test_splits_and_groups_come_from_the_table(place):
    content = [
        row | {"group": f"g{i // 2}"} for i, row in enumerate(rows(split=lambda i: ("train", "DEV", "test")[i % 3]))
    ]
    (place / "t.csv").write_text(separated(content))
    found = load(place / "t.csv")
    splits = {row.path: (row.split, row.group) for row in found.ledger.rows}
    assert splits["images/4.png"] == ("val", "g2")
    assert len(found.sealed_test) == 13


def test_columns_that_the_first_line_of_json_lacks_are_read(place):
    content = [row | {"split": "test"} if i > 30 else row for i, row in enumerate(rows())]
    (place / "t.jsonl").write_text("\n".join(map(json.dumps, content)))
    assert [file.split for file in find(place / "t.jsonl").files].count("test") == 9


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
@pytest.mark.parametrize("encoding", ["shift-jis", "utf-16", "json"])
def test_text_that_can_not_be_read_is_named(place, name, encoding):
    if encoding == "json":
        content = b'{"file_name": "images/\\ud800.png", "label": "cat"}' if name == "t.jsonl" else b"\x81"
    else:
        content = separated([row | {"label": "猫ー"} for row in rows()]).encode(encoding)
    # Half a character at the end of UTF-16.
    (place / name).write_bytes(content[:-1] if encoding == "utf-16" else content)
    with pytest.raises(DataError, match="line 1: not valid JSON" if content[:1] == b"{" else "Save it as UTF-8"):
        load(place / name, on_bad="skip")


def test_usual_columns_are_known_in_capitals(place):
    content = [{name.title(): value for name, value in row.items()} for row in rows(split=lambda i: "test" * (i > 30))]
    (place / "t.csv").write_text(separated(content))
    assert len(load(place / "t.csv").sealed_test) == 9


def test_columns_can_be_named(place):
    (place / "t.csv").write_text(separated([{"picture": r["file_name"], "kind": r["label"]} for r in rows()]))
    with pytest.raises(DataError, match=r"picture, kind.*--image-column"):
        find(place / "t.csv")
    assert len(find(place / "t.csv", image="picture", label="kind").files) == 40
    with pytest.raises(DataError, match="Did you mean 'picture'"):
        find(place / "t.csv", image="pictures", label="kind")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t + "".join(f"images/x{i}.png,cat\n" for i in range(5)),
            "5 files that can't be found.*x0.*x1.*x2",
        ),
        (lambda t: t + "images/1.png,dog\n", "1 file with different labels"),
        (lambda t: t + "images/1.png,\n", "1 row without a file name or without a label.*line 42"),
        (lambda t: t + "images/1.png\n", "line 42: 1 cell for"),
        (lambda _: "file_name,label\n", "no rows"),
        (lambda _: "", "is empty"),
        (lambda t: t.replace("label", "lable"), "Did you mean 'lable'"),
    ],
)
def test_tables_that_cannot_be_used_are_refused_with_the_place(place, change, words):
    (place / "t.csv").write_text(change(separated(rows())))
    with pytest.raises(DataError, match=words):
        find(place / "t.csv")


def test_unknown_splits_are_counted(place):
    (place / "t.csv").write_text(separated(rows(split=lambda i: "hold-out" if i < 2 else "train")))
    with pytest.raises(DataError, match=r"2 rows with an unknown split \(train, val or test\).*line 2: hold-out"):
        find(place / "t.csv")


@pytest.mark.parametrize(
    ("heading", "options", "named"),
    [("label,Path,path", {}, "path"), ("label,file,label", {}, "label"), ("kind,path,kind", {"label": "kind"}, "kind")],
)
def test_a_column_that_is_there_twice_is_named(place, heading, options, named):
    (place / "t.csv").write_text(f"{heading}\ncat,images/1.png,images/2.png\n")
    with pytest.raises(DataError, match=f"2 columns '{named}'.*Remove or rename"):
        find(place / "t.csv", **options)


def test_repeated_rows_and_another_encoding_are_told(place, caplog):
    text = separated(rows()) + "images/1.png,cat\n"
    (place / "t.csv").write_bytes(text.replace("dog", "çhien").encode("latin-1"))
    files = find(place / "t.csv").files
    assert len(files) == 40
    assert files[0].label == "çhien"
    assert "1 row is a repetition and is left out" in caplog.text
    assert "not UTF-8" in caplog.text


def test_missing_files_can_be_left_out(place):
    (place / "t.csv").write_text(separated(rows()) + "images/gone.png,cat\n")
    found = load(place / "t.csv", on_bad="skip")
    assert found.ledger.refused() == {"images/gone.png": "no such file"}


def test_damaged_json_lines_and_parquet_are_named(place):
    (place / "t.jsonl").write_text('{"file_name": "images/1.png", "label": "cat"}\n{"file_name"')
    with pytest.raises(DataError, match="line 2"):
        find(place / "t.jsonl")
    (place / "t.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="parquet"):
        find(place / "t.parquet")
    (place / "t.jsonl").write_text('{"file_name": "images/1.png", "label": ["cat"]}')
    with pytest.raises(DataError, match="1 row whose label is a list"):
        find(place / "t.jsonl")
    with pytest.raises(DataError, match=r"gone\.csv can't be read: no such file"):
        find(place / "gone.csv")


def test_labels_may_be_numbers_and_are_sorted_as_such(place):
    (place / "t.csv").write_text(separated([row | {"label": i % 12} for i, row in enumerate(rows())]))
    assert load(place / "t.csv").class_names.names[:4] == ("0", "1", "2", "3")


def test_an_image_folder_has_its_labels_in_metadata(place):
    for split, part in (("train", rows()[:30]), ("test", rows()[30:])):
        (place / split / "images").mkdir(parents=True)
        for row in part:
            (place / row["file_name"]).rename(place / split / row["file_name"])
        (place / split / "metadata.csv").write_text(separated(part))
    (place / "train" / "images" / "more.png").write_bytes(png(99))
    listing = find(place)
    assert {file.split for file in listing.files} == {"train", "test"}
    assert listing.passed_over == (("train/images/more.png", "not named in metadata.csv"),)
    found = load(place)
    assert len(found.sealed_test) == 10
    assert found.train.source.image(0).shape == (8, 9, 3)


def test_a_label_that_pandas_left_empty_is_no_class(place):
    content = {"file_name": ["images/1.png", "images/2.png"], "label": [1.0, float("nan")]}
    pyarrow.parquet.write_table(pa.table(content), place / "t.parquet")
    with pytest.raises(DataError, match="1 row without a file name or without a label"):
        find(place / "t.parquet")


def shards(folder, *, column="image", n=30, **more):
    folder.mkdir(parents=True, exist_ok=True)
    for split, start in (("train", 0), ("test", n)):
        pictures = [{"bytes": png(i), "path": f"{i}.png"} for i in range(start, start + n)]
        table = pa.table({column: pictures, "label": [i % 2 for i in range(n)]} | {k: [v] * n for k, v in more.items()})
        names = {"info": {"features": {"label": {"names": ["dog", "cat"], "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(names)})
        pyarrow.parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def test_images_in_parquet_files_are_used_like_files(tmp_path, own_home, monkeypatch):
    shards(tmp_path / "set" / "data")
    found = load(tmp_path / "set")
    assert found.class_names.names == ("cat", "dog")
    assert (len(found.train), len(found.sealed_test)) == (30, 30)
    source = found.sealed_test.open().source
    expected = np.asarray(Image.open(io.BytesIO(png(30))))
    assert any(np.array_equal(source.image(i), expected) for i in range(30))
    assert source.path(0).startswith("test-00000-of-00001/")
    monkeypatch.setattr("headstart.data.sources.shards._unpack", lambda *_: pytest.fail("unpacked again"))
    assert load(tmp_path / "set").sha256 == found.sha256
    kept = cache_contents("shards", clear=True).kinds[0]
    assert (kept.removed, kept.in_use) == (0, 1)
    assert source.image(0).shape == expected.shape, "this process may still read them"
    files._held.clear()  # as when it ends
    assert cache_contents("shards", clear=True).kinds[0].removed == 1
    assert [path.suffix for path in (own_home / "shards").iterdir()] == [".lock"]


def test_splits_and_groups_stand_in_columns_of_parquet_files_too(tmp_path, own_home):
    shards(tmp_path / "set", split="dev", group=0)
    assert {(file.split, file.group) for file in find(tmp_path / "set").files} == {("val", "0")}
    shards(tmp_path / "other", split="hold-out")
    with pytest.raises(DataError, match="unknown split 'hold-out'"):
        find(tmp_path / "other")


def test_parquet_files_in_several_folders_are_refused(tmp_path, own_home):
    shards(tmp_path / "a")
    shards(tmp_path / "b")
    with pytest.raises(DataError, match="several folders: 'a', 'b'"):
        find(tmp_path)


def test_a_parquet_table_of_paths_may_have_columns_of_boxes_and_of_bytes(place):
    named = {key: [row[key] for row in rows()] for key in ("file_name", "label")}
    for name, other in (("bbox", [{"x": 1, "y": 2}] * 40), ("embedding", [b"\0\1"] * 40)):
        pyarrow.parquet.write_table(pa.table(named | {name: other}), place / "t.parquet")
        assert find(place / "t.parquet").layout == "table t.parquet"
    as_bytes = pa.array([png(i) for i in range(40)], pa.large_binary())  # as polars writes them
    content = pa.table({"hash": [b"\0"] * 40, "image": as_bytes, "path": named["file_name"], "label": named["label"]})
    pyarrow.parquet.write_table(content, place / "t.parquet")
    assert load(place / "t.parquet").train.source.image(0).shape == (8, 9, 3)
    assert find(place / "t.parquet", image="path").layout == "table t.parquet"


def test_parquet_files_beside_images_do_not_take_the_place_of_class_folders(place):
    for i in range(40):
        (place / "classes" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (place / "images" / f"{i}.png").rename(place / "classes" / "ab"[i % 2] / f"{i}.png")
    pyarrow.parquet.write_table(pa.table({"file": ["a"], "feature": [0.5]}), place / "classes" / "features.parquet")
    shards(place / "classes" / "a", n=2)
    assert find(place / "classes").layout == "a folder for each class"


def test_a_data_set_of_the_hub_is_fetched_once_with_its_licence(hub, tmp_path, monkeypatch):
    shards(tmp_path / "made")
    card = b"---\nlicense: cc-by-nc-4.0\n---\n# Pets\n"
    content = {f"data/{path.name}": path.read_bytes() for path in (tmp_path / "made").iterdir()}
    hub.publish("me/pets", "datasets", **{"README.md": card}, **content)
    found = load("hf://me/pets")
    assert (found.name, found.licence) == ("pets", "cc-by-nc-4.0")
    assert "hf://me/pets@c0ffee" in found.source
    assert len(found.train) == 30
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert load("hf://me/pets").sha256 == found.sha256


def test_what_the_hub_does_not_give_is_named(hub, own_home):
    with pytest.raises(DataError, match="hf://me/none can't be had"):
        load("hf://me/none")
    with pytest.raises(DataError, match="Write hf://owner/name"):
        load("hf://pets")


def test_corrected_labels_replace_the_others_and_drop_leaves_out(place):
    (place / "t.csv").write_text(separated(rows()))
    (place / "labels.csv").write_text("file_name,label\nimages/1.png,dog\nimages/3.png,drop\n")
    before, found = load(place / "t.csv"), load(place / "t.csv", labels_from=str(place / "labels.csv"))
    told = {row.path: row for row in found.ledger.rows}
    assert told["images/1.png"].label == "dog"
    assert (told["images/3.png"].status, told["images/3.png"].reason) == ("ignored", "dropped by labels.csv")
    assert len(found.train) + len(found.sealed_test) == 39
    assert found.sha256 != before.sha256


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("images/x.png,cat", "1 file that is not in the data set: 'images/x.png'"),
        ("images/1.png,catt", "Did you mean 'cat'"),
        ("images/1.png,cat\nimages/1.png,dog", "two different labels"),
    ],
)
def test_corrections_that_fit_nothing_are_refused(place, line, words):
    (place / "t.csv").write_text(separated(rows()))
    (place / "labels.csv").write_text(f"file_name,label\n{line}\n")
    with pytest.raises(DataError, match=words):
        load(place / "t.csv", labels_from=str(place / "labels.csv"))


@pytest.mark.parametrize(("head", "name"), [("photo,label", "file_name"), ("file_name,kind", "label")])
def test_corrections_without_the_usual_columns_name_no_option(place, head, name):
    (place / "t.csv").write_text(separated(rows()))
    (place / "labels.csv").write_text(f"{head}\n0.png,cat\n")
    with pytest.raises(DataError, match=f"Call it '{name}'") as refused:
        load(place / "t.csv", labels_from=str(place / "labels.csv"))
    assert "-column" not in str(refused.value)


def test_columns_are_refused_where_there_is_no_table(place):
    (place / "images" / "0.png").rename(place / "0.png")
    with pytest.raises(DataError, match="--label-column"):
        find(place, label="kind")


def test_a_table_that_is_a_device_is_refused_at_once(place):
    (place / "labels.csv").symlink_to("/dev/zero")
    with pytest.raises(DataError, match="a pipe or a device"):
        load(place, labels_from=str(place / "labels.csv"))
