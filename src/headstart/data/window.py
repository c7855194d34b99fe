"""Which part of an image is decoded and converted where a square needs less than all of it."""

import math
from dataclasses import dataclass

from headstart.contracts import Fit

_DRAFT_GAP, _BLOCK_GAP = 1.75, 3
"""How much larger than needed an image stays, at least, when it is reduced by a JPEG decoder or in blocks. Less would
show in the result of the resize that follows."""
_REACH = 2
"""How many pixels of the result a bicubic resize looks at, on each side of one."""
AS_IT_IS = (False, False, False)
"""The turn that leaves an image as it is: mirror left and right, mirror top and bottom, swap rows and columns."""


@dataclass(frozen=True)
class Window:
    """The part of an image that is kept, in pixels, and the blocks whose averages become its pixels."""

    left: int
    top: int
    width: int
    height: int
    block: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the result."""
        across, down = self.block
        return -(-self.height // down), -(-self.width // across), 3

    @property
    def result_bytes(self) -> int:
        """Memory of the result."""
        return math.prod(self.shape)


def jpeg_fraction(size: tuple[int, int], at_least: int | None, fit: Fit | None) -> int:
    """Return the divisor of a JPEG's size that can be decoded directly: 1, 2, 4 or 8."""
    if at_least is None:
        return 1
    deciding = max(size) if fit == "pad" else min(size)
    return next((divisor for divisor in (8, 4, 2) if deciding >= divisor * _DRAFT_GAP * at_least), 1)


def window(size: tuple[int, int], turn: tuple[bool, bool, bool], at_least: int | None, fit: Fit | None) -> Window:
    """Return what is kept of an image of a size (width, height) that is turned upright afterwards."""
    width, height = size
    left = top = 0
    if at_least is None:
        return Window(left, top, width, height, (1, 1))
    edge = min(size)
    deciding = {"stretch": size, "pad": (max(size), max(size))}.get(fit or "", (edge, edge))
    across, down = (max(1, side // (_BLOCK_GAP * at_least)) for side in deciding)
    if fit == "crop":
        left, width = _middle(width, edge, -(-_REACH * edge // at_least), block=across, mirrored=turn[0])
        top, height = _middle(height, edge, -(-_REACH * edge // at_least), block=down, mirrored=turn[1])
    # Whole blocks only, from the middle: a block that reaches beyond the edge would move all that is beside it.
    spare_x, spare_y = (extent % block if extent > block else 0 for extent, block in ((width, across), (height, down)))
    return Window(left + spare_x // 2, top + spare_y // 2, width - spare_x, height - spare_y, (across, down))


def _middle(length: int, edge: int, margin: int, *, block: int, mirrored: bool) -> tuple[int, int]:
    """Return start and length of the middle of an axis, with the same margin on both sides where there is room.

    The resize that follows looks at pixels beyond the edge of what it keeps.
    """
    # Where one pixel can't be shared between two sides, the upright image decides.
    start = (length - edge + mirrored) // 2
    wanted = -(-margin // block) * block
    room = min(start, length - edge - start) // block * block
    margin = min(wanted, room)
    return start - margin, edge + 2 * margin
