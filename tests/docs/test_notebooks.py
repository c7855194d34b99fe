"""The notebooks are kept without outputs, and run from their first cell to their last on the bundled sample."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(
    path
    for path in ROOT.rglob("*.ipynb")
    if not {".venv", ".ipynb_checkpoints", "node_modules"} & {*path.relative_to(ROOT).parts}
)
STORY = "cifar10_transfer_learning"


def read(path):
    return nbformat.read(path, as_version=4)


def parameters_of(notebook):
    """Places of the cells that papermill, and this test, put other values behind."""
    return [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]


@pytest.fixture(scope="module")
def executed(sample_dir, tmp_path_factory):
    """The story, run in a kernel of its own in an empty folder; and that folder."""
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HEADSTART_HOME", str(folder / "home"))
        environment.setenv("HF_HUB_OFFLINE", "1")
        # What progress bars of other libraries say where there is no ipywidgets is no concern of ours.
        environment.setenv("PYTHONWARNINGS", "default,ignore:IProgress not found")
        notebook = read(ROOT / "notebooks" / f"{STORY}.ipynb")
        values = {"DATA": str(sample_dir), "LIMIT": 200, "BACKBONE": "tf_efficientnet_lite0.in1k", "QUICK": True}
        given = "\n".join(f"{name} = {value!r}" for name, value in values.items())
        (place,) = parameters_of(notebook)
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(given))
        NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        ).execute()
    return notebook, folder


def test_all_notebooks_are_found():
    assert [path.relative_to(ROOT).as_posix() for path in NOTEBOOKS] == [f"notebooks/{STORY}.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_kept_without_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert [cell.id for cell in code if cell.outputs or cell.execution_count is not None] == []
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_installs_first_and_has_one_cell_of_parameters(path):
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "%pip install" in code[0].source
    assert len(parameters_of(notebook)) == 1


def test_every_cell_runs_without_a_warning(executed):
    notebook, _ = executed
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    told = "\n".join(output.text for cell in code for output in cell.outputs if output.output_type == "stream")
    assert "Warning" not in told, told


def test_the_story_uses_every_public_verb(executed):
    notebook, _ = executed
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    for verb in ("explore", "train", "evaluate", "compare", "study", "load"):
        assert f"headstart.{verb}(" in source


def test_only_what_validation_chose_has_seen_the_test_split(executed):
    _, folder = executed
    runs = folder / "runs" / "notebook-quick"
    steps = {path.parent.name for path in runs.glob("*/recipe.yaml")}
    told = {"as-published", "baseline", "finetune", "finetune-96"}
    candidates = {"constant-rate", "mixup", "cutmix", "weak-classes"}
    assert steps == told | candidates
    measured = {path.parent.name for path in runs.glob("*/metrics.json")}
    (chosen,) = (path.parent.name for path in runs.glob("*/corruptions.json"))
    assert chosen in candidates | {"finetune-96"}
    assert measured == told | {chosen}
    for step in candidates - measured:
        assert json.loads((runs / step / "environment.json").read_text()).get("test_openings", []) == []


def test_the_pages_that_the_story_shows_are_in_it(executed):
    notebook, _ = executed
    pages = [
        output.data["text/html"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "display_data" and "srcdoc" in output.data.get("text/html", "")
    ]
    assert len(pages) == 5
    assert all("&lt;svg" in page for page in pages)
    titles = [page.partition("&lt;title&gt;")[2].partition("&lt;/title&gt;")[0] for page in pages]
    assert len(set(titles)) >= 4, titles
