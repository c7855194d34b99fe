import pytest

from headstart.errors import RunError
from headstart.recipe.schema import Recipe
from headstart.runs.run import check_free, claim_folder, reopen_folder


def test_a_claimed_folder_can_be_reopened_with_the_same_recipe(tmp_path):
    recipe = Recipe(seed=7)
    claim_folder(tmp_path / "run", recipe)
    folder, read = reopen_folder(tmp_path / "run")
    assert read == recipe
    assert not folder.is_trained


def test_a_folder_is_claimed_once(tmp_path):
    claim_folder(tmp_path, Recipe())
    with pytest.raises(RunError, match=r"already holds a run.*--resume"):
        claim_folder(tmp_path, Recipe())


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="not an empty folder"):
        check_free(tmp_path)


def test_what_a_killed_process_left_does_not_block_the_folder(tmp_path):
    (tmp_path / ".recipe.yaml-0a1b2c3d").write_text("half")
    claim_folder(tmp_path, Recipe())


def test_a_folder_that_holds_no_run_can_not_be_resumed(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        reopen_folder(tmp_path)


def test_facts_are_added_to_the_environment(tmp_path):
    folder = claim_folder(tmp_path / "run", Recipe())
    folder.update_environment(seed=1)
    folder.update_environment(command="x")
    assert folder.read_environment() == {"seed": 1, "command": "x"}
