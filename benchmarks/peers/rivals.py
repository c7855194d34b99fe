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
        lengths: Values of ``Task.length`` for each setting, in rising order; see ``lengths_of`` for further settings.
        pretrained: Whether it can start from the same weights; otherwise only its speed counts.
        held_out: Share of the images that it holds out for validation, with these settings and 10,000 images.
        files: Script that classifies files with the bench's classifier; none where empty.
        prepares: Whether that script must run once before, to make its own form of the classifier.
        reason: Why it can't be measured; empty where it can.
    """

    title: str
    adapter: str = ""
    packages: tuple[str, ...] = ()
    lengths: dict[str, tuple[str, ...]] = field(default_factory=dict)
    pretrained: bool = True
    held_out: float = 0.0
    files: str = ""
    prepares: bool = False
    reason: str = ""

    def lengths_of(self, setting: str) -> tuple[str, ...]:
        """Return the lengths of a setting; none where the rival doesn't have it."""
        if setting in self.lengths:
            return self.lengths[setting]
        if setting == "files" and self.files:
            return FILE_SETS
        return _FOR_ALL.get(setting, ()) if self.pretrained and self.adapter else ()

    def script(self, setting: str) -> Path:
        """Return the path of the adapter for a setting."""
        reads_files = setting == "prepare" or setting.startswith("files")
        return ADAPTERS / f"{self.files if reads_files else self.adapter}.py"

    def lines(self, setting: str) -> int:
        """Return the lines of code that a user writes: those between ``# begin`` and ``# end``; 1 for a command."""
        inside, count = False, 0
        for line in map(str.strip, self.script(setting).read_text(encoding="utf-8").splitlines()):
            if line.startswith(("# begin", "# end")):
                inside = line.startswith("# begin")
            elif inside and line and not line.startswith("#"):
                count += 1
        return count or 1


FILE_SETS = ("one", "png", "jpeg")
"""Lengths of the settings ``files``: one image, CIFAR-10's test images, photographs."""
_FOR_ALL = {"frozen": ("10",), "photographs": ("3",)}
EPOCHS = ("1", "2", "4", "8")
RIVALS = {
    "headstart": Rival(
        "headstart",
        "headstart_command",
        lengths={
            "defaults": ("1min", "3min", "5min", "10min"),
            "expert": ("1", "2", "3", "5"),
            "steady": ("1", "3"),
            "files-onnx": FILE_SETS,
        },
        files="headstart_files",
        prepares=True,
        held_out=0.1,
    ),
    "plain": Rival("plain PyTorch", "plain", lengths={"defaults": EPOCHS, "expert": EPOCHS}, files="plain_files"),
    "fastai": Rival(
        "fastai",
        "fastai_learner",
        ("fastai==2.8.12", "fastprogress==1.0.3"),
        lengths={"defaults": EPOCHS, "expert": EPOCHS},
        files="fastai_files",
        prepares=True,
        held_out=0.1,
    ),
    "timm": Rival("timm", "timm_loop", lengths={"defaults": EPOCHS, "expert": EPOCHS}, files="timm_files"),
    "transformers": Rival(
        "Hugging Face Trainer",
        "transformers_trainer",
        ("transformers", "accelerate"),
        lengths={"defaults": ("1", "3"), "expert": EPOCHS},
        files="transformers_files",
    ),
    "torchvision": Rival(
        "torchvision reference", "torchvision_reference", lengths={"defaults": ("1", "4"), "expert": EPOCHS}
    ),
    "autogluon": Rival(
        "AutoGluon MultiModal",
        "autogluon_multimodal",
        # Its newest torch may come from an index of CPU builds, which PyPI's torchvision can't be loaded into.
        ("autogluon.multimodal==1.6.3", "torch===2.13.0", "torchvision==0.28.0"),
        lengths={"defaults": ("1", "4"), "expert": EPOCHS, "frozen": ()},
        held_out=0.1,
    ),
    "getitune": Rival(
        "getitune (Geti)",
        "getitune_engine",
        ("getitune==0.4.0",),
        lengths={"expert": EPOCHS},  # its recipe for timm's networks has no default rate
        held_out=0.1,
    ),
    "keras": Rival("Keras 3", "keras_fit", ("keras", "tensorflow-cpu"), {"defaults": ("1", "2")}, pretrained=False),
    "ultralytics": Rival(
        "Ultralytics classify", "ultralytics_classify", ("ultralytics",), {"defaults": ("1", "2")}, pretrained=False
    ),
    "lightly": Rival(
        "lightly-train",
        reason="0.18.0 installs, but can't train this network: it builds the new head for 1,280 features and then "
        "reads the 320 channels before the last convolution of an EfficientNet (RuntimeError: mat1 and mat2 shapes "
        "cannot be multiplied (64x320 and 1280x10))",
    ),
}
