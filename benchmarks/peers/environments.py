"""An environment for each rival, which shares the installed torch, torchvision and timm."""

import site
import subprocess
import sys
from pathlib import Path

from rivals import Rival


class InstallError(Exception):
    """pip could not install a rival."""


def python_of(rival: Rival, name: str, folder: Path) -> Path:
    """Return the interpreter of a rival's environment, which is made where it is not there.

    Raises:
        InstallError: pip could not install the rival; the message is what pip printed last.
    """
    if not rival.packages:
        return Path(sys.executable)
    place = folder / name
    python, stamp = place / "bin" / "python", place / "installed"
    wanted = "\n".join(rival.packages)
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print(f"Installing {', '.join(rival.packages)}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
    # What lies there already is not installed a second time: torch alone has several gigabytes.
    (inside,) = place.glob("lib/python*/site-packages")
    (inside / "shared.pth").write_text("\n".join(site.getsitepackages()) + "\n", encoding="utf-8")
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *rival.packages],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        last = (errors or done.stderr.splitlines() or ["pip failed"])[-1]
        raise InstallError(f"pip can't install it: {last}")
    stamp.write_text(wanted, encoding="utf-8")
    return python


def versions_of(python: Path, packages: tuple[str, ...]) -> dict[str, str]:
    """Return the installed versions of packages, given as pip takes them, and of torch and timm."""
    names = [package.partition("==")[0] for package in packages]
    code = "import sys; from importlib.metadata import version; print(*[version(n) for n in sys.argv[1:]])"
    names += ["torch", "timm"]
    found = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True).stdout.split()
    return dict(zip(names, found, strict=True))
