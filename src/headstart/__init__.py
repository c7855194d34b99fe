"""headstart: transfer learning for image classification that people can trust.

The public names are loaded on first use, so that ``import headstart`` costs nothing.
"""

import gc
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.api import check as check
    from headstart.api import evaluate as evaluate
    from headstart.api import evaluate_on as evaluate_on
    from headstart.api import explore as explore
    from headstart.api import resume as resume
    from headstart.api import train as train
    from headstart.contracts import Predictions as Predictions
    from headstart.deployment.verify import verify as verify
    from headstart.errors import HeadstartError as HeadstartError
    from headstart.inference.predictor import Predictor as Predictor
    from headstart.inference.predictor import load as load
    from headstart.studies.api import study as study
    from headstart.workflows.compare import compare as compare
    from headstart.workflows.export import export as export
    from headstart.workflows.push import push as push

    __version__: str

_HOMES = {
    "HeadstartError": "headstart.errors",
    "Predictions": "headstart.contracts",
    "Predictor": "headstart.inference.predictor",
    "check": "headstart.api",
    "compare": "headstart.workflows.compare",
    "evaluate": "headstart.api",
    "evaluate_on": "headstart.api",
    "explore": "headstart.api",
    "export": "headstart.workflows.export",
    "load": "headstart.inference.predictor",
    "push": "headstart.workflows.push",
    "resume": "headstart.api",
    "study": "headstart.studies.api",
    "train": "headstart.api",
    "verify": "headstart.deployment.verify",
}
"""The module of each public name."""
__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    """Resolve a public name on first use (PEP 562)."""
    if name == "__version__":
        return version("headstart")
    if name not in _HOMES:
        raise AttributeError(f"module 'headstart' has no attribute '{name}'")
    # Importing torch and timm makes very many objects that stay; looking for garbage among them takes longer than any
    # module of ours.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return getattr(import_module(_HOMES[name]), name)
    finally:
        if collecting:
            gc.enable()


def __dir__() -> list[str]:
    return __all__
