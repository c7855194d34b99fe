"""Threads that give way to others, where the system knows priorities of threads."""

import os
import sys
import threading

import pytest

from headstart.compute.cores import give_way

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")


def niceness():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def in_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def test_a_thread_and_those_that_it_starts_give_way_and_no_other_does():
    def both():
        give_way()
        return niceness(), in_thread(niceness)

    before = niceness()
    own, inherited = in_thread(both)
    assert own == inherited > before
    assert niceness() == before
    assert in_thread(niceness) == before


def test_more_than_the_system_allows_is_not_asked_for():
    assert in_thread(lambda: [give_way() for _ in range(9)] and niceness()) == 19
