"""OpenVINO as what runs an export: the same ONNX graph, in float32, bfloat16 or 8-bit integers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.bundle.exported import Precision
from headstart.compute.cores import available_cores
from headstart.contracts import UInt8Images
from headstart.errors import BundleError, InputError
from headstart.inference.onnx_graph import INPUT
from headstart.inference.workers import Halves

_making_core = Lock()


def check_openvino(precision: Precision) -> None:
    """Check that OpenVINO is there, and that this processor computes with numbers of that type.

    Raises:
        InputError: It is not installed, or the processor has no instructions for bfloat16.
    """
    _core(precision)


class OpenVinoSession:
    """A graph that OpenVINO runs on the CPU; any number of threads can share it."""

    def __init__(self, content: bytes, path: Path, *, precision: Precision, threads: int | None) -> None:
        """Read a graph.

        Args:
            content: The graph, an ONNX file.
            path: Where it lies, for messages.
            precision: Type of number that the graph is meant to compute with.
            threads: CPU threads to compute with; all cores when None.

        Raises:
            InputError: OpenVINO is not installed, or the processor has no instructions for bfloat16.
            BundleError: OpenVINO can't run the graph.
        """
        self._core, self._path = _core(precision), path
        # Left alone, OpenVINO takes bfloat16 wherever the processor has it.
        self._settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads or available_cores(),
        }
        self._halves = Halves(threads or available_cores())
        self._lock = Lock()
        self._compiled: dict[tuple[tuple[str, ...], int], tuple[Any, list[Any]]] = {}
        with _told(path):
            self._model = self._core.read_model(content)

    def run(self, names: list[str], feed: dict[str, UInt8Images]) -> list[NDArray[np.float32]]:
        """Return the outputs of these names for the inputs of these names."""
        return self._halves.outputs(
            feed[INPUT],
            whole=lambda images: self._infer(tuple(names), images, 1),
            half=lambda images: self._infer(tuple(names), images, 2),
        )

    def _infer(self, names: tuple[str, ...], images: UInt8Images, streams: int) -> list[NDArray[np.float32]]:
        key = names, streams
        with self._lock:
            if key not in self._compiled:
                self._compiled[key] = self._compile(*key), []
            compiled, idle = self._compiled[key]
            # A request serves one thread at a time.
            request = idle.pop() if idle else compiled.create_infer_request()
        request.infer({INPUT: images}, share_inputs=True)
        found = [request.get_output_tensor(number).data.copy() for number in range(len(names))]
        with self._lock:
            idle.append(request)
        return found

    def _compile(self, names: tuple[str, ...], streams: int) -> Any:
        """Return the part of the graph that these outputs need, ready to run so many times at once."""
        from openvino import Model

        with _told(self._path):
            results = [self._model.output(name).node for name in names]
            settings = self._settings | {"NUM_STREAMS": streams}
            return self._core.compile_model(Model(results, self._model.get_parameters()), "CPU", settings)


def _core(precision: Precision) -> Any:
    try:
        from openvino import Core
    except ImportError:
        raise InputError(
            "OpenVINO, which runs this kind of export, is not installed. Install it with: "
            "pip install 'headstart[openvino]'"
        ) from None
    with _making_core:
        core = _only(Core)
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and "BF16" not in able:
        raise InputError(
            f"--bf16: this processor has no instructions for bfloat16; OpenVINO finds {', '.join(able)}. Export "
            "without --bf16, or use another machine."
        )
    return core


@cache
def _only(core: Callable[[], Any]) -> Any:
    """Return the core of this process, which lives as long as the process does.

    OpenVINO gives the thread that first uses its CPU part a stack for signal handlers, and frees it with the core. The
    next Ctrl-C would then end Python with a segmentation fault.
    """
    return core()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # it raises RuntimeError and others
        reason = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "no reason given")
        raise BundleError(f"{path} can't be run by OpenVINO {version('openvino')}: {reason[:200]}") from None
