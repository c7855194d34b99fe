"""Golden arrays of every kind of image file, decoded whole, reduced, and to every fit."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, features

from headstart.data import colour, decode
from headstart.data.decode import changes, decode_file, opened_image, to_rgb
from headstart.data.preprocess import Preprocess
from headstart.errors import InputError

WIDTH, HEIGHT = 360, 240


def smooth(mode="RGB"):
    generator = np.random.default_rng(3)
    bands = [generator.integers(0, 256, (4, 6), dtype=np.uint8) for _ in Image.new(mode, (1, 1)).getbands()]
    return Image.merge(
        mode, [Image.fromarray(band).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for band in bands]
    )


def wide_gamut():
    """A profile like Adobe RGB: the same values mean stronger colours than in sRGB; and what they are in sRGB."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return swapped(profile)


def swapped(profile):
    """sRGB with the primaries of red and blue exchanged: what is red in the file is blue to the eye."""
    marks = {b"rXYZ": None, b"bXYZ": None}
    tags = int.from_bytes(profile[128:132], "big")
    changed = bytearray(profile)
    for number in range(tags):
        at = 132 + 12 * number
        if (name := profile[at : at + 4]) in marks:
            changed[at : at + 4] = b"bXYZ" if name == b"rXYZ" else b"rXYZ"
    return bytes(changed)


def over_white(image):
    alpha = np.asarray(image.getchannel("A"))[..., None] / 255
    return np.asarray(image.convert("RGB")) * alpha + 255 * (1 - alpha)


def from_cmyk(image):
    inks = np.asarray(image).astype(float)
    return (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255


def first_of_two(image):
    return {"save_all": True, "append_images": [ImageOps.invert(image)], "duration": 100}


def in_palette(alpha):
    image = smooth().quantize(64, method=Image.Quantize.FASTOCTREE)
    return (image, {"transparency": bytes([255] * 32 + [0] * 32)}) if alpha else (image, {})


def palette_over_white(image):
    index, palette = np.asarray(image), np.array(image.getpalette()).reshape(-1, 3)
    return np.where((index < 32)[..., None], palette[index], 255)


RGB, GREY, INKS = smooth(), smooth("L"), smooth("CMYK")
DEEP = (np.asarray(GREY).astype(np.uint16) << 8) + 9
BITS = Image.fromarray(((np.indices((HEIGHT, WIDTH)).sum(0) // 40 % 2) * 255).astype(np.uint8)).convert("1")
grey = np.stack([np.asarray(GREY)] * 3, -1)
PLAIN_PALETTE, SHEER_PALETTE = in_palette(alpha=False), in_palette(alpha=True)
KINDS = {
    # name: image, options of saving, expected pixels, tolerance, words of what changes
    "a.png": (RGB, {}, np.asarray(RGB), 0, ()),
    "a.jpg": (RGB, {"quality": 97, "subsampling": 0}, np.asarray(RGB), 6, ()),
    "progressive.jpg": (RGB, {"quality": 97, "progressive": True}, np.asarray(RGB), 12, ()),
    "grey.jpg": (GREY, {"quality": 97}, grey, 6, ("grey",)),
    "a.webp": (RGB, {"lossless": True}, np.asarray(RGB), 0, ()),
    "a.bmp": (RGB, {}, np.asarray(RGB), 0, ()),
    "a.tiff": (RGB, {"compression": "tiff_lzw"}, np.asarray(RGB), 0, ()),
    "a.jp2": (RGB, {}, np.asarray(RGB), 2, ()),
    "a.avif": (RGB, {"quality": 98, "subsampling": "4:4:4"}, np.asarray(RGB), 8, ()),
    "a.heic": (RGB, {"quality": 98, "chroma": 444}, np.asarray(RGB), 10, ()),
    "cmyk.tiff": (INKS, {}, from_cmyk(INKS), 1, ("CMYK",)),
    "cmyk.jpg": (INKS, {"quality": 97}, from_cmyk(INKS), 10, ("CMYK",)),
    "palette.png": (PLAIN_PALETTE[0], {}, np.asarray(PLAIN_PALETTE[0].convert("RGB")), 0, ("palette",)),
    "sheer.png": (*SHEER_PALETTE, palette_over_white(SHEER_PALETTE[0]), 0, ("palette", "transparency laid on white")),
    "alpha.png": (smooth("RGBA"), {}, over_white(smooth("RGBA")), 1, ("transparency laid on white",)),
    "alpha.webp": (smooth("RGBA"), {"lossless": True, "exact": True}, over_white(smooth("RGBA")), 1, ("transparency",)),
    "deep.png": (Image.fromarray(DEEP), {}, grey, 0, ("16-bit grey",)),
    "deep.tiff": (Image.fromarray(DEEP), {}, grey, 0, ("16-bit grey",)),
    "bits.png": (BITS, {}, np.stack([np.asarray(BITS) * 255] * 3, -1), 0, ("black and white",)),
    "bits.tiff": (BITS, {"compression": "group4"}, np.stack([np.asarray(BITS) * 255] * 3, -1), 0, ("black and white",)),
    "moving.gif": (
        PLAIN_PALETTE[0],
        first_of_two(PLAIN_PALETTE[0].convert("RGB")),
        np.asarray(PLAIN_PALETTE[0].convert("RGB")),
        0,
        ("palette", "first of several"),
    ),
    "moving.png": (RGB, first_of_two(RGB), np.asarray(RGB), 0, ("first of several",)),
    "moving.webp": (RGB, first_of_two(RGB) | {"lossless": True}, np.asarray(RGB), 0, ("first of several",)),
    "pages.tiff": (RGB, first_of_two(RGB), np.asarray(RGB), 0, ("first of several",)),
    "profile.png": (RGB, {"icc_profile": wide_gamut()}, np.asarray(RGB)[..., ::-1], 3, ("converted to sRGB",)),
    "profile.jpg": (RGB, {"icc_profile": wide_gamut(), "quality": 97}, np.asarray(RGB)[..., ::-1], 14, ("to sRGB",)),
    "profile.tiff": (RGB, {"icc_profile": wide_gamut()}, np.asarray(RGB)[..., ::-1], 3, ("converted to sRGB",)),
    "broken.png": (RGB, {"icc_profile": b"no profile" * 20}, np.asarray(RGB), 0, ("profile ignored: damaged",)),
    "other.png": (GREY, {"icc_profile": wide_gamut()}, grey, 0, ("grey", "profile ignored: it is for another")),
}


def saved(path, image, options):
    needs = {".jp2": "jpg_2000", ".avif": "avif"}.get(path.suffix)
    if needs and not features.check(needs):
        pytest.skip(f"this Pillow has no {needs}")
    if path.suffix == ".heic":
        pytest.importorskip("pillow_heif")
        decode._formats()
    image.save(path, **options)
    return path


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_becomes_the_same_pixels_on_every_path(tmp_path, name):
    image, options, expected, tolerance, words = KINDS[name]
    path = saved(tmp_path / name, image, options)
    whole = decode_file(path)
    assert whole.dtype == np.uint8
    assert whole.shape == (HEIGHT, WIDTH, 3)
    difference = np.abs(whole - expected.astype(float))
    assert difference.max() <= tolerance
    for fit in ("crop", "pad", "stretch"):
        preprocess = Preprocess(40, (0.5, 0.5, 0.5), (1, 1, 1), fit=fit)
        reduced = preprocess.square(decode_file(path, at_least=40, fit=fit)).astype(float)
        golden = preprocess.square(np.clip(expected, 0, 255).round().astype(np.uint8))
        assert reduced.shape == (40, 40, 3)
        assert np.abs(reduced - golden).mean() <= 1.5 + tolerance / 4
    with opened_image(path) as opened:
        told = changes(opened)
    assert len(told) >= len(words)
    for word in words:
        assert any(word in change for change in told)
    assert bool(told) == bool(words)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "avif"])
def test_orientations_hold_in_every_format(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"a.{suffix}", RGB, {"exif": exif, "quality": 95})
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB")).astype(int)
    assert np.abs(decode_file(path) - upright).max() == 0
    with opened_image(path) as opened:
        assert bool(changes(opened)) == (orientation != 1)


def test_cmyk_without_adobes_mark_is_not_inverted(tmp_path):
    inverted = Image.merge("CMYK", [ImageOps.invert(band) for band in INKS.split()])
    content = saved(tmp_path / "a.jpg", inverted, {"quality": 97}).read_bytes()
    mark = content.index(b"\xff\xee")
    length = int.from_bytes(content[mark + 2 : mark + 4], "big")
    assert content[mark + 4 : mark + 9] == b"Adobe"
    (tmp_path / "b.jpg").write_bytes(content[:mark] + content[mark + 2 + length :])
    # Adobe's files hold inverted inks and Pillow writes such files, so that these hold the inks themselves.
    assert np.abs(decode_file(tmp_path / "b.jpg") - from_cmyk(INKS)).max() <= 10


def test_inks_are_converted_by_their_profile(tmp_path, monkeypatch):
    class Greys:
        """A transform that stands for a printer's profile, of which no small free one exists."""

        mode, note = "CMYK", 'colour profile "a printer" converted to sRGB'

        def to_srgb(self, image):
            assert image.mode == "CMYK"
            return image.getchannel("C").convert("RGB")

    monkeypatch.setattr(decode, "profile_of", lambda _: Greys())
    path = saved(tmp_path / "a.tiff", INKS, {})
    assert (decode_file(path) == np.asarray(INKS)[..., :1]).all()
    assert decode_file(path, at_least=20, fit="crop").shape == (60, 72, 3)


def test_a_profile_that_says_srgb_costs_nothing(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = saved(tmp_path / "a.png", RGB, {"icc_profile": srgb})
    assert (decode_file(path) == np.asarray(RGB)).all()
    with opened_image(path) as opened:
        assert colour.profile_of(opened) is colour.PLAIN
        assert changes(opened) == ()


def test_grey_with_a_profile_of_its_own_follows_it(tmp_path):
    """A grey profile with gamma 1: its middle grey is far brighter in sRGB."""
    path = saved(tmp_path / "a.png", GREY, {"icc_profile": linear_grey()})
    linear = np.asarray(GREY) / 255
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    assert np.abs(decode_file(path) - srgb[..., None]).max() <= 12


def linear_grey():
    def tag(kind, content):
        return kind + bytes(4) + content

    white = tag(b"XYZ ", b"".join(round(v * 65536).to_bytes(4, "big") for v in (0.9642, 1.0, 0.8249)))
    curve = tag(b"curv", bytes(4))
    text = tag(b"desc", (7).to_bytes(4, "big") + b"linear\0" + bytes(78)) + b"\0" * 3
    table, body = b"", b""
    for name, content in ((b"wtpt", white), (b"kTRC", curve), (b"desc", text)):
        body += bytes(-len(body) % 4)
        table += name + (132 + 36 + len(body)).to_bytes(4, "big") + len(content).to_bytes(4, "big")
        body += content
    size = 132 + 36 + len(body)
    head = size.to_bytes(4, "big") + b"lcms" + bytes.fromhex("02400000") + b"mntrGRAYXYZ " + bytes(12) + b"acsp"
    head += bytes(28) + b"".join(round(v * 65536).to_bytes(4, "big") for v in (0.9642, 1.0, 0.8249))
    return head.ljust(128, b"\0") + (3).to_bytes(4, "big") + table + body


def test_images_of_a_pixel_and_of_a_line_come_through_every_fit(tmp_path):
    for size in ((1, 1), (20_000, 10), (10, 20_000)):
        for suffix in ("png", "jpg", "webp"):
            if suffix == "webp" and max(size) > 16_383:
                continue
            Image.new("RGB", size, (200, 30, 20)).save(tmp_path / f"a.{suffix}")
            for fit in ("crop", "pad", "stretch"):
                preprocess = Preprocess(32, (0.5, 0.5, 0.5), (1, 1, 1), fit=fit)
                square = preprocess.square(decode_file(tmp_path / f"a.{suffix}", at_least=32, fit=fit))
                side = {"crop": min(size), "pad": max(size), "stretch": max(size)}[fit]
                assert square.shape == (min(32, side), min(32, side), 3)
                assert np.abs(square.astype(int) - (200, 30, 20)).max(axis=2).min() <= 3


def test_a_heic_file_without_its_decoder_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    monkeypatch.setattr(decode, "_formats", lambda: ("JPEG", "PNG"))
    with pytest.raises(InputError, match=r"pip install 'headstart\[heic\]'"):
        decode_file(tmp_path / "a.heic")


def test_a_users_own_image_follows_its_profile_as_well(tmp_path):
    file = io.BytesIO()
    RGB.save(file, "PNG", icc_profile=wide_gamut())
    assert np.abs(to_rgb(Image.open(file)).astype(int) - np.asarray(RGB)[..., ::-1]).max() <= 3
