"""Every kind of picture file becomes RGB, or is refused with a reason that a person understands."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from headstart.data.decode import decode_file, to_rgb
from headstart.errors import InputError

RED, GREEN, WHITE = (200, 30, 20), (20, 180, 40), (255, 255, 255)


def two_by_one(mode, left, right):
    image = Image.new(mode, (2, 1))
    image.putpixel((0, 0), left)
    image.putpixel((1, 0), right)
    return image


def through_file(image, path, **options):
    image.save(path, **options)
    return decode_file(path)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "gif"])
def test_rgb_comes_back_as_it_was(tmp_path, suffix):
    pixels = through_file(two_by_one("RGB", RED, GREEN), tmp_path / f"a.{suffix}")
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == [[list(RED), list(GREEN)]]


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_formats_come_back_nearly(tmp_path, suffix):
    pixels = through_file(Image.new("RGB", (16, 16), RED), tmp_path / f"a.{suffix}", quality=95)
    assert np.abs(pixels.astype(int) - RED).max() <= 6


def test_grey_and_black_and_white(tmp_path):
    assert through_file(two_by_one("L", 7, 250), tmp_path / "l.png").tolist() == [[[7] * 3, [250] * 3]]
    assert through_file(two_by_one("1", 0, 1), tmp_path / "1.png").tolist() == [[[0] * 3, [255] * 3]]


def test_transparency_is_laid_on_white(tmp_path):
    image = two_by_one("RGBA", (*RED, 255), (*GREEN, 0))
    assert through_file(image, tmp_path / "rgba.png").tolist() == [[list(RED), list(WHITE)]]
    half = through_file(two_by_one("LA", (0, 128), (0, 255)), tmp_path / "la.png")
    assert half.tolist() == [[[127] * 3, [0] * 3]]


def test_palettes_with_and_without_transparency(tmp_path):
    image = two_by_one("P", 0, 1)
    image.putpalette([*RED, *GREEN])
    assert through_file(image, tmp_path / "p.png").tolist() == [[list(RED), list(GREEN)]]
    assert through_file(image, tmp_path / "t.png", transparency=1).tolist() == [[list(RED), list(WHITE)]]
    assert through_file(image, tmp_path / "b.png", transparency=b"\x00\xff").tolist() == [[list(WHITE), list(GREEN)]]


def test_one_colour_of_an_rgb_picture_may_be_transparent(tmp_path):
    pixels = through_file(two_by_one("RGB", RED, GREEN), tmp_path / "a.png", transparency=GREEN)
    assert pixels.tolist() == [[list(RED), list(WHITE)]]


def test_cmyk(tmp_path):
    image = two_by_one("CMYK", (0, 0, 0, 0), (0, 255, 255, 0))
    assert through_file(image, tmp_path / "a.tiff").tolist() == [[[255, 255, 255], [255, 0, 0]]]
    flat = through_file(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=95)
    assert np.abs(flat.astype(int) - (255, 0, 0)).max() <= 6


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_of_grey_keep_the_upper_eight(tmp_path, suffix):
    values = np.array([[0, 0x00FF, 0x8000, 0xFFFF]], dtype=np.uint16)
    pixels = through_file(Image.fromarray(values), tmp_path / f"a.{suffix}")
    assert pixels[..., 0].tolist() == [[0, 0, 0x80, 0xFF]]
    assert (pixels[..., :1] == pixels).all()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_without_a_range_are_refused(tmp_path, mode):
    Image.new(mode, (2, 2)).save(tmp_path / "a.tiff")
    with pytest.raises(InputError, match="no defined range"):
        decode_file(tmp_path / "a.tiff")


@pytest.mark.parametrize(("orientation", "turned"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_applied(tmp_path, orientation, turned):
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), RED)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = through_file(image, tmp_path / "a.png", exif=exif)
    assert pixels.tolist() == np.rot90(np.array(image), turned).tolist()


@pytest.mark.parametrize("exif", [b"Exif\x00\x00", b"Exif\x00\x00MM\x00*\x00\x00\xff\xff", b"Exif\x00\x00garbage!"])
def test_damaged_exif_does_not_stop_a_good_picture(tmp_path, exif):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert through_file(Image.new("RGB", (8, 4)), tmp_path / "a.jpg", exif=exif).shape == (4, 8, 3)


def test_of_several_frames_the_first_counts(tmp_path):
    frames = [Image.new("RGB", (2, 2), colour) for colour in (RED, GREEN)]
    for name in ("a.gif", "a.tiff", "a.png"):
        pixels = through_file(frames[0], tmp_path / name, save_all=True, append_images=frames[1:])
        assert pixels[0, 0].tolist() == list(RED)


def test_a_pillow_image_is_left_as_it_was():
    image = two_by_one("RGBA", (*RED, 255), (*GREEN, 0))
    before = image.copy()
    assert to_rgb(image).tolist() == [[list(RED), list(WHITE)]]
    assert (image.mode, image.tobytes()) == ("RGBA", before.tobytes())


def test_the_colour_space_lab_is_refused():
    lab = ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), lab, "RGB", "LAB")
    image = ImageCms.applyTransform(Image.new("RGB", (2, 2)), transform)
    with pytest.raises(InputError, match="LAB"):
        to_rgb(image)


def png_bytes():
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"These are notes, not a picture.\n" * 50, "not a picture in a format that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not a picture in a format"),
        (png_bytes()[:-900], "damaged or cut short"),
        (png_bytes()[:20], "."),
        (png_bytes()[:60] + bytes(len(png_bytes()) - 60), "damaged or cut short"),
    ],
)
def test_a_bad_file_is_told_in_one_line(tmp_path, content, reason):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as error:
        decode_file(path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) not in str(error.value)


def test_what_is_no_file_is_told(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    reasons = {
        tmp_path: "a folder, not a file",
        tmp_path / "gone.png": "no such file",
        tmp_path / "link.png": "a link that leads nowhere",
        tmp_path / "pipe.png": "not a regular file",
        tmp_path / ("x" * 300): "can't be read .*too long",
    }
    for path, reason in reasons.items():
        with pytest.raises(InputError, match=reason):
            decode_file(path)


def enormous_png():
    """A picture of 30,000 x 30,000 pixels in a few bytes."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_decompression_bombs_are_refused(tmp_path):
    (tmp_path / "bomb.png").write_bytes(enormous_png())
    with pytest.raises(InputError, match=r"more than [\d,]+ pixels"):
        decode_file(tmp_path / "bomb.png")


def test_the_limit_is_pillows_own(tmp_path, monkeypatch):
    Image.new("RGB", (11, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InputError, match="more than 100 pixels"):
            decode_file(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode_file(tmp_path / "a.png").shape == (10, 11, 3)
