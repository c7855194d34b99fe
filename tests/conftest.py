"""Registers the fixtures that all tests share, and leaves out what takes time and shows in no test."""

import gc
import os

# As in the command: looking for garbage among all that was imported takes longer than many a test.
gc.set_threshold(20_000)
# Nothing written here has to outlive the machine, and flushing a file takes milliseconds.
os.fsync = lambda _: None


def pytest_configure(config):
    # A process that only hands out tests to others would import torch, and keep them waiting.
    if os.environ.get("PYTEST_XDIST_WORKER") or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("samples")


def pytest_collection_finish():
    gc.freeze()
