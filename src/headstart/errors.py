"""Every error a user can meet, in one tree.

    HeadstartError               exit status 1: the work failed
    ├── TrainingError            the loss is no longer finite, a checkpoint could not be written, ...
    ├── LossyExportError         an export that could lose more accuracy than is allowed
    ├── WriteError               a file can't be written: the disk is full, ...; status 2 where the place is wrong
    ├── StoppedError             exit status 130: stopped by Ctrl-C, after saving
    └── InputError               exit status 2: something the user gave is wrong
        ├── RecipeError          an unknown key, a value out of range, an impossible combination
        ├── DataError            a data set that can't be had, a class without images, a bad split
        │   └── ImagesError      images that can't be read, all of them together
        ├── WeightsError         an unknown backbone, weights that do not fit or can't be reached
        ├── DownloadError        a file that can't be fetched; who asked for it says what it was for
        ├── BundleError          a saved classifier that is damaged, incomplete or of an unknown kind
        │   └── EarlierScoreError  a novelty score of an earlier version, without which the rest can be used
        └── RunError             a run folder that is taken, missing or can't be written

A message says what is wrong, where, what is allowed, and what to do next.
"""

import errno
import re
import reprlib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

_INSIDE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |\S+\.(?:cc|cpp|h|hpp):\d+ [^()]*(?:\([^()]*\))+ (?:const )?")
"""What ONNX Runtime writes before its reasons: a number, and a place in its own source."""
_LONGEST_REASON = 200
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 100
_REMEDIES = {
    errno.ENOSPC: "Free some space on that disk, then try again.",
    errno.EDQUOT: "Your disk quota is used up; free some space, then try again.",
    errno.EFBIG: "The file system takes no file of that size.",
    errno.EACCES: "Ask for permission to write there, or choose another place.",
    errno.EPERM: "Ask for permission to write there, or choose another place.",
    errno.EROFS: "That disk is read-only; choose another place.",
    errno.ENOENT: "Make the folder that it shall lie in, or choose another place.",
    errno.ENOTDIR: "A file is where a folder would have to be; choose another place.",
    errno.EISDIR: "A folder is there; choose another name.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ELOOP: "A link leads back to itself; choose another place.",
}
"""What to do, by the system's reason for not writing a file."""
_WRONG_PLACES = frozenset(_REMEDIES) - {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Reasons that lie in the place that the user chose."""
_NAMED = 20
"""Images that can't be read of which a message gives the names."""


class HeadstartError(Exception):
    """The work failed; the command line exits with status 1."""

    exit_status = 1


class TrainingError(HeadstartError):
    """Training could not go on; the message names the step and the cause."""


class LossyExportError(HeadstartError):
    """An export could lose more accuracy than is allowed; ``change`` says how its accuracy changes."""

    def __init__(self, message: str, change: str) -> None:
        """Take the message and the change alone, in points with its interval."""
        super().__init__(message)
        self.change = change


class WriteError(HeadstartError, OSError):
    """A file or folder can't be written. ``errno``, ``strerror`` and ``filename`` are those of the system's error."""

    def __init__(self, path: Path | str, cause: OSError, advice: str = "") -> None:
        """Say what can't be written and why; ``advice`` comes after what the reason itself suggests."""
        reason = cause.strerror or str(cause) or type(cause).__name__
        remedy = _REMEDIES.get(cause.errno or 0, "")
        super().__init__(" ".join(part for part in (f"{path} can't be written: {reason}.", remedy, advice) if part))
        self.errno, self.strerror, self.filename = cause.errno, reason, str(path)
        if cause.errno in _WRONG_PLACES:
            self.exit_status = 2

    def __str__(self) -> str:
        return str(self.args[0])


class StoppedError(HeadstartError):
    """Training was stopped by Ctrl-C or SIGTERM and has saved its state; the message says how to go on."""

    exit_status = 130


class InputError(HeadstartError, ValueError):
    """What the user gave is wrong; the command line exits with status 2."""

    exit_status = 2


class RecipeError(InputError):
    """A recipe holds an unknown key, a value out of range or an impossible combination."""


class DataError(InputError):
    """A data set is missing, damaged or unfit for what was asked."""


class ImagesError(DataError):
    """Images of a data set can't be read; the message counts them by reason and names the first few.

    Attributes:
        reasons: What is wrong with each of them, by its row in the source.
    """

    def __init__(self, reasons: Mapping[int, str], *, of: int) -> None:
        """Take the reasons, with the number of images that there are in all."""
        self.reasons = dict(reasons)
        lines = [f"  {reason}" for reason in list(self.reasons.values())[:_NAMED]]
        lines += [f"  and {len(reasons) - _NAMED:,} more"] * (len(reasons) > _NAMED)
        told = f"{len(reasons):,} of {of:,} images can't be read. Repair or remove them, then try again."
        super().__init__("\n".join([told, *lines]))


class WeightsError(InputError):
    """A backbone is unknown, or its weights do not fit or can't be reached."""


class DownloadError(InputError):
    """A file can't be fetched; the message is the reason alone."""


class BundleError(InputError):
    """A saved classifier is damaged, incomplete or of a kind this version does not know."""


class EarlierScoreError(BundleError):
    """The novelty score of a saved classifier was fitted by an earlier version, in another form."""


class RunError(InputError):
    """A run folder is taken, missing or can't be written."""


def nearest(word: str, allowed: Iterable[str], *, likeness: float = 0.6) -> str:
    """Return `` Did you mean 'x'?`` for the closest allowed word, whatever its case; nothing if none is that like it.

    Example:
        >>> nearest("quikstart", ["quickstart", "cpu-best"])
        " Did you mean 'quickstart'?"
    """
    folded = {name.casefold(): name for name in allowed}
    close = get_close_matches(word.casefold(), list(folded), n=1, cutoff=likeness)
    return f" Did you mean '{folded[close[0]]}'?" if close else ""


def cut(text: str, length: int = 100) -> str:
    """Return a text with no more than so many characters, and an ellipsis where some were cut off."""
    return text if len(text) <= length else f"{text[:length]}..."


def short(value: object) -> str:
    """Return a value as Python writes it, cut to about 100 characters without writing the rest."""
    return cut(_BRIEF.repr(value))


def library_reason(error: Exception) -> str:
    """Return why a library failed: the first line of what it says, at most 200 characters, without its source's places.

    Example:
        >>> library_reason(ValueError("[ONNXRuntimeError] : 1 : FAIL : /src/model.cc:256 Model::Model(int) Too new"))
        'Too new'
    """
    lines = _INSIDE.sub("", str(error)).strip().splitlines() or [type(error).__name__]
    return lines[0][:_LONGEST_REASON].rstrip(".")
