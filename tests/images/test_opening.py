"""Bad, huge and truncated files give a one-line error; Pillow prints nothing on the screen."""

from __future__ import annotations

import io
import random
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from dinac_cli.errors import ImageError
from dinac_cli.images import opening
from dinac_cli.images.formats import INPUT_FORMATS
from dinac_cli.images.reading import read_image

from .hand_made import Pixels, chunk, make_exif, make_pixels, make_png, save

IMAGE = Image.fromarray(make_pixels())
FILES = {
    "jpeg": save(IMAGE, "JPEG"),
    "progressive": save(IMAGE, "JPEG", progressive=True),
    "png": save(IMAGE, "PNG"),
    "apng": save(IMAGE, "PNG", save_all=True, append_images=[IMAGE.rotate(90)]),
    "palette": save(IMAGE.quantize(16), "PNG"),
    "webp": save(IMAGE, "WEBP"),
    "lossless": save(IMAGE, "WEBP", lossless=True),
    "gif": save(IMAGE.quantize(16), "GIF"),
    "tiff": save(IMAGE, "TIFF"),
    "bmp": save(IMAGE, "BMP"),
    "ppm": save(IMAGE, "PPM"),
    "jpeg2000": save(IMAGE, "JPEG2000"),
    "codestream": save(IMAGE, "JPEG2000", no_jp2=True),
    "qoi": save(IMAGE, "QOI"),
    "avif": save(IMAGE, "AVIF"),
}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file (0 bytes)"),
        (b"dear diary, today I took a picture", "not an image (no known image format)"),
        (b"%PDF-1.7 ...", "not an image (no known image format)"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image (no known image format)"),
        (
            b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic",
            "HEIC is not supported; convert the image to PNG or JPEG",
        ),
        (
            b"\x00\x00\x00\x0cJXL \r\n\x87\n",
            "JPEG XL is not supported; convert the image to PNG or JPEG",
        ),
        (
            b"II*\x00\x10\x00\x00\x00CR\x02\x00",
            "Canon raw is not supported; convert the image to PNG or JPEG",
        ),
        (FILES["png"][:60], "truncated PNG file"),
        (FILES["jpeg"][:-40], "truncated JPEG file"),
        (FILES["webp"][:-40], "truncated WEBP file"),
        (FILES["gif"][:-40], "truncated GIF file"),
        (FILES["bmp"][:-40], "truncated BMP file"),
        (b"GIF89a", "truncated GIF file"),
        (
            FILES["png"].replace(b"IDAT", b"IDOT"),
            "cannot decode this PNG file (broken PNG file (bad header checksum in b'IDOT'))",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_error_says_what_is_wrong(data: bytes, message: str) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(data)
    assert str(caught.value) == message


def read_or_explain(data: bytes, max_pixels: int = 100_000) -> tuple[Pixels | None, str]:
    """Returns the pixels, or the error's message."""
    try:
        return read_image(data, max_pixels=max_pixels).pixels, ""
    except ImageError as exc:
        return None, str(exc)


@pytest.mark.parametrize("name", FILES)
def test_truncated_file_is_refused_or_complete(name: str) -> None:
    data = FILES[name]
    whole, _ = read_or_explain(data)
    lengths = random.Random(0).sample(range(len(data)), 40)
    results = [read_or_explain(data[:length]) for length in lengths]
    survivors = [pixels for pixels, _ in results if pixels is not None]
    for pixels in survivors:  # truncated after the first frame
        np.testing.assert_array_equal(pixels, whole)
    assert len(survivors) <= 30
    assert all(message.isprintable() for _, message in results)


@pytest.mark.parametrize("name", sorted(FILES.keys() - {"tiff"}))
def test_damage_gives_a_one_line_error(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    # TIFF is left out because libtiff prints some damage on standard error.
    rng = random.Random(0)
    for _ in range(60):
        data = bytearray(FILES[name])
        for _ in range(rng.choice([1, 4])):
            data[rng.choice([rng.randrange(60), rng.randrange(len(data))])] = rng.randrange(256)
        pixels, message = read_or_explain(bytes(data))
        assert (pixels is None) == bool(message)
        assert message.isprintable()
        assert len(message) < 250
    assert capfd.readouterr() == ("", "")


@given(st.sampled_from(sorted(FILES)), st.integers(0, 40), st.binary(max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_bytes_after_a_signature_give_pixels_or_an_error(
    name: str, kept: int, tail: bytes
) -> None:
    pixels, message = read_or_explain(FILES[name][:kept] + tail)
    assert (pixels is None) == bool(message)
    assert message.isprintable()


@pytest.mark.parametrize(
    "raised",
    [
        OSError("two\nlines \x1b[31m"),
        KeyError(10825),
        AttributeError("'NoneType' object has no attribute 'x'"),
        RecursionError("maximum recursion depth exceeded"),
        Image.DecompressionBombError("bomb"),
        AssertionError(),
    ],
)
def test_every_exception_is_wrapped(raised: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> NoReturn:
        raise raised

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "_open", fail)
    with pytest.raises(ImageError, match=r"^cannot decode this PNG file \(.+\)$") as caught:
        read_image(FILES["png"])
    assert str(caught.value).isprintable()


def test_lack_of_memory_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(ImageError, match=r"^not enough memory to decode this PNG file$"):
        read_image(FILES["png"])


def test_keyboard_interrupt_is_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(KeyboardInterrupt):
        read_image(FILES["png"])


def test_bomb_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> NoReturn:
        raise AssertionError("decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(ImageError) as caught:
        read_image(make_png((60000, 60000), 8, 2, [b"\x00"]))
    assert str(caught.value) == (
        "60000x60000 is 3600000000 pixels, more than the limit of 178956970"
        " (raise it with --max-pixels)"
    )


def test_limit_is_exact() -> None:
    height, width, _ = make_pixels().shape
    assert read_image(FILES["png"], max_pixels=height * width).pixels.size
    with pytest.raises(ImageError, match=f"^{width}x{height} is 960 pixels, more than .* 959 "):
        read_image(FILES["png"], max_pixels=height * width - 1)


@pytest.mark.parametrize("name", sorted(FILES.keys() - {"webp", "lossless"}))
def test_limit_may_exceed_pillows_limit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # WebP is left out: its largest image, 16383 x 16383, is below twice Pillow's limit.
    monkeypatch.setattr(opening, "MAX_PIXELS", 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image(FILES[name], max_pixels=1000).pixels.shape == make_pixels().shape
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("name", INPUT_FORMATS)
def test_every_input_format_can_be_read(name: str) -> None:
    assert read_image(save(IMAGE, name)).pixels.shape == make_pixels().shape


def test_threads_read_odd_files_silently(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as seen, ThreadPoolExecutor(8) as pool:
        warnings.simplefilter("always")
        results = list(pool.map(read_image, [make_loud_jpeg(), FILES["apng"]] * 30))
    assert len(results) == 60
    assert all((result.pixels == results[0].pixels).all() for result in results[::2])
    assert seen == []
    assert capfd.readouterr() == ("", "")


def make_loud_jpeg() -> bytes:
    """A JPEG with EXIF that Pillow warns about."""
    return save(IMAGE, "JPEG", exif=make_exif(6)[:24])


def test_pillow_warns_about_the_loud_jpeg() -> None:
    with pytest.warns(UserWarning, match="Corrupt EXIF data"):
        Image.open(io.BytesIO(make_loud_jpeg())).getexif()


def test_warning_filter_is_added_once_and_is_narrow() -> None:
    before = list(warnings.filters)
    read_image(FILES["png"])
    read_image(FILES["png"])
    added = [filter_ for filter_ in warnings.filters if filter_ not in before]
    assert len(added) == len(warnings.filters) - len(before) == 1
    assert not issubclass(Image.DecompressionBombWarning, added[0][2])


def test_broken_metadata_after_the_pixels_is_ignored() -> None:
    data = FILES["png"][:-12] + chunk(b"iTXt", b"\xff\x00\x00\x00\x00\x00\xff") + FILES["png"][-12:]
    np.testing.assert_array_equal(read_image(data).pixels, make_pixels())
