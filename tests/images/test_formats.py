"""Formats are detected by their first bytes, without Pillow."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dinac_cli.images.formats import (
    HEAD_BYTES,
    INPUT_FORMATS,
    MAX_PIXELS,
    OUTPUT_FORMATS,
    detect_format,
    detect_optional,
    detect_unreadable,
    format_of_suffix,
    is_image_name,
    looks_like_image,
)

from .hand_made import make_pixels, save

HEIF_BRANDS = (
    *("heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "hevs"),
    *("mif1", "msf1", "mif2", "avci", "vvic", "j2ki"),
)


def make_brand(*brands: str) -> bytes:
    """The first box of an ISO media file: its major brand, and the compatible brands."""
    content = b"ftyp" + brands[0].encode() + bytes(4) + "".join(brands[1:]).encode()
    return struct.pack(">I", 4 + len(content)) + content


@pytest.mark.parametrize("name", INPUT_FORMATS)
def test_every_input_format_is_detected(name: str) -> None:
    data = save(Image.fromarray(make_pixels()), name)
    assert detect_format(data[:HEAD_BYTES]) == name
    assert looks_like_image(data)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1avifmiaf", "AVIF"),
        (b"\x00\x00\x00\x1cftypavis\x00\x00\x00\x00", "AVIF"),
        (b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1heicmiaf", None),
        (b"\x00\x00\x00\x1cftypisom\x00\x00\x02\x00isomiso2avc1mp41", None),
        (b"II+\x00\x08\x00\x00\x00", "TIFF"),
        (b"II*\x00\x10\x00\x00\x00CR\x02\x00", None),
        (b"\xff\x4f\xff\x51\x00\x2f", "JPEG2000"),
        (b"P6\n# made by hand\n1 1\n255\n", "PPM"),
        (b"P5 is my favourite printer", None),
        (b"BMW is a car, not a picture. Really.", None),
        (b"BM\x46\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00\x00\x00", "BMP"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", None),
        (b"GIF", None),
        (b"", None),
    ],
)
def test_format_is_detected_by_first_bytes(head: bytes, expected: str | None) -> None:
    assert detect_format(head) == expected
    is_other = detect_optional(head) is not None or detect_unreadable(head) is not None
    assert looks_like_image(head) == (expected is not None or is_other)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        *((make_brand(brand), "HEIC") for brand in HEIF_BRANDS),
        (make_brand("mif1", "heic", "miaf"), "HEIC"),
        (make_brand("crx "), "Canon raw"),
        (b"II*\x00\x10\x00\x00\x00CR\x02\x00", "Canon raw"),
        (b"II\x1a\x00\x00\x00HEAPCCDR", "Canon raw"),
        (b"\xff\x0a\xfa\x1f\x01", "JPEG XL"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"FUJIFILMCCD-RAW 0201", "Fujifilm raw"),
        (b"IIRO\x08\x00\x00\x00", "Olympus raw"),
        (b"IIU\x00\x18\x00\x00\x00", "Panasonic raw"),
        (b"FOVb\x03\x00\x02\x00", "Sigma raw"),
        (b"\xff\xd8\xff\xf7\x00\x11", "JPEG-LS"),
        (b"\xff\xd8\xff\xe8\x00\x20SPIFF\x00\x02\x00" + bytes(10) + b"\x0a\x08\x06", "JPEG-LS"),
        (b"P7\nWIDTH 4\n", "PAM"),
        (b"P7P7", None),
        (b"8BPS\x00\x01", "Photoshop"),
        (b"8BPS\x00\x02", "Photoshop"),
        (b"8BPS is no picture", None),
        (make_brand("isom", "avc1"), None),
        (make_brand("qt  "), None),
        (b"%PDF-1.7", None),
        (b"", None),
    ],
)
def test_other_images_are_recognised(head: bytes, expected: str | None) -> None:
    assert (detect_optional(head) or detect_unreadable(head)) == expected
    assert looks_like_image(head) == (expected is not None)


def test_a_late_brand_of_avif_is_found() -> None:
    head = make_brand("mif1", "mif1", "miaf", "MiHB", "MA1B", "avif")
    assert detect_format(head[:HEAD_BYTES]) == "AVIF"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", True),
        ("UPPER CASE naïve 図 #1 (copy).JPG", True),
        ("trip/a.b.Tiff", True),
        ("a.dinac", False),
        ("a.HEIC", True),
        ("a.jxl", True),
        ("a.psd", True),
        ("a.cr3", True),
        ("a.pdf", False),
        ("jpg", False),
        (".jpg", False),
        ("", False),
    ],
)
def test_image_names_have_a_known_suffix(name: str, expected: bool) -> None:
    assert is_image_name(name) is expected
    assert is_image_name(Path(name)) is expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a.PNG", "png"), ("a.jpeg", "jpg"), ("a.tif", "tiff"), ("a.gif", None), ("a", None)],
)
def test_output_format_is_found_by_suffix(path: str, expected: str | None) -> None:
    output = format_of_suffix(path)
    assert (output and output.name) == expected


def test_every_output_is_a_readable_input() -> None:
    for name, output in OUTPUT_FORMATS.items():
        assert output.name == name
        assert output.suffixes[0] == f".{name}"
        assert all(is_image_name(f"a{suffix}") for suffix in output.suffixes)
        assert output.pillow in INPUT_FORMATS


def test_default_pixel_limit_equals_pillows_bomb_limit() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert 2 * Image.MAX_IMAGE_PIXELS == MAX_PIXELS


def test_formats_import_no_heavy_module() -> None:
    code = (
        "import sys, dinac_cli.images.formats;"
        "print(sorted({'PIL', 'numpy', 'torch', 'rich', 'typer'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_images_do_not_import_torch() -> None:
    code = (
        "import sys, dinac_cli.images.reading, dinac_cli.images.writing, dinac_cli.images.metrics;"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
