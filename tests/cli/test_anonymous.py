"""What records and decoded images give away of a photograph, its file and its owner."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import zstandard
from PIL import Image

import dinac_cli
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import read_header

from .conftest import draw, list_files
from .processes import DINAC, make_environment, run


def read_whole(record: Path) -> bytes:
    """A record's bytes, and what they hold uncompressed."""
    data = record.read_bytes()
    return data + zstandard.ZstdDecompressor().decompress(data[24:])


def header_of(path: Path) -> RecordHeader:
    with path.open("rb") as file:
        return read_header(file)


@pytest.fixture
def geotagged(tmp_path: Path) -> Path:
    """A folder with `photos/secret-place.jpg`, which says where and with what it was taken."""
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    position = exif.get_ifd(0x8825)
    position[1], position[2] = "N", (51.0, 28.0, 40.0)
    (tmp_path / "photos").mkdir()
    draw(48, 32).save(
        tmp_path / "photos/secret-place.jpg", exif=exif.tobytes(), comment="Somewhere"
    )
    return tmp_path


def test_metadata_of_the_image_goes_nowhere(geotagged: Path) -> None:
    assert b"SecretCamera" in (geotagged / "photos/secret-place.jpg").read_bytes()
    assert run("encode", "photos", "latents", "-q", cwd=geotagged).code == 0
    record = read_whole(geotagged / "latents/secret-place.jpg.dinac")
    assert not [word for word in (b"SecretCamera", b"Somewhere", b"Exif") if word in record]
    for form in ("png", "jpg", "webp"):
        decoded = run("decode", "latents", form, "--format", form, "-q", cwd=geotagged)
        assert decoded.code == 0
        [name] = list_files(geotagged / form)
        data = (geotagged / form / name).read_bytes()
        assert not [word for word in (b"SecretCamera", b"Somewhere", b"Exif") if word in data]
        with Image.open(geotagged / form / name) as image:
            assert not image.getexif()


def test_anonymous_record_holds_neither_name_nor_hash(geotagged: Path) -> None:
    source = geotagged / "photos/secret-place.jpg"
    model = geotagged / "alices-model"
    shutil.copytree(Path(dinac_cli.__file__).parent / "weights/nano", model)
    done = run("encode", "photos", "latents", "--anonymous", "--model", model, cwd=geotagged)
    assert (done.code, done.err) == (0, "")
    path = geotagged / "latents/secret-place.jpg.dinac"
    assert header_of(path).is_anonymous
    digest = hashlib.sha256(source.read_bytes()).hexdigest().encode()
    words = (b"secret", b"photos", b"alice", digest)
    assert not [word for word in words if word in read_whole(path)[24:]]


def test_running_again_goes_by_time(geotagged: Path) -> None:
    command = ("encode", "photos", "latents", "--anonymous")
    assert run(*command, cwd=geotagged).code == 0
    assert run(*command, cwd=geotagged).out == "0 encoded with nano, 1 already done\n"
    # Those that are anonymous already are fine for who does not ask for it.
    assert (
        run("encode", "photos", "latents", cwd=geotagged).out
        == "0 encoded with nano, 1 already done\n"
    )
    later = (geotagged / "latents/secret-place.jpg.dinac").stat().st_mtime + 10
    os.utime(geotagged / "photos/secret-place.jpg", (later, later))
    changed = run(*command, cwd=geotagged)
    assert changed.err == ("dinac: photos/secret-place.jpg: made again: the source has changed\n")


def test_records_that_name_their_source_are_not_left_among_anonymous_ones(geotagged: Path) -> None:
    assert run("encode", "photos", "latents", "-q", cwd=geotagged).code == 0
    refused = run("encode", "photos", "latents", "--anonymous", cwd=geotagged)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == (
        "dinac: latents already holds a record that names its source, not an anonymous one "
        "(latents/secret-place.jpg.dinac): choose another OUT, or add --overwrite to encode all "
        "anew\n"
    )
    path = geotagged / "latents/secret-place.jpg.dinac"
    assert not header_of(path).is_anonymous
    anew = run("encode", "photos", "latents", "--anonymous", "--overwrite", cwd=geotagged)
    assert anew.code == 0
    assert header_of(path).is_anonymous


def test_hashes_cannot_be_compared_where_there_are_none(geotagged: Path) -> None:
    done = run("encode", "photos", "latents", "--anonymous", "--checksum", cwd=geotagged)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "dinac: --anonymous records hold no hash to compare: leave out --checksum\n"
    )


def test_anonymous_stream_is_decoded_by_number(work: Path, tmp_path: Path) -> None:
    stream = subprocess.run(
        [*DINAC, "encode", "photos", "-", "--anonymous", "-q"],
        cwd=work, capture_output=True, env=make_environment(), timeout=60, check=True,
    )  # fmt: skip
    decoded = run("decode", "-", tmp_path / "out", "-q", stdin=stream.stdout)
    assert (decoded.code, decoded.err) == (0, "")
    assert list_files(tmp_path / "out") == [f"{number:06d}.png" for number in range(1, 5)]
