"""Several processes that train one network: the curve of a single one, one writer, and one end for all."""

import json
from pathlib import Path

import pytest
from train_together import train

from headstart.compute.processes import ALONE

SCRIPT = Path(__file__).with_name("train_together.py")


@pytest.fixture
def run(start_processes, sample_dir, tmp_path):
    """Return a function that plays scenarios, ``folder:accident``, in processes that stay together for all of them."""

    def call(*scenarios):
        done = start_processes([SCRIPT, sample_dir, tmp_path, *scenarios])
        assert all(len(out.splitlines()) == len(scenarios) or status for out, status, _ in done), done
        return [[json.loads(line) for line in out.splitlines()] for out, _, _ in done], done

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
    ([told], nothing), ((_, status, _), (_, other_status, accident)) = run("crash:crash")
    assert (status, other_status, nothing) == (0, 1, [])
    assert "this process had an accident" in accident
    assert told[0] == "TrainingError"
    assert "Process 0 of 2" in told[1]
