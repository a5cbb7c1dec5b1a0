"""Written images hold the pixels and the stamp, and no other metadata."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dinac_cli.errors import ImageError
from dinac_cli.images.formats import OUTPUT_FORMATS, detect_format
from dinac_cli.images.reading import read_image
from dinac_cli.images.stamp import read_stamp
from dinac_cli.images.writing import write_image

from .hand_made import make_exif, make_pixels, save

STAMP = {"record": "2c26b46b" * 8, "steps": "1", "sampler": "ddim"}
LOSSY = [name for name, output in OUTPUT_FORMATS.items() if output.lossy_options is not None]
LOSSLESS = [name for name, output in OUTPUT_FORMATS.items() if output.quality is None]


@pytest.mark.parametrize("name", OUTPUT_FORMATS)
@pytest.mark.parametrize("stamp", [None, STAMP], ids=["plain", "stamped"])
def test_written_pixels_are_read_back(name: str, stamp: dict[str, str] | None) -> None:
    pixels = make_pixels(64, 96) // 2 + 60
    data = write_image(pixels, name, stamp=stamp)
    assert detect_format(data) == OUTPUT_FORMATS[name].pillow
    source = read_image(data)
    error = np.abs(source.pixels.astype(int) - pixels).mean()
    assert error == 0 if name in LOSSLESS else error < 3
    assert source.description == "orientation=none;color=srgb;alpha=none;frame=1/1"


@pytest.mark.parametrize("name", OUTPUT_FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (17, 31)])
def test_extreme_sizes_are_written(name: str, size: tuple[int, int]) -> None:
    data = write_image(np.full((*size, 3), 77, dtype=np.uint8), name, stamp=STAMP)
    assert read_image(data).pixels.shape == (*size, 3)


@pytest.mark.parametrize("name", OUTPUT_FORMATS)
def test_stamp_is_read_back(name: str, tmp_path: Path) -> None:
    data = write_image(make_pixels(), name, stamp=STAMP)
    path = tmp_path / "a"
    path.write_bytes(data)
    assert read_stamp(data) == read_stamp(path) == STAMP
    assert write_image(make_pixels(), name, stamp=STAMP) == data


@given(
    st.sampled_from(list(OUTPUT_FORMATS)),
    st.dictionaries(st.text(min_size=1), st.text(max_size=80), max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_any_text_in_a_stamp_is_read_back(name: str, stamp: dict[str, str]) -> None:
    stamp.pop("file_bytes", None)
    assert read_stamp(write_image(make_pixels(4, 4), name, stamp=stamp)) == stamp


@pytest.mark.parametrize("name", OUTPUT_FORMATS)
def test_stamp_with_text_like_its_own_syntax_is_read_back(name: str) -> None:
    stamp = {"name": "?" * 40, "xml": "\"/><&quot;]]>'"}
    assert read_stamp(write_image(make_pixels(), name, stamp=stamp)) == stamp


def test_stamped_bmp_declares_its_size() -> None:
    plain, data = (write_image(make_pixels(), "bmp", stamp=stamp) for stamp in (None, STAMP))
    assert data[:2] + struct.pack("<I", len(plain)) + data[6 : len(plain)] == plain
    assert struct.unpack_from("<2xI", data) == (len(data),)


@pytest.mark.parametrize("name", OUTPUT_FORMATS)
def test_changed_file_has_no_stamp(name: str) -> None:
    data = write_image(make_pixels(), name, stamp=STAMP)
    assert read_stamp(data[:-1]) is None
    assert read_stamp(data[: len(data) // 2]) is None
    assert read_stamp(data + b"\x00") is None


def test_edited_image_with_kept_metadata_has_no_stamp() -> None:
    written = Image.open(io.BytesIO(write_image(make_pixels(), "jpg", stamp=STAMP)))
    edited = save(written.point(lambda v: 255 - v), "JPEG", xmp=written.info["xmp"])
    assert b"dinac:stamp" in edited
    assert read_stamp(edited) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image",
        save(Image.fromarray(make_pixels()), "PNG"),
        save(Image.fromarray(make_pixels()), "JPEG", xmp=b"<x:xmpmeta/>"),
        save(Image.fromarray(make_pixels()), "JPEG", xmp=b'dinac:stamp="' + b"[" * 50_000 + b'"'),
        save(Image.fromarray(make_pixels()), "JPEG", xmp=b'dinac:stamp="{not json}"'),
        save(Image.fromarray(make_pixels()), "JPEG", xmp=b'dinac:stamp="[1,2]"'),
        save(Image.fromarray(make_pixels()), "JPEG", xmp=b'dinac:stamp="{&quot;a&quot;:1}"'),
        save(Image.fromarray(make_pixels()), "WEBP", xmp=b'dinac:stamp="\xff\xfe"'),
        write_image(make_pixels(), "png"),
        b"P6\n# dinac " + b"[" * 50_000 + b"\n1 1\n255\n123",
        b"P6\n# dinac {}\n1 1\n255\n123",
        b"P6\n# dinac {",
        b"BM" + bytes(100),
    ],
)
def test_foreign_file_has_no_stamp(data: bytes) -> None:
    assert read_stamp(data) is None


def test_unreadable_path_has_no_stamp(tmp_path: Path) -> None:
    assert read_stamp(tmp_path / "absent.png") is None
    assert read_stamp(tmp_path) is None


def test_stamp_is_read_without_decoding() -> None:
    data = bytearray(write_image(make_pixels(), "png", stamp=STAMP))
    start = data.index(b"IDAT") + 4
    data[start : start + 20] = bytes(20)
    assert read_stamp(bytes(data)) == STAMP
    with pytest.raises(ImageError):
        read_image(bytes(data))


@pytest.mark.parametrize("name", OUTPUT_FORMATS)
def test_metadata_of_the_source_is_not_copied(name: str) -> None:
    source = save(Image.fromarray(make_pixels()), "JPEG", exif=make_exif(6, gps=True))
    assert b"SecretCamera" in source
    written = write_image(read_image(source).pixels, name, stamp=STAMP)
    image = Image.open(io.BytesIO(written))
    assert b"SecretCamera" not in written
    assert image.getexif().get_ifd(0x8825) == {}
    assert image.getexif().get(0x0112) is None
    assert not {"exif", "icc_profile"} & image.info.keys()


@pytest.mark.parametrize(("name", "limit"), [("webp", 16383), ("jpg", 65500), ("avif", 32768)])
def test_image_too_large_for_its_format_is_refused(
    name: str, limit: int, capfd: pytest.CaptureFixture[str]
) -> None:
    largest = write_image(np.zeros((1, limit, 3), dtype=np.uint8), name)
    assert read_image(largest).pixels.shape == (1, limit, 3)
    with pytest.raises(ImageError) as caught:
        write_image(np.zeros((limit + 1, 1, 3), dtype=np.uint8), name)
    assert str(caught.value) == (
        f"1x{limit + 1} is too large for {name}, whose sides have at most {limit} pixels; "
        "choose another --format"
    )
    assert capfd.readouterr() == ("", "")  # libjpeg would print its own line


def test_failure_of_the_encoder_quotes_pillow_in_the_details(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError("encoder error -2 when writing image file")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(ImageError) as caught:
        write_image(make_pixels(24, 40), "tiff")
    assert str(caught.value) == "cannot write 40x24 as tiff; choose another --format"
    assert caught.value.details == ("OSError: encoder error -2 when writing image file",)


@pytest.mark.parametrize("name", LOSSY)
def test_lower_quality_gives_smaller_files(name: str) -> None:
    pixels = make_pixels(64, 96)
    sizes = [len(write_image(pixels, name, quality=quality)) for quality in (10, 50, 90)]
    assert sizes == sorted(set(sizes))
    read = read_image(write_image(pixels, name, quality=90)).pixels.astype(int)
    assert np.abs(read - pixels).mean() < 6
    default = OUTPUT_FORMATS[name].quality
    if default is not None:
        assert write_image(pixels, name, quality=default) == write_image(pixels, name)


def test_only_some_formats_have_a_quality() -> None:
    assert LOSSY == ["jpg", "webp", "avif"]
    assert [name for name in LOSSY if name not in LOSSLESS] == ["jpg", "avif"]


def test_writing_does_not_load_every_plugin() -> None:
    code = (
        "import sys, numpy as np; from dinac_cli.images.writing import write_image;"
        "from dinac_cli.images.formats import OUTPUT_FORMATS;"
        "[write_image(np.zeros((2, 2, 3), np.uint8), name) for name in OUTPUT_FORMATS];"
        "print('PIL.EpsImagePlugin' in sys.modules, 'PIL.PdfImagePlugin' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False False\n", "")
