"""A condition on a comparison that a release pipeline can act on."""

import re
from dataclasses import asdict, dataclass
from typing import Any

from headstart.errors import InputError

_FORM = re.compile(r"not worse than (\d+(?:\.\d+)?) points?(?: at 95 ?%)?", re.IGNORECASE)


@dataclass(frozen=True)
class Gate:
    """How much accuracy the later of two runs may lose: the 95% interval of the loss must stay within ``points``."""

    points: float

    def judge(self, pair: dict[str, Any]) -> dict[str, Any]:
        """Return whether a pair of a comparison passes, with the reason.

        The lower end of the interval of the change must not lie below the points that may be lost, so that few test
        images make a gate stricter, never laxer.
        """
        worst = -100 * pair["accuracy_change"]["ci95"][0]
        passed = worst <= self.points
        told = f"{pair['second']} could be worse than {pair['first']} by up to {max(0.0, worst):.2f} points at 95%; "
        told += f"{self.points:g} are allowed."
        return {"passed": passed, "worst_loss_points": round(worst, 6), "sentence": told} | asdict(self)


def parse_gate(text: str) -> Gate:
    """Return the condition that a text states.

    Raises:
        InputError: It is of another form.

    Example:
        >>> parse_gate("not worse than 0.5 points at 95 %")
        Gate(points=0.5)
    """
    found = _FORM.fullmatch(" ".join(text.split()))
    if found is None:
        raise InputError(
            f"--gate '{text[:80]}' can't be understood. Write it as: not worse than 0.5 points at 95 %. Intervals are "
            "always of 95%."
        )
    return Gate(float(found[1]))
