"""The rivals: what each needs, which settings it has and how long it trains in each."""

from dataclasses import dataclass, field
from pathlib import Path

ADAPTERS = Path(__file__).parent / "adapters"


@dataclass(frozen=True)
class Rival:
    """A tool to compare with.

    Attributes:
        title: Its name in tables.
        adapter: Script that trains with it.
        packages: What pip installs for it; torch, torchvision and timm are shared by all.
        lengths: Values of ``Task.length`` for each setting, in rising order.
        pretrained: Whether it can start from the same weights; otherwise only its speed counts.
    """

    title: str
    adapter: str = ""
    packages: tuple[str, ...] = ()
    lengths: dict[str, tuple[str, ...]] = field(default_factory=dict)
    pretrained: bool = True

    @property
    def script(self) -> Path:
        """Path of the adapter."""
        return ADAPTERS / f"{self.adapter}.py"

    @property
    def lines(self) -> int:
        """Lines of code that a user writes: those between ``# begin`` and ``# end``; one where it is a command."""
        inside, count = False, 0
        for line in self.script.read_text(encoding="utf-8").splitlines():
            if line.startswith(("# begin", "# end")):
                inside = line.startswith("# begin")
            elif inside and line.strip() and not line.strip().startswith("#"):
                count += 1
        return count or 1


EPOCHS = ("1", "2", "4", "8")
RIVALS = {
    "headstart": Rival(
        "headstart",
        "headstart_command",
        lengths={"defaults": ("1min", "3min", "5min", "10min"), "expert": ("1", "2", "3", "5")},
    ),
    "plain": Rival("plain PyTorch", "plain", lengths={"defaults": EPOCHS, "expert": EPOCHS}),
    "fastai": Rival(
        "fastai",
        "fastai_learner",
        ("fastai==2.8.12", "fastprogress==1.0.3"),
        lengths={"defaults": EPOCHS, "expert": EPOCHS},
    ),
    "timm": Rival("timm", "timm_loop", lengths={"defaults": EPOCHS, "expert": EPOCHS}),
    "transformers": Rival(
        "Hugging Face Trainer",
        "transformers_trainer",
        ("transformers", "accelerate"),
        lengths={"defaults": ("1", "3"), "expert": EPOCHS},
    ),
    "keras": Rival("Keras 3", "keras_fit", ("keras", "tensorflow-cpu"), {"defaults": ("1", "2")}, pretrained=False),
    "ultralytics": Rival(
        "Ultralytics classify", "ultralytics_classify", ("ultralytics",), {"defaults": ("1", "2")}, pretrained=False
    ),
}
