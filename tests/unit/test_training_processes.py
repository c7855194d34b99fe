"""Several processes that train one network: the curve of a single one, one writer, and one end for all."""

import json

import pytest
from train_together import play, train

import warm
from headstart.compute.processes import ALONE


@pytest.fixture
def run(sample_dir, tmp_path):
    """Return a function that plays scenarios, ``folder:accident``, in processes that stay together for all of them."""

    def call(*scenarios):
        done = warm.together(play, str(sample_dir), str(tmp_path), scenarios, OMP_NUM_THREADS="1")
        assert all(len(one.stdout.splitlines()) == len(scenarios) or one.returncode for one in done), done
        return [[json.loads(line) for line in one.stdout.splitlines()] for one in done], done

    return call


def test_two_processes_give_the_curve_of_one_and_stop_and_resume_together(run, sample_dir, tmp_path):
    one = train(ALONE, str(sample_dir), tmp_path / "one")
    both, _ = run("two", "broken:stop", "broken", "nan:nan")
    two, stopped, resumed, failed = both[0]
    assert both[1][:3] == both[0][:3]
    for ours, theirs in zip(one[0], two[0], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-5)
    assert two[1] == pytest.approx(one[1], rel=1e-4, abs=1e-4)
    written = [path.name.split("-")[1] for path in sorted((tmp_path / "two").iterdir())]
    assert written == ["000000007", "000000014"], "one process writes, and only what is asked for"

    # One of the two was asked, after step 4; both stop after the next.
    assert stopped[0] == "StoppedError"
    assert "epoch 1, step 5" in stopped[1]
    assert resumed == two

    assert failed == both[1][3], "all name the loss of the one process where it is not finite"
    assert failed[0] == "TrainingError"
    assert "epoch 1, step 5" in failed[1]
    assert "outputs" in failed[1]


def test_a_process_that_ends_ends_all(run):
    ([told], nothing), (main, other) = run("crash:crash")
    assert (main.returncode, other.returncode, nothing) == (0, 7, [])
    assert told[0] == "TrainingError"
    assert "Process 0 of 2" in told[1]
