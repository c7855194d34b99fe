"""headstart: transfer learning for image classification that people can trust.

The public names are loaded on first use, so that ``import headstart`` costs nothing.
"""

import gc
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.api import check as check
    from headstart.api import compare as compare
    from headstart.api import evaluate as evaluate
    from headstart.api import explore as explore
    from headstart.api import resume as resume
    from headstart.api import train as train
    from headstart.contracts import Predictions as Predictions
    from headstart.deployment.verify import verify as verify
    from headstart.errors import HeadstartError as HeadstartError
    from headstart.inference.predictor import Predictor as Predictor
    from headstart.inference.predictor import load as load
    from headstart.studies.api import study as study
    from headstart.workflows.elsewhere import evaluate_on as evaluate_on
    from headstart.workflows.export import export as export
    from headstart.workflows.push import push as push

    __version__: str

_HOMES = {
    "HeadstartError": ("headstart.errors", "HeadstartError"),
    "Predictions": ("headstart.contracts", "Predictions"),
    "Predictor": ("headstart.inference.predictor", "Predictor"),
    "check": ("headstart.api", "check"),
    "compare": ("headstart.api", "compare"),
    "evaluate": ("headstart.api", "evaluate"),
    "evaluate_on": ("headstart.workflows.elsewhere", "evaluate_on"),
    "explore": ("headstart.api", "explore"),
    "export": ("headstart.workflows.export", "export"),
    "load": ("headstart.inference.predictor", "load"),
    "push": ("headstart.workflows.push", "push"),
    "resume": ("headstart.api", "resume"),
    "study": ("headstart.studies.api", "study"),
    "train": ("headstart.api", "train"),
    "verify": ("headstart.deployment.verify", "verify"),
}

__all__ = [
    "HeadstartError",
    "Predictions",
    "Predictor",
    "__version__",
    "check",
    "compare",
    "evaluate",
    "evaluate_on",
    "explore",
    "export",
    "load",
    "push",
    "resume",
    "study",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Resolve a public name on first use (PEP 562)."""
    if name == "__version__":
        return version("headstart")
    if name not in _HOMES:
        raise AttributeError(f"module 'headstart' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    # Importing torch and timm makes very many objects that stay; looking for garbage among them takes longer than any
    # module of ours.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return getattr(import_module(module), attribute)
    finally:
        if collecting:
            gc.enable()


def __dir__() -> list[str]:
    return sorted(__all__)
