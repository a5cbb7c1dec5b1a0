"""Records and decoded images reveal nothing of a photograph's metadata, file and owner."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
import zstandard
from PIL import Image

import dinac_cli
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import read_header

from .conftest import draw, list_files
from .processes import run

NAME = "secret-place.jpg"
METADATA = (b"SecretCamera", b"Somewhere", b"Exif")


def read_whole(record: Path) -> bytes:
    """Returns a record's bytes and, after them, its uncompressed content."""
    data = record.read_bytes()
    return data + zstandard.ZstdDecompressor().decompress(data[24:])


def load_header(path: Path) -> RecordHeader:
    with path.open("rb") as file:
        return read_header(file)


@pytest.fixture(scope="module")
def geotagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One photograph in `photos` with position and camera in its metadata, and its `latents`.

    `anonymous` is a copy of them, overwritten anonymously with a model of the user's own.
    """
    folder = tmp_path_factory.mktemp("geotagged")
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    position = exif.get_ifd(0x8825)
    position[1], position[2] = "N", (51.0, 28.0, 40.0)
    (folder / "photos").mkdir()
    draw(48, 32).save(folder / "photos" / NAME, exif=exif.tobytes(), comment="Somewhere")
    assert run("encode", "photos", "latents", "-q", cwd=folder).code == 0
    shutil.copytree(folder / "latents", folder / "anonymous")
    shutil.copytree(Path(dinac_cli.__file__).parent / "weights/nano", folder / "alices-model")
    done = run(
        "encode", "photos", "anonymous", "--anonymous", "--overwrite", "--model", "alices-model",
        cwd=folder,
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    return folder


def test_metadata_is_dropped(geotagged: Path, tmp_path: Path) -> None:
    assert all(word in (geotagged / "photos" / NAME).read_bytes() for word in METADATA)
    record = read_whole(geotagged / f"latents/{NAME}.dinac")
    assert not [word for word in METADATA if word in record]
    out = tmp_path / "out"
    assert run("decode", "latents", out, "--format", "jpg", "-q", cwd=geotagged).code == 0
    assert not [word for word in METADATA if word in (out / NAME).read_bytes()]
    with Image.open(out / NAME) as image:
        assert not image.getexif()


def test_anonymous_record_holds_neither_name_nor_hash(geotagged: Path) -> None:
    path = geotagged / f"anonymous/{NAME}.dinac"
    assert load_header(path).is_anonymous
    assert not load_header(geotagged / f"latents/{NAME}.dinac").is_anonymous
    digest = hashlib.sha256((geotagged / "photos" / NAME).read_bytes()).hexdigest().encode()
    words = (b"secret", b"photos", b"alice", digest)
    assert not [word for word in words if word in read_whole(path)]


def test_anonymous_records_are_redone_if_the_source_is_newer(
    geotagged: Path, tmp_path: Path
) -> None:
    shutil.copytree(geotagged / "photos", tmp_path / "photos")
    command = ("encode", "photos", "anonymous")
    assert run(*command, "--anonymous", cwd=tmp_path).code == 0
    # A run without --anonymous accepts anonymous records.
    for options in ((), ("--anonymous",)):
        done = run(*command, *options, cwd=tmp_path)
        assert (done.code, done.out) == (0, "0 encoded with nano, 1 already done\n")
    later = (tmp_path / f"anonymous/{NAME}.dinac").stat().st_mtime + 10
    os.utime(tmp_path / "photos" / NAME, (later, later))
    changed = run(*command, "--anonymous", cwd=tmp_path)
    assert changed.err == f"dinac: photos/{NAME}: redone: the source has changed\n"


def test_anonymous_run_refuses_records_that_name_their_source(geotagged: Path) -> None:
    refused = run("encode", "photos", "latents", "--anonymous", cwd=geotagged)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == (
        "dinac: latents holds a record that names its source; you asked for --anonymous "
        f"(latents/{NAME}.dinac); choose another OUT, or add --overwrite to re-encode everything\n"
    )


def test_anonymous_excludes_checksum(geotagged: Path) -> None:
    done = run("encode", "photos", "other", "--anonymous", "--checksum", cwd=geotagged)
    assert (done.code, done.out) == (2, "")
    assert done.err == "dinac: --anonymous records hold no hash to compare; leave out --checksum\n"


def test_anonymous_stream_is_decoded_to_numbered_files(geotagged: Path, tmp_path: Path) -> None:
    stream = 2 * (geotagged / f"anonymous/{NAME}.dinac").read_bytes()
    decoded = run("decode", "-", tmp_path / "out", "-q", stdin=stream)
    assert (decoded.code, decoded.err) == (0, "")
    assert list_files(tmp_path / "out") == ["000001.png", "000002.png"]
