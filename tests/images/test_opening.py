"""Bad, huge and truncated files give a one-line error; Pillow prints nothing on the screen."""

from __future__ import annotations

import io
import pickle
import random
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
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


# With the extra, these files are damaged.
NEEDS_EXTRA = (
    "{} is not supported without an extra; pip install 'dinac-cli[formats]', "
    "or convert the image to PNG or JPEG"
)
HEIC_LINE = (
    "damaged HEIC file; copy or download it again"
    if find_spec("pi_heif")
    else NEEDS_EXTRA.format("HEIC")
)
JXL_LINE = (
    "truncated JPEG XL file; copy or download it again"
    if find_spec("pylibjxl")
    else NEEDS_EXTRA.format("JPEG XL")
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file (0 bytes); copy or download it again"),
        (
            b"dear diary, today I took a picture",
            "not an image (no known image format); see 'dinac man images'",
        ),
        (b"%PDF-1.7 ...", "not an image (no known image format); see 'dinac man images'"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n",
            "not an image (no known image format); see 'dinac man images'",
        ),
        (
            b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic",
            HEIC_LINE,
        ),
        (
            b"\x00\x00\x00\x0cJXL \r\n\x87\n",
            JXL_LINE,
        ),
        (
            b"II*\x00\x10\x00\x00\x00CR\x02\x00",
            "Canon raw is not supported; convert the image to PNG or JPEG",
        ),
        (FILES["png"][:60], "truncated PNG file; copy or download it again"),
        (FILES["jpeg"][:-40], "truncated JPEG file; copy or download it again"),
        (FILES["webp"][:-40], "truncated WebP file; copy or download it again"),
        (FILES["gif"][:-40], "truncated GIF file; copy or download it again"),
        (FILES["bmp"][:-40], "truncated BMP file; copy or download it again"),
        (b"GIF89a", "truncated GIF file; copy or download it again"),
        (
            FILES["png"].replace(b"IDAT", b"IDOT"),
            "damaged PNG file; copy or download it again",
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


def raise_on_open(error: Exception, monkeypatch: pytest.MonkeyPatch) -> ImageError:
    """Returns the error of `read_image` if Pillow raises `error`."""

    def fail(self: object) -> NoReturn:
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "_open", fail)
    with pytest.raises(ImageError) as caught:
        read_image(FILES["png"])
    return caught.value


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (OSError("two\nlines \x1b[31m"), "damaged PNG file; copy or download it again"),
        (
            AttributeError("'NoneType' object has no attribute 'x'"),
            "damaged PNG file; copy or download it again",
        ),
        (RecursionError("maximum recursion depth"), "damaged PNG file; copy or download it again"),
        (AssertionError(), "damaged PNG file; copy or download it again"),
        (EOFError(), "truncated PNG file; copy or download it again"),
        (
            OSError("Expected to read 8 bytes but only got 0."),
            "truncated PNG file; copy or download it again",
        ),
        (
            KeyError(34712),
            "this kind of PNG file is not supported; convert the image to PNG or JPEG",
        ),
        (
            SyntaxError("cannot handle 12-bit layers"),
            "this kind of PNG file is not supported; convert the image to PNG or JPEG",
        ),
        (
            OSError("decoder error -2"),
            "damaged PNG file, or its compression is not supported; "
            "copy it again, or convert it to PNG",
        ),
        (
            OSError("out of memory when reading image file"),
            "not enough memory to decode this PNG file; use fewer --workers",
        ),
        (
            Image.DecompressionBombError("bomb"),
            "this PNG file holds a frame of too many pixels; scale it down, or save it as PNG",
        ),
    ],
    ids=repr,
)
def test_every_exception_is_explained_in_plain_words(
    raised: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = raise_on_open(raised, monkeypatch)
    assert str(error) == message
    assert all(detail.isprintable() for detail in error.details)
    assert error.details[-1].startswith(type(raised).__name__)


def test_details_quote_pillow_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    error = raise_on_open(OSError("two\nlines \x1b[31m"), monkeypatch)
    assert error.details == ("OSError: two lines ?[31m",)
    longest = raise_on_open(OSError("x" * 1000), monkeypatch).details[0]
    assert len(longest) == 200


def test_error_keeps_its_details_between_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    error = raise_on_open(OSError("broken"), monkeypatch)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.details) == (str(error), error.details)


def test_lack_of_memory_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(ImageError, match=r"^not enough memory to decode this PNG file; use fewer"):
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
