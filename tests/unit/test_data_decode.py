"""Every kind of picture file becomes RGB, or is refused with a reason that a person understands."""

import errno
import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, features

from headstart.data import decoding_memory
from headstart.data.decode import decode_file, readable_suffixes, to_rgb
from headstart.data.preprocess import Preprocess
from headstart.data.sources.facts import look_at
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
        (b"These are notes, not a picture.\n" * 50, "not an image in a format that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not an image in a format"),
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


def test_a_file_larger_than_any_image_is_refused_without_reading_it(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes())
    os.truncate(path, 10**13)
    assert "more than any image" in look_at(path).reason


def test_what_is_no_file_is_told(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    reasons = {
        tmp_path: "a folder, not a file",
        tmp_path / "gone.png": "no such file",
        tmp_path / "link.png": "a link that leads nowhere",
        tmp_path / "loop.png": "a link that leads back to itself",
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


def smooth(width, height, mode="RGB"):
    generator = np.random.default_rng(1)
    bands = [generator.integers(0, 256, (6, 5), dtype=np.uint8) for _ in Image.new(mode, (1, 1)).getbands()]
    return Image.merge(
        mode, [Image.fromarray(band).resize((width, height), Image.Resampling.BICUBIC) for band in bands]
    )


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("size", [(9, 4), (4, 9), (7, 7), (8, 5)])
def test_every_orientation_is_pillows_and_its_centre_is_that_of_the_upright_image(tmp_path, orientation, size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = through_file(image, tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as again:
        assert upright.tolist() == np.array(ImageOps.exif_transpose(again)).tolist()
    for side in (2, 100):
        preprocess = Preprocess(side, (0.5, 0.5, 0.5), (1, 1, 1))
        centre = preprocess.square(decode_file(tmp_path / "a.png", at_least=side, fit="crop"))
        assert np.abs(centre.astype(int) - preprocess.square(upright)).max() <= (3 if side == 2 else 0)


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [("png", "RGB"), ("png", "RGBA"), ("png", "LA"), ("tiff", "CMYK"), ("jpg", "RGB"), ("jpg", "L"), ("jpg", "CMYK")],
)
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
# Blocks of pixels fit into the first size exactly; with the second, edges move by up to half a block.
@pytest.mark.parametrize(("width", "height", "mean"), [(704, 448, 1), (703, 445, 3)])
def test_a_reduced_image_gives_nearly_the_same_square(tmp_path, suffix, mode, fit, width, height, mean):
    smooth(width, height, mode).save(tmp_path / f"a.{suffix}", quality=95)
    preprocess = Preprocess(32, (0.5, 0.5, 0.5), (1, 1, 1), fit=fit)
    reduced = decode_file(tmp_path / f"a.{suffix}", at_least=32, fit=fit)
    whole = decode_file(tmp_path / f"a.{suffix}")
    assert whole.shape == (height, width, 3)
    assert reduced.size < whole.size / 15
    assert np.abs(preprocess.square(reduced).astype(int) - preprocess.square(whole)).mean() < mean


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize(("fit", "deciding"), [("crop", min), ("pad", max), (None, min)])
@pytest.mark.parametrize("size", [(640, 200), (333, 1000), (100, 100), (7, 900)])
def test_a_reduced_image_keeps_what_was_asked_for(tmp_path, suffix, fit, deciding, size):
    smooth(*size).save(tmp_path / f"a.{suffix}")
    for at_least in (8, 30, 99, 500):
        height, width, _ = decode_file(tmp_path / f"a.{suffix}", at_least=at_least, fit=fit).shape
        assert deciding(width, height) >= min(at_least, deciding(size))
        assert width <= size[0]
        assert height <= size[1]


def test_an_extremely_long_image_is_cut_before_it_is_converted(tmp_path):
    Image.new("RGB", (3, 20_000), RED).save(tmp_path / "a.png")
    assert decode_file(tmp_path / "a.png", at_least=64, fit="crop").shape[0] < 9
    assert decode_file(tmp_path / "a.png", at_least=64, fit="pad").shape[0] < 400
    assert decode_file(tmp_path / "a.png", at_least=64, fit="stretch").shape[0] < 400
    assert decode_file(tmp_path / "a.png", at_least=64).shape == (20_000, 3, 3)


@pytest.mark.parametrize(("width", "height"), [(150, 100), (101, 260), (400, 401)])
def test_what_is_cut_off_does_not_change_the_square(tmp_path, width, height):
    smooth(width, height).save(tmp_path / "a.png")
    preprocess = Preprocess(60, (0.5, 0.5, 0.5), (1, 1, 1))
    cut = decode_file(tmp_path / "a.png", at_least=60, fit="crop")
    whole = decode_file(tmp_path / "a.png")
    assert cut.size <= whole.size
    expected = preprocess.square(whole).astype(int)
    assert np.abs(preprocess.square(cut) - expected).max() <= (1 if min(width, height) < 360 else 3)


def test_a_users_own_image_is_not_decoded_at_a_fraction_of_its_size(tmp_path):
    smooth(1000, 1000).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        assert min(to_rgb(image, at_least=20).shape[:2]) < 100
        assert image.size == (1000, 1000)


def test_sixteen_bits_are_reduced_as_well(tmp_path):
    values = (np.asarray(smooth(900, 900, "L")).astype(np.uint16) << 8) + 7
    for name in ("a.png", "a.tiff"):
        reduced = through_file(Image.fromarray(values), tmp_path / name)
        assert (reduced[..., 0] == values >> 8).all()
        assert decode_file(tmp_path / name, at_least=50, fit="crop").shape == (150, 150, 3)


def test_what_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    for error, told in [
        (PermissionError(errno.EACCES, "Permission denied"), "no permission to read it"),
        (OSError(errno.EIO, "Input/output error"), r"can't be read \(Input/output error\)"),
    ]:
        monkeypatch.setattr(Image, "open", mock.Mock(side_effect=error))
        with pytest.raises(InputError, match=told):
            decode_file(tmp_path / "a.png")


def test_odd_paths_are_told(tmp_path):
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    long = Path("/".join(["deep"] * 2000))
    for path, told in [(loop, "leads back to itself"), (long, "too long"), (tmp_path / "a\0b.png", "name")]:
        with pytest.raises(InputError, match=told):
            decode_file(path)


def test_images_that_take_too_much_memory_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding_memory._budget, "_total", 2_000_000)
    Image.new("RGB", (400, 400)).save(tmp_path / "small.webp")
    Image.new("RGB", (400, 400)).save(tmp_path / "small.png")
    with pytest.raises(InputError, match=r"3 MB of memory, and 2 MB are\s+allowed"):
        decode_file(tmp_path / "small.webp")
    assert decode_file(tmp_path / "small.png", at_least=100).shape == (400, 400, 3)


def icon_with_a_large_png_inside():
    """An icon that says it is 16 x 16; the image in it is not."""
    file = io.BytesIO()
    Image.new("RGBA", (3000, 3000)).save(file, "PNG")
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(file.getvalue()), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + file.getvalue()


def test_what_opening_takes_counts_as_well(tmp_path, monkeypatch):
    (tmp_path / "a.ico").write_bytes(icon_with_a_large_png_inside())
    assert decoding_memory.bytes_to_open(tmp_path / "a.ico") == 4 * 3000 * 3000
    monkeypatch.setattr(decoding_memory._budget, "_total", 20_000_000)
    with pytest.raises(InputError, match="36 MB"):
        decode_file(tmp_path / "a.ico")
    monkeypatch.setattr(decoding_memory, "DECODING_BYTES", 400)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "a.webp")
    with pytest.raises(InputError, match="too many for an image of this format"):
        decode_file(tmp_path / "a.webp")


@pytest.mark.parametrize(
    ("kind", "options"), [(b"VP8 ", {}), (b"VP8L", {"lossless": True}), (b"VP8X", {"exif": b"Exif\0\0x"})]
)
def test_a_webp_image_counts_from_when_it_is_opened(tmp_path, kind, options):
    """Pillow makes its canvases then, outside of what loading is given."""
    path = saved(tmp_path / "a.webp", Image.new("RGB", (321, 123)), **options)
    assert path.read_bytes()[12:16] == kind
    assert decoding_memory.bytes_to_open(path) == 17 * 321 * 123 + path.stat().st_size
    with Image.open(path) as image:
        assert decoding_memory.bytes_to_decode(image) == 0


def test_a_tile_larger_than_its_image_counts(tmp_path):
    with Image.open(saved(tmp_path / "a.tif", Image.new("RGB", (100, 100)), compression="tiff_deflate")) as image:
        plain = decoding_memory.bytes_to_decode(image)
        image.tag_v2[322] = image.tag_v2[323] = 30_000
        assert plain < 1e6
        assert decoding_memory.bytes_to_decode(image) > 7e9


def saved(path, image, **options):
    image.save(path, **options)
    return path


def test_memory_is_given_back_and_waited_for():
    budget = decoding_memory._Budget(100)
    entered, order = threading.Event(), []

    def take(amount):
        with budget.reserved(amount):
            order.append(amount)

    with budget.reserved(60):
        threads = [threading.Thread(target=take, args=(amount,), daemon=True) for amount in (70, 80)]
        for thread in threads:
            thread.start()
        entered.wait(0.05)
        assert order == []
    for thread in threads:
        thread.join(timeout=20)
    assert sorted(order) == [70, 80]
    with pytest.raises(ValueError, match="as any error"), budget.reserved(100):
        raise ValueError("as any error")
    with budget.reserved(100):
        pass


@pytest.mark.parametrize("filtered", [False, True], ids=["no filter", "the same filter"])
def test_threads_that_decode_leave_the_filters_of_warnings_as_they_were(tmp_path, filtered):
    Image.new("RGB", (10, 10)).save(tmp_path / "odd.jpg", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x05")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if filtered:
            warnings.filterwarnings("ignore", module=r"PIL\.")
        before = list(warnings.filters)

        def decode_often():
            for _ in range(50):
                decode_file(tmp_path / "odd.jpg")

        threads = [threading.Thread(target=decode_often) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert warnings.filters == before
    assert caught == []


def test_suffixes_are_those_of_the_formats():
    assert {".jpg", ".jfif", ".png", ".webp", ".tiff", ".ico", ".mpo"} <= readable_suffixes()
    assert ".heic" in readable_suffixes(), "such a file is answered with what to install"
    assert not {".txt", ".eps", ".pdf"} & readable_suffixes()
    assert (".avif" in readable_suffixes()) == features.check("avif")
