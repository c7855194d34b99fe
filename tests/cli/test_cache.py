"""``headstart cache``: what is listed, removed and left alone."""

import json
import re
from pathlib import Path

import pytest
from filelock import FileLock

import headstart
from headstart.cli import main
from headstart.home import KINDS


@pytest.fixture
def filled(own_home):
    names = "features/a.npy", "squares/0123/a.npy", "squares/4567/b.npy", "weights/net.safetensors", "shards/01/2.png"
    for name in names:
        path = own_home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))
    (own_home / "features" / ".b.npy-0a1b2c3d").write_bytes(b"being written")
    (own_home / "squares" / "0123.lock").touch()
    (own_home / "mine.txt").write_text("no entry of the cache")
    return own_home


def told(capsys, *words):
    assert main(["cache", *words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    return answer | {"kinds": {kind["kind"]: kind for kind in answer["kinds"]}}


def test_what_the_cache_holds_is_listed(filled, capsys):
    answer = told(capsys)
    assert answer["folder"] == str(filled)
    assert (answer["kinds"]["squares"]["entries"], answer["kinds"]["squares"]["bytes"]) == (2, 2000)
    assert answer["kinds"]["features"]["entries"] == 1
    assert answer["kinds"]["datasets"] == {
        "kind": "datasets", "entries": 0, "bytes": 0, "last_used": None, "removed": 0, "in_use": 0
    }  # fmt: skip
    assert told(capsys, "weights")["kinds"].keys() == {"weights"}
    assert main(["cache"]) == 0
    out = capsys.readouterr().out
    for word in (str(filled), "squares", "working copies", "features"):
        assert word in out


def test_a_kind_is_removed_and_nothing_else(filled, capsys):
    assert told(capsys, "--clear", "squares")["kinds"]["squares"]["removed"] == 2
    left = {str(path.relative_to(filled)) for path in filled.rglob("*") if path.is_file()}
    assert left == {
        "features/a.npy", "features/.b.npy-0a1b2c3d", "weights/net.safetensors", "shards/01/2.png", "squares/0123.lock",
        "mine.txt",
    }  # fmt: skip
    told(capsys, "--clear")
    left = {str(path.relative_to(filled)) for path in filled.rglob("*") if path.is_file()}
    assert left == {"features/.b.npy-0a1b2c3d", "squares/0123.lock", "mine.txt"}


def test_whatever_headstart_keeps_is_of_a_kind_that_can_be_removed():
    root = Path(headstart.__file__).parent
    source = {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in root.rglob("*.py")}
    assert {path for path, text in source.items() if "cache_home" in text} == {"home.py", "workflows/cache.py"}
    named = re.findall(r'\b(?:cache_of|recall|remember)\(\s*"(\w+)"', " ".join(source.values()))
    assert set(named) == set(KINDS)


def test_what_a_process_works_on_stays(filled, capsys):
    with FileLock(filled / "squares" / "0123.lock"):
        kind = told(capsys, "squares", "--clear")["kinds"]["squares"]
    assert (kind["removed"], kind["in_use"], kind["entries"]) == (1, 1, 1)
    assert (filled / "squares" / "0123" / "a.npy").exists()


def test_an_unknown_kind_is_refused_with_the_nearest(filled, capsys):
    assert main(["cache", "--clear", "square"]) == 2
    err = capsys.readouterr().err
    assert "'squares'" in err
    assert "features" in err
    assert (filled / "squares" / "0123" / "a.npy").exists()


def test_no_cache_at_all_is_an_empty_one(own_home, capsys):
    assert all(kind["entries"] == 0 for kind in told(capsys, "--clear")["kinds"].values())
    assert not own_home.exists()
