"""Threads that give way to others, where the system knows priorities of threads, and what other programs use."""

import os
import sys
import threading
from types import SimpleNamespace

import pytest

from headstart.compute import cores
from headstart.compute.cores import give_way, others_at_work

with_priorities = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")


def niceness():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def in_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


@with_priorities
def test_a_thread_and_those_that_it_starts_give_way_and_no_other_does():
    def both():
        give_way()
        return niceness(), in_thread(niceness)

    before = niceness()
    own, inherited = in_thread(both)
    assert own == inherited > before
    assert niceness() == before
    assert in_thread(niceness) == before


@with_priorities
def test_more_than_the_system_allows_is_not_asked_for():
    assert in_thread(lambda: [give_way() for _ in range(9)] and niceness()) == 19


def test_what_this_process_computes_is_not_the_work_of_others(monkeypatch):
    """In four seconds, all programs took 7 s of processor time and this one 3 s."""
    clock = SimpleNamespace(perf_counter=iter([10.0, 14.0]).__next__, process_time=iter([2.0, 5.0]).__next__)
    taken = [SimpleNamespace(user=50.0, system=5.0, nice=1.0), SimpleNamespace(user=54.0, system=6.0, nice=3.0)]
    monkeypatch.setattr(cores, "time", clock)
    monkeypatch.setattr(cores.psutil, "cpu_times", iter(taken).__next__)
    assert others_at_work()() == 1.0
