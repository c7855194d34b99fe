"""headstart: transfer learning for image classification that people can trust.

The public names are loaded on first use, so that ``import headstart`` costs nothing.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.comparing.compare import compare as compare
    from headstart.contracts import Predictions as Predictions
    from headstart.errors import HeadstartError as HeadstartError
    from headstart.experiment import evaluate as evaluate
    from headstart.experiment import train as train
    from headstart.exploration import explore as explore
    from headstart.inference.predictor import Predictor as Predictor
    from headstart.inference.predictor import load as load
    from headstart.studies.run import study as study

    __version__: str

_HOMES = {
    "HeadstartError": ("headstart.errors", "HeadstartError"),
    "Predictions": ("headstart.contracts", "Predictions"),
    "Predictor": ("headstart.inference.predictor", "Predictor"),
    "compare": ("headstart.comparing.compare", "compare"),
    "evaluate": ("headstart.experiment", "evaluate"),
    "explore": ("headstart.exploration", "explore"),
    "load": ("headstart.inference.predictor", "load"),
    "study": ("headstart.studies.run", "study"),
    "train": ("headstart.experiment", "train"),
}

__all__ = [
    "HeadstartError",
    "Predictions",
    "Predictor",
    "__version__",
    "compare",
    "evaluate",
    "explore",
    "load",
    "study",
    "train",
]


def __getattr__(name: str) -> Any:
    """Resolve a public name on first use (PEP 562)."""
    if name == "__version__":
        return version("headstart")
    if name not in _HOMES:
        raise AttributeError(f"module 'headstart' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
