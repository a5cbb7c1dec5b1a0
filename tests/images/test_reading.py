"""All kinds of image files are read as the same upright 8-bit sRGB pixels."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image
from PIL.Image import Transpose

from dinac_cli.errors import ImageError
from dinac_cli.images.reading import read_image

from .hand_made import chunk, make_exif, make_pixels, make_png, save

PLAIN = "orientation=none;color=srgb;alpha=none;frame=1/1"
ON_WHITE = "orientation=none;color=srgb;alpha=composited-#ffffff;frame=1/1"

# The transposition from an upright image to each EXIF orientation.
TURNS = {
    1: None,
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("QOI", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"big_tiff": True}),
        ("WEBP", {"lossless": True}),
        ("JPEG2000", {}),
        ("JPEG2000", {"no_jp2": True}),
    ],
)
def test_lossless_formats_are_read_exactly(name: str, options: dict[str, object]) -> None:
    pixels = make_pixels()
    source = read_image(save(Image.fromarray(pixels), name, **options))
    np.testing.assert_array_equal(source.pixels, pixels)
    assert source.pixels.flags.c_contiguous
    assert source.pixels.flags.writeable
    assert (source.description, source.warnings) == (PLAIN, ())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("JPEG", {"quality": 98, "subsampling": "4:4:4"}),
        ("JPEG", {"quality": 98, "subsampling": "4:4:4", "progressive": True}),
        ("WEBP", {"quality": 100}),
        ("AVIF", {"quality": 98, "subsampling": "4:4:4"}),
    ],
)
def test_lossy_formats_are_read_closely(name: str, options: dict[str, object]) -> None:
    pixels = make_pixels() // 4 * 2 + 60  # few and mild colours, for small coding errors
    pixels[..., 2] = 90
    source = read_image(save(Image.fromarray(pixels), name, **options))
    assert np.abs(source.pixels.astype(int) - pixels).max() <= 6
    assert source.description == PLAIN


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("name", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF"])
def test_orientation_is_applied(orientation: int, name: str) -> None:
    upright = Image.fromarray(make_pixels())
    turn = TURNS[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    lossless = {"lossless": True} if name == "WEBP" else {}
    data = save(stored, name, exif=make_exif(orientation), **lossless)
    source = read_image(data)
    reference = read_image(save(upright, name, **lossless)).pixels
    assert source.pixels.shape == reference.shape
    assert np.abs(source.pixels.astype(int) - reference).mean() < 3  # JPEG blocks differ
    assert source.description.startswith(
        "orientation=none" if orientation == 1 else "orientation=applied"
    )


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\x00\x00garbage",
        b"Exif\x00\x00II*\x00\xff\xff\xff\x7f",
        b"Exif\x00\x00",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x05\x00\x00\x00\x01\xff\xff\xff\xff",
        make_exif(6)[:20],
        make_exif(9),
    ],
)
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_malformed_exif_is_ignored(exif: bytes, name: str) -> None:
    plain = save(Image.fromarray(make_pixels()), name)
    source = read_image(save(Image.fromarray(make_pixels()), name, exif=exif))
    np.testing.assert_array_equal(source.pixels, read_image(plain).pixels)
    assert source.description == PLAIN


def test_exif_after_the_pixels_is_applied() -> None:
    image = Image.fromarray(make_pixels().transpose(1, 0, 2))
    data = save(image, "PNG")
    data = data[:-12] + chunk(b"eXIf", make_exif(5)[6:]) + data[-12:]
    np.testing.assert_array_equal(read_image(data).pixels, make_pixels())


def test_bilevel_is_read() -> None:
    source = read_image(make_png((9, 2), 1, 0, [b"\xaa\x80", b"\x55\x00"]))
    np.testing.assert_array_equal(source.pixels[..., 0], [[255, 0] * 4 + [255], [0, 255] * 4 + [0]])
    assert source.description == PLAIN


def test_16_bit_gray_is_scaled() -> None:
    values = [0, 128, 129, 255, 256, 257, 32767, 32768, 65406, 65407, 65535]
    source = read_image(make_png((len(values), 1), 16, 0, [struct.pack(">11H", *values)]))
    expected = [round(v / 257) for v in values]
    assert (
        source.pixels[0, :, 0].tolist() == expected == [0, 0, 1, 1, 1, 1, 127, 128, 254, 255, 255]
    )
    assert (source.pixels == source.pixels[..., :1]).all()


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_gray_tiff_is_scaled(order: str) -> None:
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    raw = values.astype(f"{order}u2").tobytes()
    tags = [(256, 4), (257, 1), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (279, 8)]
    source = read_image(_make_tiff(order, raw, tags))
    assert source.pixels[0, :, 0].tolist() == [0, 1, 128, 255]


def _make_tiff(order: str, raw: bytes, tags: list[tuple[int, int]]) -> bytes:
    """A TIFF of one strip at offset 8, followed by its directory of SHORT tags."""
    head = {"<": b"II*\x00", ">": b"MM\x00*"}[order] + struct.pack(f"{order}I", 8 + len(raw))
    entries = b"".join(struct.pack(f"{order}HHIHxx", tag, 3, 1, value) for tag, value in tags)
    return head + raw + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def test_12_bit_gray_tiff_is_scaled() -> None:
    raw = bytes([0x00, 0x07, 0xFF, 0x80, 0x0F, 0xFF])  # 0, 2047, 2048, 4095
    tags = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (279, 6)]
    assert read_image(_make_tiff("<", raw, tags)).pixels[0, :, 0].tolist() == [0, 127, 128, 255]


def test_16_bit_white_is_zero_tiff_is_inverted() -> None:
    raw = struct.pack("<4H", 0, 257, 32768, 65535)
    tags = [(256, 4), (257, 1), (258, 16), (259, 1), (262, 0), (273, 8), (277, 1), (279, 8)]
    assert read_image(_make_tiff("<", raw, tags)).pixels[0, :, 0].tolist() == [255, 254, 127, 0]


def test_camera_raw_thumbnail_is_refused() -> None:
    tags = [
        (254, 1),
        (256, 4),
        (257, 1),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (279, 4),
    ]
    with pytest.raises(ImageError, match=r"^only a thumbnail is readable, as in camera raw files"):
        read_image(_make_tiff("<", b"\x00\x40\x80\xff", tags))


def test_16_bit_pgm_is_read() -> None:
    data = b"P5 3 1 65535\n" + struct.pack(">3H", 0, 32768, 65535)
    assert read_image(data).pixels[0, :, 0].tolist() == [0, 128, 255]


def test_10_bit_pgm_is_read() -> None:
    data = b"P5 3 1 1023\n" + struct.pack(">3H", 0, 512, 1023)
    assert read_image(data).pixels[0, :, 0].tolist() == [0, 128, 255]


def test_16_bit_rgb_keeps_the_high_byte() -> None:
    row = struct.pack(">6H", 0x00FF, 0x7FFF, 0xFFFF, 0x0100, 0x8000, 0xFF00)
    source = read_image(make_png((2, 1), 16, 2, [row]))
    assert source.pixels.tolist() == [[[0, 127, 255], [1, 128, 255]]]


def test_float_gray_in_unit_range_is_read() -> None:
    image = Image.fromarray(np.array([[0.0, 0.25, 0.5, 1.0]], dtype=np.float32))
    assert read_image(save(image, "TIFF")).pixels[0, :, 0].tolist() == [0, 64, 128, 255]


@pytest.mark.parametrize("value", [-0.5, 1.5, float("nan"), float("inf")])
def test_float_gray_outside_unit_range_is_refused(value: float) -> None:
    image = Image.fromarray(np.array([[0.0, value]], dtype=np.float32))
    with pytest.raises(ImageError, match=r"^gray values outside 0\.\.1 have no defined brightness"):
        read_image(save(image, "TIFF"))


@pytest.mark.parametrize("value", [-1, 65536])
def test_integer_gray_outside_16_bits_is_refused(value: int) -> None:
    image = Image.fromarray(np.array([[0, value]], dtype=np.int32))
    with pytest.raises(ImageError, match=r"^gray values outside 0\.\.65535"):
        read_image(save(image, "TIFF"))


def test_ycck_is_read_like_cmyk() -> None:
    inks = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    source = read_image(save(inks, "JPEG", quality=100))
    assert np.abs(source.pixels.astype(int) - [0, 255, 255]).max() <= 2


def test_cmyk_without_profile_is_read_exactly() -> None:
    inks = Image.new("CMYK", (2, 1), (255, 0, 0, 0))
    inks.putpixel((1, 0), (0, 0, 0, 255))
    assert read_image(save(inks, "TIFF")).pixels.tolist() == [[[0, 255, 255], [0, 0, 0]]]


def test_palette_transparency_is_composited() -> None:
    palette = chunk(b"PLTE", bytes([255, 0, 0, 0, 255, 0, 0, 0, 255]))
    alphas = chunk(b"tRNS", bytes([0, 128]))
    data = make_png((3, 1), 8, 3, [b"\x00\x01\x02"], palette, alphas)
    source = read_image(data)
    assert source.pixels.tolist() == [[[255, 255, 255], [127, 255, 127], [0, 0, 255]]]
    assert source.description == ON_WHITE


def test_palette_is_turned_with_its_transparency() -> None:
    palette = Image.fromarray(make_pixels()).quantize(8)
    alphas = bytes([0, 128, 255])
    upright = read_image(save(palette, "PNG", transparency=alphas))
    turned = palette.transpose(Transpose.ROTATE_90)
    source = read_image(save(turned, "PNG", transparency=alphas, exif=make_exif(6)))
    np.testing.assert_array_equal(source.pixels, upright.pixels)
    assert source.description == ON_WHITE.replace("orientation=none", "orientation=applied")


def test_lab_is_read() -> None:
    image = Image.new("RGB", (4, 4), (200, 100, 50)).convert("LAB")
    source = read_image(save(image, "TIFF"))
    assert np.abs(source.pixels.astype(int) - [200, 100, 50]).max() <= 1


def test_gray_alpha_is_composited_over_background() -> None:
    data = make_png((3, 1), 8, 4, [bytes([100, 0, 100, 51, 100, 255])])
    source = read_image(data, background=(255, 0, 10))
    assert source.pixels.tolist() == [[[255, 0, 10], [224, 20, 28], [100, 100, 100]]]
    assert source.description == PLAIN.replace("alpha=none", "alpha=composited-#ff000a")


def test_transparent_gray_value_is_composited() -> None:
    data = make_png((2, 1), 8, 0, [bytes([7, 8])], chunk(b"tRNS", struct.pack(">H", 7)))
    assert read_image(data).pixels[0, :, 0].tolist() == [255, 8]


def test_transparent_16_bit_gray_value_is_composited() -> None:
    row = struct.pack(">3H", 0x1234, 0x1235, 0x0034)
    data = make_png((3, 1), 16, 0, [row], chunk(b"tRNS", struct.pack(">H", 0x1234)))
    assert read_image(data).pixels[0, :, 0].tolist() == [255, 0x12, 0]


def test_transparent_colour_is_composited() -> None:
    trns = chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))
    data = make_png((2, 1), 8, 2, [bytes([1, 2, 3, 1, 2, 4])], trns)
    assert read_image(data).pixels.tolist() == [[[255, 255, 255], [1, 2, 4]]]


def test_transparent_16_bit_colour_is_composited() -> None:
    row = struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x3412, 0x7856, 0xBC9A)
    trns = chunk(b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC))
    source = read_image(make_png((2, 1), 16, 2, [row], trns))
    assert source.pixels.tolist() == [[[255, 255, 255], [0x34, 0x78, 0xBC]]]


def test_opaque_alpha_is_ignored() -> None:
    pixels = make_pixels()
    opaque = Image.fromarray(pixels).convert("RGBA")
    source = read_image(save(opaque, "PNG"))
    np.testing.assert_array_equal(source.pixels, pixels)
    assert source.description == PLAIN


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        *((name, "animated: only frame 1 of 3 encoded") for name in ("GIF", "WEBP", "PNG", "AVIF")),
        ("TIFF", "multi-page: only page 1 of 3 encoded"),
    ],
)
def test_first_frame_is_used(name: str, warning: str) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ("white", "red", "black")]
    source = read_image(save(frames[0], name, save_all=True, append_images=frames[1:]))
    assert source.pixels.min() >= 254
    assert source.warnings == (warning,)
    assert source.description.endswith(";frame=1/3")


def test_first_image_of_phone_jpeg_is_used_without_warning() -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ("white", "black")]
    source = read_image(save(frames[0], "MPO", save_all=True, append_images=frames[1:]))
    assert source.pixels.min() >= 254
    assert (source.warnings, source.description[-9:]) == ((), "frame=1/2")
