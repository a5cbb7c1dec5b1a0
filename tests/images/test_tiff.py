"""TIFF files of every byte-aligned layout give the right pixels, or say why they do not."""

from __future__ import annotations

import itertools
import struct
import zlib
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dinac_cli.errors import ImageError
from dinac_cli.images import libtiff
from dinac_cli.images.reading import measure_image, read_image

from .hand_made import Pixels, make_pixels

HEIGHT, WIDTH = 21, 37
RGB, GRAY, WHITE_IS_ZERO, CMYK, YCBCR, LAB = 2, 1, 0, 5, 6, 8
PLAIN = "orientation=none;color=srgb;alpha=none;frame=1/1"

Order = Literal["<", ">"]
_TYPES = {"u": 1, "i": 2, "f": 3}


def make_tiff(
    samples: NDArray[Any],
    photometric: int = RGB,
    *,
    order: Order = "<",
    is_planar: bool = False,
    tile: tuple[int, int] | None = None,
    is_deflated: bool = False,
    is_big: bool = False,
    extras: tuple[int, ...] = (),
    tags: dict[int, tuple[int, ...]] | None = None,
) -> bytes:
    """A TIFF of samples [H, W, C]. `tile` is (height, width); otherwise strips have 8 rows."""
    height, width, depth = samples.shape
    stored = samples.astype(samples.dtype.newbyteorder(order))
    planes = [stored[..., [i]] for i in range(depth)] if is_planar else [stored]
    chunks = [chunk for plane in planes for chunk in cut(plane, tile)]
    packed = [zlib.compress(chunk) if is_deflated else chunk for chunk in chunks]
    starts = tuple(int(v) for v in np.cumsum([16, *map(len, packed)])[:-1])
    entries = {
        256: (width,),
        257: (height,),
        258: (8 * samples.dtype.itemsize,) * depth,
        259: (8 if is_deflated else 1,),
        262: (photometric,),
        277: (depth,),
        284: (2 if is_planar else 1,),
        339: (_TYPES[samples.dtype.kind],) * depth,
        **({338: extras} if extras else {}),
        **({322: (tile[1],), 323: (tile[0],)} if tile else {278: (8,)}),
        (324 if tile else 273): starts,
        (325 if tile else 279): tuple(map(len, packed)),
        **(tags or {}),
    }
    return finish_tiff(b"".join(packed), entries, order, is_big=is_big)


def cut(plane: NDArray[Any], tile: tuple[int, int] | None) -> list[bytes]:
    """The bytes of the strips or tiles of [H, W, C]."""
    if tile is None:
        return [plane[top : top + 8].tobytes() for top in range(0, len(plane), 8)]
    down, right = -plane.shape[0] % tile[0], -plane.shape[1] % tile[1]
    padded = np.pad(plane, ((0, down), (0, right), (0, 0)))
    corners = itertools.product(
        range(0, padded.shape[0], tile[0]), range(0, padded.shape[1], tile[1])
    )
    return [padded[y : y + tile[0], x : x + tile[1]].tobytes() for y, x in corners]


def finish_tiff(
    content: bytes, entries: dict[int, tuple[int, ...]], order: str, *, is_big: bool = False
) -> bytes:
    """A TIFF with `content` at byte 16, and one directory of 32-bit, or 64-bit, integers."""
    code, kind, inline = ("Q", 16, 8) if is_big else ("I", 4, 4)
    content += bytes(len(content) % 2)
    place = 16 + len(content)
    values, rows = b"", b""
    for tag, numbers in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        if len(packed) > inline:
            values, packed = (
                values + packed,
                struct.pack(f"{order}{code}", place + len(values)),
            )
        rows += struct.pack(f"{order}HH{code}", tag, kind, len(numbers)) + packed
    start = place + len(values)
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(f"{order}HI", 42, start)
    if is_big:
        head = struct.pack(f"{order}HHHQ", 43, 8, 0, start)
    count = struct.pack(f"{order}{'Q' if is_big else 'H'}", len(entries))
    return (mark + head).ljust(16, b"\x00") + content + values + count + rows + bytes(inline)


def as_text(data: bytes, tag: int, text: bytes) -> bytes:
    """Replaces the value of a tag with a text of four bytes."""
    start = data.index(struct.pack("<H", tag), struct.unpack("<I", data[4:8])[0])
    entry = struct.pack("<HHI", tag, 2, 4) + text
    return data[:start] + entry + data[start + len(entry) :]


def make_wide() -> NDArray[np.uint16]:
    """16-bit samples [H, W, 3] whose low bytes are noise: they must not count."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint16)
    wide: NDArray[np.uint16] = make_pixels(HEIGHT, WIDTH).astype(np.uint16) * 256 + noise
    return wide


def read(data: bytes) -> Pixels:
    source = read_image(data)
    assert source.pixels.shape[1::-1] == measure_image(data)
    return source.pixels


def over_white(colors: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    weight = alpha / 255
    return colors * weight + 255 * (1 - weight)


layouts = pytest.mark.parametrize(
    "layout",
    [
        dict(zip(("order", "is_planar", "tile", "is_deflated", "is_big"), values, strict=True))
        for values in itertools.product(
            "<>", (False, True), (None, (16, 32)), (False, True), (False, True)
        )
    ],
    ids=str,
)


@layouts
@pytest.mark.parametrize("width", [8, 16])
def test_rgb_is_exact_in_every_layout(width: int, layout: dict[str, Any]) -> None:
    pixels = make_pixels(HEIGHT, WIDTH)
    samples = pixels if width == 8 else make_wide()
    source = read_image(make_tiff(samples, **layout))
    np.testing.assert_array_equal(source.pixels, pixels)
    assert (source.description.removesuffix(";reader=1"), source.warnings) == (PLAIN, ())


@layouts
def test_alpha_is_composited_in_every_layout(layout: dict[str, Any]) -> None:
    wide = make_wide()
    alpha = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH, 1)
    expected = over_white(wide >> 8, alpha >> 8)
    straight = np.concatenate([wide, alpha], -1)
    assert np.abs(read(make_tiff(straight, extras=(2,), **layout)) - expected).max() <= 1
    multiplied = (wide / 65535 * alpha).round().astype(np.uint16)
    associated = np.concatenate([multiplied, alpha], -1)
    # Pillow divides 8-bit values by alpha, which is coarse in transparent pixels.
    assert np.abs(read(make_tiff(associated, extras=(1,), **layout)) - expected).max() <= 2.5
    ignored = read(make_tiff(straight, extras=(0,), **layout))
    np.testing.assert_array_equal(ignored, wide >> 8)


@layouts
def test_gray_with_alpha_is_composited_in_every_layout(layout: dict[str, Any]) -> None:
    samples = make_wide()[..., :2]
    expected = over_white(samples[..., :1] / 257, samples[..., 1:] >> 8)
    found = read(make_tiff(samples, GRAY, extras=(2,), **layout))
    assert np.abs(found - expected).max() < 2


@layouts
def test_cmyk_is_exact_in_every_layout(layout: dict[str, Any]) -> None:
    inks = np.concatenate([make_wide(), make_wide()[::-1, :, :1] // 2], -1)
    expected = Image.frombytes("CMYK", (WIDTH, HEIGHT), (inks >> 8).astype(np.uint8).tobytes())
    found = read(make_tiff(inks, CMYK, **layout))
    np.testing.assert_array_equal(found, np.asarray(expected.convert("RGB")))


@layouts
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_floats_from_0_to_1_are_scaled(dtype: str, layout: dict[str, Any]) -> None:
    pixels = make_pixels(HEIGHT, WIDTH)
    samples = (pixels / 255).astype(dtype)
    np.testing.assert_array_equal(read(make_tiff(samples, **layout)), pixels)
    gray = read(make_tiff(samples[..., :1], WHITE_IS_ZERO, **layout))
    np.testing.assert_array_equal(gray, np.repeat(255 - pixels[..., :1], 3, -1))


@pytest.mark.parametrize("bad", [1.5, -0.1, np.nan, np.inf])
@pytest.mark.parametrize(("photometric", "kind"), [(RGB, "float"), (GRAY, "gray")])
def test_other_floats_are_refused(bad: float, photometric: int, kind: str) -> None:
    samples = np.full((2, 2, 3 if photometric == RGB else 1), 0.5, np.float32)
    samples[1, 0, 0] = bad
    with pytest.raises(ImageError, match=rf"^{kind} values outside 0..1 have no defined brightn"):
        read_image(make_tiff(samples, photometric))


def test_odd_floats_with_premultiplied_alpha_are_refused() -> None:
    samples = np.zeros((2, 2, 4))
    samples[0, 0] = (1e300, 0, 0, 1e-300)  # clipped, as the colour exceeds its alpha
    samples[1, 1, 3] = np.nan
    with pytest.raises(ImageError, match=r"^float values outside 0\.\.1"):
        read_image(make_tiff(samples, extras=(1,)))


@pytest.mark.parametrize("tile", [None, (16, 32)])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("is_planar", [False, True])
def test_integer_predictor_is_undone(
    tile: tuple[int, int] | None, order: Order, is_planar: bool
) -> None:
    samples = np.concatenate([make_wide(), make_wide()[..., :1]], -1)
    steps = samples.copy()
    for left in range(0, WIDTH, tile[1] if tile else WIDTH):
        right = left + (tile[1] if tile else WIDTH)
        steps[:, left + 1 : right] -= samples[:, left : right - 1][:, : WIDTH - left - 1]
    data = make_tiff(
        steps, tile=tile, order=order, is_planar=is_planar, is_deflated=True,
        extras=(0,), tags={317: (2,)},
    )  # fmt: skip
    np.testing.assert_array_equal(read(data), samples[..., :3] >> 8)


@pytest.mark.parametrize("is_planar", [False, True])
def test_reversed_bits_are_undone(is_planar: bool) -> None:
    swap = np.array([int(f"{byte:08b}"[::-1], 2) for byte in range(256)], np.uint8)
    samples = np.concatenate([make_wide(), make_wide()[..., :1]], -1)
    stored = swap[np.ascontiguousarray(samples).view(np.uint8)].view(np.uint16)
    data = make_tiff(stored, is_planar=is_planar, extras=(0,), tags={266: (2,)})
    np.testing.assert_array_equal(read(data), samples[..., :3] >> 8)


def test_raw_pixels_have_no_predictor() -> None:
    data = make_tiff(make_wide(), is_planar=True, tags={317: (2,)})
    np.testing.assert_array_equal(read(data), make_wide() >> 8)


@pytest.mark.parametrize("is_big", [False, True])
def test_huge_tiles_of_a_small_image_are_refused(is_big: bool) -> None:
    huge: dict[int, tuple[int, ...]] = {322: (1 << 20,), 323: (1 << 20,)}
    data = make_tiff(
        make_wide(), order=">", is_planar=True, is_deflated=True, is_big=is_big,
        tile=(16, 32), tags=huge,
    )  # fmt: skip
    with pytest.raises(ImageError, match=r"^damaged TIFF file; copy"):
        read_image(data)


@pytest.mark.parametrize("dtype", ["f2", "f4"])
@pytest.mark.parametrize("is_planar", [False, True])
def test_float_predictor_is_undone(dtype: str, is_planar: bool) -> None:
    pixels = make_pixels(8, 40)  # one strip
    samples = (pixels / 255).astype(f">{dtype}")
    planes = [samples[..., [i]] for i in range(3)] if is_planar else [samples]
    packed = [zlib.compress(predict_floats(plane)) for plane in planes]
    whole = make_tiff(samples.astype(f"={dtype}"), is_planar=is_planar)
    starts = tuple(int(v) for v in np.cumsum([16, *map(len, packed)])[:-1])
    entries = {
        256: (40,),
        257: (8,),
        258: (8 * samples.itemsize,) * 3,
        259: (8,),
        262: (RGB,),
        273: starts,
        277: (3,),
        278: (8,),
        279: tuple(map(len, packed)),
        284: (2 if is_planar else 1,),
        317: (3,),
        339: (3, 3, 3),
    }
    data = finish_tiff(b"".join(packed), entries, "<")
    np.testing.assert_array_equal(read(data), pixels)
    np.testing.assert_array_equal(read(whole), pixels)


def predict_floats(plane: NDArray[Any]) -> bytes:
    """Orders the bytes of each row by significance, and stores their differences."""
    height, width, depth = plane.shape
    ordered = plane.reshape(height, width * depth).view(np.uint8)
    ordered = ordered.reshape(height, width * depth, -1).swapaxes(1, 2).reshape(height, -1)
    steps = ordered.copy()
    steps[:, depth:] -= ordered[:, :-depth]
    return steps.tobytes()


@pytest.mark.parametrize("is_planar", [False, True])
def test_orientation_is_applied_to_samples(is_planar: bool) -> None:
    wide = make_wide()
    stored = np.rot90(wide)  # orientation 6: turned by 90 degrees clockwise for display
    source = read_image(make_tiff(stored, is_planar=is_planar, tags={274: (6,)}))
    np.testing.assert_array_equal(source.pixels, wide >> 8)
    assert source.description.startswith("orientation=applied;")


def test_second_page_of_another_kind_does_not_matter() -> None:
    first = bytearray(make_tiff(make_wide(), is_planar=True))
    (start,) = struct.unpack_from("<I", first, 4)
    (count,) = struct.unpack_from("<H", first, start)
    struct.pack_into("<I", first, start + 2 + 12 * count, len(first))
    first += struct.pack("<H", 2)
    for tag in (256, 257):  # a page without pixels
        first += struct.pack("<HHII", tag, 4, 1, 1)
    source = read_image(bytes(first) + bytes(4))
    np.testing.assert_array_equal(source.pixels, make_wide() >> 8)
    assert source.warnings == ("multi-page: only page 1 of 2 encoded",)


@pytest.mark.parametrize(("across", "down"), [(1, 1), (2, 1), (2, 2), (4, 2)])
@pytest.mark.parametrize("order", "<>")
def test_raw_ycbcr_is_read_with_its_subsampling(across: int, down: int, order: str) -> None:
    height, width = 16, 32
    luma = make_pixels(height, width)[..., 0]
    blue = np.arange(height // down * (width // across)).reshape(height // down, -1) % 60 + 100
    red = 200 - blue
    blocks = luma.reshape(height // down, down, width // across, across).swapaxes(1, 2)
    units = blocks.reshape(*blue.shape, -1)
    content = np.concatenate([units, blue[..., None], red[..., None]], -1).astype(np.uint8)
    entries = {
        256: (width,),
        257: (height,),
        258: (8, 8, 8),
        259: (1,),
        262: (YCBCR,),
        273: (16,),
        277: (3,),
        278: (height,),
        279: (content.size,),
        284: (1,),
        530: (across, down),
    }
    wide = [np.kron(plane, np.ones((down, across), int)) for plane in (blue, red)]
    whole = np.stack([luma, *wide], -1).astype(np.uint8)
    expected = Image.frombytes("YCbCr", (width, height), whole.tobytes()).convert("RGB")
    found = read(finish_tiff(content.tobytes(), entries, order))
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            make_tiff(np.zeros((2, 2, 3), np.int16)),
            "TIFF with 3 16-bit signed samples per pixel (RGB) is not supported; "
            "convert the image to PNG or to an 8-bit TIFF",
        ),
        *(
            (
                make_tiff(np.zeros((2, 2, 1), kind), GRAY),
                f"TIFF with 1 {bits}-bit signed samples per pixel (gray) is not supported; "
                "convert the image to PNG or to an 8-bit TIFF",
            )
            for kind, bits in ((np.int8, 8), (np.int16, 16))
        ),
        (
            make_tiff(np.zeros((2, 2, 3), np.uint16), LAB, is_planar=True),
            "TIFF with 3 16-bit samples per pixel (CIELab) is not supported; "
            "convert the image to PNG or to an 8-bit TIFF",
        ),
        (
            make_tiff(np.zeros((2, 2, 3), np.uint8), tags={259: (50001,)}),
            "TIFF compression 50001 (webp) is not supported; convert the image to PNG",
        ),
        (
            make_tiff(np.zeros((2, 2, 3), np.uint8), tags={259: (12345,)}),
            "TIFF compression 12345 is not supported; convert the image to PNG",
        ),
        (
            as_text(make_tiff(np.zeros((2, 2, 3), np.uint8), tags={259: (12345,)}), 259, b"I\n*\0"),
            "TIFF compression 'I\\n*' is not supported; convert the image to PNG",
        ),
        (
            make_tiff(make_wide(), is_planar=True, tags={273: (16, 99999, 16, 16, 16, 16) * 2}),
            "truncated TIFF file; copy or download it again",
        ),
        (
            make_tiff(make_wide(), is_planar=True, tags={273: (16,)}),
            "damaged TIFF file; copy or download it again",
        ),
    ],
)
def test_refusal_gives_the_reason(
    data: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = libtiff.has_codec
    monkeypatch.setattr("dinac_cli.images.tiff.has_codec", lambda code: code != 50001 and ask(code))
    with pytest.raises(ImageError) as caught:
        read_image(data)
    assert str(caught.value) == message


def test_truncated_compressed_file_is_called_truncated() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = make_tiff(noise, is_deflated=True, tags={279: (1 << 20,) * 8})
    with pytest.raises(ImageError, match=r"^truncated TIFF file; copy"):
        read_image(data)


def test_bigtiff_of_damaged_directories_is_refused() -> None:
    data = make_tiff(make_wide(), order=">", is_big=True)
    for length in range(8, len(data), 97):
        with pytest.raises(ImageError):
            read_image(data[:length])
    endless = bytearray(data)
    (start,) = struct.unpack_from(">Q", data, 8)
    struct.pack_into(">Q", endless, start, 1 << 60)
    with pytest.raises(ImageError, match=r"^truncated TIFF file"):
        read_image(bytes(endless))


@pytest.mark.skipif(not libtiff.silence_libtiff(), reason="libtiff is hidden")
def test_libtiff_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(make_tiff(make_pixels(64, 64), is_deflated=True))
    data[30:60] = bytes(30)
    for bad in (bytes(data), make_tiff(make_wide(), is_planar=True, tags={259: (5,)})):
        with pytest.raises(ImageError):
            read_image(bad)
    assert capfd.readouterr() == ("", "")


def test_hidden_libtiff_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libtiff, "_find_function", lambda name: None)
    assert libtiff.silence_libtiff.__wrapped__() is False
    assert libtiff.has_codec(1) is None
