"""The fast JPEG decoder returns Pillow's pixels, or leaves the file to Pillow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from dinac_cli.errors import ImageError
from dinac_cli.images import fast_jpeg, reading
from dinac_cli.images.reading import read_image

from .hand_made import make_exif, make_pixels, save

simplejpeg = pytest.importorskip("simplejpeg")

TRAIN = Path(__file__).parents[3] / "shared/images/train"


@pytest.fixture(autouse=True)
def _forget_decoder() -> Iterator[None]:
    fast_jpeg.find_decoder.cache_clear()
    yield
    fast_jpeg.find_decoder.cache_clear()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each JPEG offered to the fast decoder, whether it returned the pixels."""
    log: list[bool] = []

    def note(*arguments: object) -> object:
        pixels = fast_jpeg.decode_jpeg(*arguments)  # type: ignore[arg-type]
        log.append(pixels is not None)
        return pixels

    monkeypatch.setattr(reading, "decode_jpeg", note)
    return log


def read_slowly(data: bytes, monkeypatch: pytest.MonkeyPatch) -> reading.SourceImage:
    with monkeypatch.context() as patch:
        patch.setattr(reading, "decode_jpeg", lambda *_: None)
        return read_image(data)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (17, 31), (64, 48)])
def test_pixels_equal_those_of_pillow(
    subsampling: str,
    progressive: bool,
    size: tuple[int, int],
    decoded: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = Image.fromarray(make_pixels()).resize(size)
    data = save(image, "JPEG", subsampling=subsampling, progressive=progressive)
    fast, slow = read_image(data), read_slowly(data, monkeypatch)
    assert decoded == [True]
    np.testing.assert_array_equal(fast.pixels, slow.pixels)
    assert (fast.description, fast.warnings) == (slow.description, slow.warnings)
    assert fast.pixels.flags.c_contiguous
    assert fast.pixels.flags.writeable


def test_images_that_need_a_conversion_are_left_to_pillow(decoded: list[bool]) -> None:
    image = Image.fromarray(make_pixels())
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    read_image(save(image, "JPEG", icc_profile=profile))
    read_image(save(image, "JPEG", exif=make_exif(6)))
    read_image(save(image.convert("L"), "JPEG"))
    read_image(save(image.convert("CMYK"), "JPEG"))
    read_image(save(image, "PNG"))
    assert decoded == []


def test_damaged_file_gets_pillows_error(decoded: list[bool]) -> None:
    data = save(Image.fromarray(make_pixels()), "JPEG")
    with pytest.raises(ImageError, match="truncated JPEG file"):
        read_image(data[:-20])
    assert decoded == [False]


def test_decoder_with_different_pixels_is_not_used(
    decoded: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *a, **k: exact(*a, **k) ^ 1)
    read_image(save(Image.fromarray(make_pixels()), "JPEG"))
    assert decoded == [False]


def test_pillow_decodes_if_simplejpeg_is_not_installed(
    decoded: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    read_image(save(Image.fromarray(make_pixels()), "JPEG"))
    assert decoded == [False]


@pytest.mark.skipif(not TRAIN.is_dir(), reason="needs the photographs")
def test_pixels_of_photographs_equal_those_of_pillow(
    decoded: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(TRAIN.glob("*.jpg"))[:40]
    for path in paths:
        data = path.read_bytes()
        slow = read_slowly(data, monkeypatch)
        np.testing.assert_array_equal(read_image(data).pixels, slow.pixels)
    assert sum(decoded) > len(paths) / 2
