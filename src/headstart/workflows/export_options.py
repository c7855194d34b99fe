"""What an exported file is to be, and which wishes contradict each other."""

from dataclasses import dataclass

from headstart.bundle.exported import Precision, Runtime
from headstart.errors import InputError


@dataclass(frozen=True)
class ExportOptions:
    """What an exported file is, what it computes with, and what it may lose by that.

    Attributes:
        int8: Whether convolutions and matrix products compute with 8-bit integers.
        bf16: Whether they compute with bfloat16.
        openvino: Whether OpenVINO runs the file, instead of ONNX Runtime.
        program: Whether the file is a program of ``torch.export``, which PyTorch runs, instead of an ONNX graph.
        tolerance: Percentage points of accuracy that ``int8`` and ``bf16`` may cost: the 95% interval of the loss must
            stay within. 0.5 when None.
        force: Whether to export even if they could cost more; the certificate says so.
        fall_back: Whether to export in float32 where they could cost more, instead of raising an error.
    """

    int8: bool = False
    bf16: bool = False
    openvino: bool = False
    program: bool = False
    tolerance: float | None = None
    force: bool = False
    fall_back: bool = False

    def __post_init__(self) -> None:
        """Raise InputError for a tolerance out of range, and for options that contradict each other."""
        if not 0 <= self.allowed <= 100:
            raise InputError(f"--tolerance {self.tolerance}: expected percentage points, from 0 to 100.")
        if self.precision == "fp32" and (self.force or self.fall_back or self.tolerance is not None):
            raise InputError(
                "--tolerance, --force and fall_back are for --int8 and --bf16; an export in float32 must answer "
                "identically."
            )
        if self.int8 and self.bf16:
            raise InputError("--int8 and --bf16: an export computes with one of them. Leave the other out.")
        if self.program and (self.openvino or self.precision != "fp32"):
            raise InputError(
                "--format exported-program is a program for PyTorch, in float32. For --int8, --bf16 and --openvino "
                "leave --format out."
            )
        if self.bf16 and not self.openvino:
            raise InputError("--bf16 needs --openvino, since ONNX Runtime does not compute with bfloat16 on CPUs.")

    @property
    def precision(self) -> Precision:
        """Type of number that most of the file computes with."""
        return "int8" if self.int8 else "bf16" if self.bf16 else "fp32"

    @property
    def runtime(self) -> Runtime:
        """What runs the file."""
        return "torch" if self.program else "openvino" if self.openvino else "onnxruntime"

    @property
    def allowed(self) -> float:
        """Percentage points of accuracy that may be lost."""
        return 0.5 if self.tolerance is None else self.tolerance
