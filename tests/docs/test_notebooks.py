"""The notebooks are kept without outputs, and run from their first cell to their last on the bundled sample."""

import importlib
import json
import re
import shutil
import signal
import warnings
from pathlib import Path

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient
from safetensors.torch import save_file

import warm
from headstart.models.architectures import create_network

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(
    path
    for path in ROOT.rglob("*.ipynb")
    if not {".venv", ".ipynb_checkpoints", "node_modules"} & {*path.relative_to(ROOT).parts}
)
STUDY = ROOT / "notebooks" / "cifar10_transfer_learning.ipynb"
OWN = ROOT / "notebooks" / "your_own_images.ipynb"
COMMIT = "c0ffee" + "0" * 34


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters_of(notebook):
    """Places of the cells that papermill, and this test, put other values behind."""
    return [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]


class Kernels(AsyncKernelManager):
    """Starts a kernel that has imported headstart's libraries already: importing them takes longer than most cells."""

    process = None
    has_kernel = property(lambda self: self.process is not None)

    async def start_kernel(self, *, cwd, **_):
        self.write_connection_file()
        self.process = warm.Warm(serve_cells, self.connection_file, cwd=cwd)

    async def _async_is_alive(self):
        return self.process.is_alive()

    is_alive = _async_is_alive

    async def shutdown_kernel(self, **_):
        self.process.signal(signal.SIGKILL)
        self.process.wait()

    async def cleanup_resources(self, **_):
        self.cleanup_connection_file()


def serve_cells(connection):
    """Be a kernel, in which warnings are shown."""
    from huggingface_hub import constants
    from ipykernel.kernelapp import IPKernelApp

    from headstart.workflows import explore, plan

    # A quarter of the pixels, since what the figures are is tested elsewhere.
    explore.LABEL_SIZE, plan.MEASURED = explore.FEATURE_SIZE, (64,)
    importlib.reload(constants)  # which were read before this process had its environment
    warnings.simplefilter("default")
    # What progress bars of other libraries say where there is no ipywidgets is no concern of ours.
    warnings.filterwarnings("ignore", "IProgress not found")
    IPKernelApp.launch_instance(["-f", connection])


def execute(path, folder, **values):
    """Run a notebook in a kernel of its own, in ``folder``; return it with its outputs."""
    notebook = read(path)
    (place,) = parameters_of(notebook)
    given = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(given))
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_manager_class=Kernels, resources=where).execute()
    return notebook


def keep_weights(cache, architecture, tag="r160_in1k"):
    """Put random weights of a tiny network where the Hub's client keeps what it has fetched."""
    repository = cache / f"models--timm--{architecture}.{tag}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    network = create_network(architecture, num_classes=1000, seed=1)
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    save_file(network.state_dict(), repository / "snapshots" / COMMIT / "model.safetensors")


def test_all_notebooks_are_found():
    assert sorted(NOTEBOOKS) == [STUDY, OWN], "a new notebook needs a test that runs it, like those below"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_kept_without_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert code(notebook)
    assert [cell.id for cell in code(notebook) if cell.outputs or cell.execution_count is not None] == []
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_installs_first_and_has_one_cell_of_parameters(path):
    notebook = read(path)
    assert "%pip install" in code(notebook)[0].source
    assert len(parameters_of(notebook)) == 1


def test_the_study_is_told_through_every_public_verb():
    source = "\n".join(cell.source for cell in code(read(STUDY)))
    missing = [
        verb
        for verb in ("explore", "train", "evaluate", "compare", "study", "load")
        if f"headstart.{verb}(" not in source
    ]
    assert missing == []


# One test, since tests of one file may run in several processes, and each would run the notebook.
@pytest.mark.timeout(1200)
def test_the_study_runs_from_the_first_cell_to_the_last(sample_dir, own_home, tmp_path, monkeypatch):
    keep_weights(tmp_path / "hub", "test_efficientnet")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = execute(
        STUDY, tmp_path, DATA=str(sample_dir), LIMIT=100, BACKBONE="test_efficientnet.r160_in1k", QUICK=True
    )
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    check_that_nothing_warned(notebook)
    check_that_only_the_chosen_saw_the_test_split(tmp_path / "runs" / "notebook-quick")
    check_that_the_pages_are_shown(notebook)


@pytest.mark.timeout(600)
def test_a_folder_of_photographs_is_taken_from_files_to_predictions(photos, own_home, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("cardboard", "plastic", "trash"):
        shutil.rmtree(photos / name)
    notebook = execute(OWN, tmp_path, DATA=str(photos), BUDGET="10s")
    printed = {
        cell.id: "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
        for cell in code(notebook)
    }
    assert "test images are right (95% interval" in printed["train"]
    assert sum(map(int, re.findall(r": (\d+)", printed["ledger"]))) == 24
    assert len(printed["predict"].splitlines()) == 5
    assert (tmp_path / "runs" / "own-images" / "run" / "report.html").is_file()


def check_that_nothing_warned(notebook):
    streams = [output for cell in code(notebook) for output in cell.outputs if output.output_type == "stream"]
    told = "\n".join(stream.text for stream in streams)
    assert "Warning" not in told, told


def check_that_only_the_chosen_saw_the_test_split(runs):
    told = {"as-published", "baseline", "finetune", "finetune-96"}
    candidates = {"constant-rate", "mixup", "cutmix", "weak-classes"}
    assert {path.parent.name for path in runs.glob("*/recipe.yaml")} == told | candidates
    (chosen,) = (path.parent.name for path in runs.glob("*/corruptions.json"))
    assert chosen in candidates | {"finetune-96"}
    measured = {path.parent.name for path in runs.glob("*/metrics.json")}
    assert measured == told | {chosen}
    for step in candidates - measured:
        assert json.loads((runs / step / "environment.json").read_text()).get("test_openings", []) == []


def check_that_the_pages_are_shown(notebook):
    shown = [
        output.data["text/html"]
        for cell in code(notebook)
        for output in cell.outputs
        if output.output_type == "display_data" and "srcdoc" in output.data.get("text/html", "")
    ]
    assert len(shown) == 5
    assert all("&lt;svg" in page for page in shown)
    titles = {page.partition("&lt;title&gt;")[2].partition("&lt;/title&gt;")[0] for page in shown}
    assert len(titles) >= 4, titles
