"""The wheel carries what is not Python as well: recipes, report templates, the typing marker."""

import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    built = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel"))))
    with zipfile.ZipFile(built) as wheel:
        return set(wheel.namelist())


def test_everything_in_the_package_is_in_the_wheel(names):
    package = ROOT / "src" / "headstart"
    wanted = {
        str(path.relative_to(ROOT / "src"))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in wanted if name.endswith(".yaml")}
    assert "headstart/py.typed" in wanted
    assert wanted <= names


def test_nothing_else_is_in_the_wheel(names):
    assert {name.split("/")[0].split("-")[0] for name in names} == {"headstart"}
