"""Embedded colour profiles: what an image's values mean, and the way from there to sRGB."""

import io
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms, features

_MODES = {"RGB": "RGB", "CMYK": "CMYK", "GRAY": "L"}
"""Pillow's mode of the values that a profile describes, by the profile's own name of its colour space."""
_LIKE_SRGB = 2
"""Steps of 255 by which a profile's colours may differ from sRGB and still count as sRGB."""


@dataclass(frozen=True)
class Profile:
    """A colour profile and what becomes of it.

    Attributes:
        mode: Pillow's mode of the values that it describes: ``RGB``, ``CMYK`` or ``L``; empty where it is not used.
        note: What is said of it, e.g. ``colour profile "Adobe RGB (1998)" converted to sRGB``; empty for sRGB.
        transform: To sRGB; None where nothing is to be changed.
    """

    mode: str = ""
    note: str = ""
    transform: ImageCms.ImageCmsTransform | None = field(default=None, repr=False)

    def to_srgb(self, image: Image.Image) -> Image.Image:
        """Return an image of mode ``mode`` as sRGB."""
        assert self.transform is not None
        converted = ImageCms.applyTransform(image, self.transform)
        assert converted is not None
        return converted


PLAIN = Profile()
"""What an image without a profile has: its values are sRGB."""


def profile_of(image: Image.Image) -> Profile:
    """Return the colour profile of an opened image; one that is damaged or made for other values is only noted."""
    icc = image.info.get("icc_profile")
    if not isinstance(icc, bytes) or not icc:
        return PLAIN
    profile = _read(icc)
    coloured = {"CMYK": "CMYK", "L": "L", "LA": "L", "1": "L", "I": "L"}.get(image.mode.partition(";")[0], "RGB")
    if profile.transform is not None and profile.mode != coloured:
        return Profile(note="colour profile ignored: it is for another kind of image")
    return profile


@lru_cache(maxsize=16)
def _read(icc: bytes) -> Profile:
    if not features.check("littlecms2"):
        return Profile(note="colour profile ignored: this Pillow can't convert colours")
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        mode = _MODES[opened.profile.xcolor_space.strip()]
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(opened, srgb, mode, "RGB", ImageCms.Intent.PERCEPTUAL)
        if mode != "CMYK" and _is_srgb(transform, mode):
            return PLAIN
        name = (opened.profile.profile_description or "without a name").strip()
    except Exception:  # LittleCMS meets damage with errors of many kinds
        return Profile(note="colour profile ignored: damaged or of an unknown kind")
    return Profile(mode, f'colour profile "{name}" converted to sRGB', transform)


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    grey = mode == "L"
    values = steps[None, :] if grey else np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 27, 3)
    meant = np.asarray(ImageCms.applyTransform(Image.fromarray(values), transform)).astype(int)
    return bool(np.abs(meant - (values[..., None] if grey else values)).max() <= _LIKE_SRGB)
