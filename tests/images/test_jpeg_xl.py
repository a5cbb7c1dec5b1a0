"""JPEG XL: the header is read by dinac, the pixels by pylibjxl (the extra `formats`)."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from dinac_cli.errors import ImageError
from dinac_cli.images.color_space import ColorSpace, find_coded_space, make_space
from dinac_cli.images.jxl_header import JxlHeader, read_header
from dinac_cli.images.reading import measure_image, read_image

from .hand_made import make_adobe_profile, make_pixels
from .test_declared import (
    ADOBE_CHRM,
    SWATCHES,
    assert_close,
    chrm,
    cicp,
    color_of,
    encode_srgb,
    gama,
    icc,
    png,
)

# 40 x 24 pixels of (200, 60, 40), lossless; the first one is white. Its header takes 4 bytes after
# the size.
PLAIN = bytes.fromhex(
    "ff0a050888040804010084004b188b1500d4176350c6bb40040083c45100848490178984901ee1509e8064b605"
)
HEADER_BYTES = 6
SIZE_BITS = 14


class BitWriter:
    def __init__(self) -> None:
        self.bits: list[int] = []

    def write(self, *fields: tuple[int, int]) -> None:
        """Writes (count, value) pairs, least significant bit first."""
        for count, value in fields:
            self.bits += [(value >> i) & 1 for i in range(count)]

    def write_enum(self, value: int) -> None:
        if value < 2:
            self.write((2, value))
        else:
            self.write((2, 2), (4, value - 2)) if value < 18 else self.write(
                (2, 3), (6, value - 18)
            )

    def to_bytes(self) -> bytes:
        padded = self.bits + [0] * (-len(self.bits) % 8)
        return sum(bit << i for i, bit in enumerate(padded)).to_bytes(len(padded) // 8, "little")

    def write_coordinate(self, value: int) -> None:
        """Writes millionths, not negative."""
        for selector, (bits, offset) in enumerate(((19, 0), (19, 1 << 19), (20, 1 << 20))):
            if 2 * value < offset + (1 << bits):
                self.write((2, selector), (bits, 2 * value - offset))
                return


def rewrite(
    white: int = 1,
    primaries: int = 1,
    transfer: int = 13,
    orientation: int = 1,
    gamma: int = 0,
    *,
    points: Sequence[int] = (),
    kind: int = 0,
    has_profile: bool = False,
    is_xyb: bool = False,
) -> bytes:
    """PLAIN with other colours, as JPEG XL numbers them, and another orientation.

    `points` are x and y in hundred-thousandths of the white point and the primaries that are 2.
    """
    out = BitWriter()
    out.write((SIZE_BITS, int.from_bytes(PLAIN[2:], "little")), (1, 0))
    is_turned = orientation > 1
    out.write((1, is_turned), *([(3, orientation - 1), (3, 0)] if is_turned else []))
    out.write((1, 0), (2, 0), (1, 1), (2, 0), (1, is_xyb))  # 8 bits, no extra channel
    out.write((1, 0), (1, has_profile))
    out.write_enum(kind)
    if not has_profile:
        coordinates = list(points)
        for value, count in ((white, 2), (primaries, 6)) if kind == 0 else ((white, 2),):
            out.write_enum(value)
            if value == 2:
                for _ in range(count):
                    out.write_coordinate(10 * coordinates.pop(0))
        out.write((1, gamma > 0))
        if gamma:
            out.write((24, gamma))
        else:
            out.write_enum(transfer)
        out.write_enum(1)
    out.write(*([(1, 1)] if is_turned else []), (2, 0), (1, 1))
    return PLAIN[:2] + out.to_bytes() + PLAIN[HEADER_BYTES:]


def wrap(codestream: bytes, split: int = 0) -> bytes:
    """A container with a box before the codestream, which is split in two if `split` is given."""
    parts = [(b"jxlc", codestream)]
    if split:
        parts = [
            (b"jxlp", bytes(4) + codestream[:split]),
            (b"jxlp", b"\x80\x00\x00\x01" + codestream[split:]),
        ]
    start = b"\x00\x00\x00\x0cJXL \r\n\x87\n" + b"\x00\x00\x00\x14ftypjxl \x00\x00\x00\x00jxl "
    boxes = [(b"free", b"x" * 100), *parts]
    return start + b"".join(struct.pack(">I", 8 + len(b)) + kind + b for kind, b in boxes)


def read(data: bytes) -> JxlHeader:
    return read_header(io.BytesIO(data))


class TestHeader:
    @pytest.mark.parametrize("data", [PLAIN, wrap(PLAIN), wrap(PLAIN, 30)])
    def test_size_and_channels(self, data: bytes) -> None:
        header = read(data)
        assert (header.width, header.height) == (40, 24)
        assert header.space == find_coded_space(1, 13)
        flags = (header.is_gray, header.has_alpha, header.has_profile, header.is_animated)
        assert not any(flags)

    @pytest.mark.parametrize("orientation", range(2, 9))
    def test_the_size_is_that_of_the_upright_image(self, orientation: int) -> None:
        header = read(rewrite(orientation=orientation))
        size = (24, 40) if orientation > 4 else (40, 24)
        assert (header.width, header.height) == size

    @pytest.mark.parametrize(
        ("colors", "space"),
        [
            ((1, 1, 13), find_coded_space(1, 13)),
            ((1, 11, 13), find_coded_space(12, 13)),
            ((1, 9, 16), find_coded_space(9, 16)),
            ((1, 9, 18), find_coded_space(9, 18)),
            ((1, 1, 8), find_coded_space(1, 8)),
            ((1, 1, 1), replace(find_coded_space(1, 13), transfer="bt709")),
            ((11, 11, 17), replace(find_coded_space(11, 13), transfer="gamma2.6")),
            ((10, 1, 13), make_space((1 / 3, 1 / 3, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06), None)),
            ((1, 1, 2), None),
            ((3, 1, 13), None),
            ((1, 3, 13), None),
        ],
    )
    def test_colors(self, colors: tuple[int, int, int], space: ColorSpace | None) -> None:
        assert read(rewrite(*colors)).space == space

    def test_own_primaries_and_a_gamma(self) -> None:
        header = read(rewrite(2, 2, gamma=4_545_455, points=ADOBE_CHRM))
        assert header.space == make_space(tuple(n / 100_000 for n in ADOBE_CHRM), 0.4545455)

    def test_own_primaries_that_are_no_triangle(self) -> None:
        assert read(rewrite(2, 2, points=[33_000] * 8)).space is None

    def test_own_white_of_a_gray_image(self) -> None:
        header = read(rewrite(2, transfer=8, points=(34_567, 35_850), kind=1))
        assert header.is_gray
        assert header.space == find_coded_space(1, 8)

    @pytest.mark.parametrize("length", [0, 2, 3, 4])
    def test_a_truncated_header_is_refused(self, length: int) -> None:
        with pytest.raises(EOFError):
            read(PLAIN[:length])

    @pytest.mark.parametrize("size", [0, 7])
    def test_an_invalid_box_is_refused(self, size: int) -> None:
        data = wrap(PLAIN)[:32] + struct.pack(">I", size) + b"free" + bytes(100)
        with pytest.raises((EOFError, ValueError)):
            read(data)


def test_without_the_extra_the_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pylibjxl", None)
    with pytest.raises(ImageError, match=r"pip install 'dinac-cli\[formats\]', or convert"):
        read_image(PLAIN)


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands for pylibjxl: gives SWATCHES and a profile."""
    fake = SimpleNamespace(profile=b"")
    fake.decode = lambda data, metadata: (SWATCHES, {"icc": fake.profile})
    monkeypatch.setitem(sys.modules, "pylibjxl", fake)
    return fake


@pytest.mark.usefixtures("decoder")
class TestColors:
    @pytest.mark.parametrize(
        ("colors", "codes"),
        [
            ((1, 1, 13), (1, 13)),
            ((1, 11, 13), (12, 13)),
            ((1, 1, 8), (1, 8)),
            ((1, 9, 16), (9, 16)),
            ((1, 9, 18), (9, 18)),
        ],
    )
    @pytest.mark.parametrize("hdr", ["clip", "tonemap"])
    def test_as_a_png_that_declares_them(
        self, colors: tuple[int, int, int], codes: tuple[int, int], hdr: str
    ) -> None:
        image = read_image(rewrite(*colors), hdr=hdr)
        expected = read_image(png(SWATCHES, cicp(*codes)), hdr=hdr)
        np.testing.assert_array_equal(image.pixels, expected.pixels)
        assert color_of(image) == color_of(expected)
        assert image.warnings == ()

    def test_adobe_rgb(self) -> None:
        image = read_image(rewrite(2, 2, gamma=4_545_500, points=ADOBE_CHRM))
        expected = read_image(png(SWATCHES, gama(45_455), chrm(ADOBE_CHRM)))
        np.testing.assert_array_equal(image.pixels, expected.pixels)
        assert color_of(image) == "converted-chrm-gamma2.2"

    def test_bt709_is_no_camera_curve(self) -> None:
        image = read_image(rewrite(1, 1, 1))
        light = np.where(
            SWATCHES < 0.081 * 255,
            SWATCHES / 255 / 4.5,
            ((SWATCHES / 255 + 0.099) / 1.099) ** (1 / 0.45),
        )
        assert_close(image, encode_srgb(light))
        assert color_of(image) == "converted-bt709-bt709"

    def test_hdr_is_refused(self) -> None:
        with pytest.raises(ImageError, match=r"HDR image \(PQ curve\); convert it to SDR, or add"):
            read_image(rewrite(1, 9, 16))

    def test_a_profile(self, decoder: SimpleNamespace) -> None:
        decoder.profile = make_adobe_profile()
        image = read_image(rewrite(has_profile=True))
        expected = read_image(png(SWATCHES, *icc(decoder.profile)))
        np.testing.assert_array_equal(image.pixels, expected.pixels)
        assert color_of(image) == "converted"

    def test_an_unusable_profile_gives_a_warning(self, decoder: SimpleNamespace) -> None:
        decoder.profile = b"no profile"
        image = read_image(rewrite(has_profile=True))
        assert color_of(image) == "assumed-srgb"
        assert image.warnings == ("unusable ICC profile ignored; colours taken as sRGB",)

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (rewrite(has_profile=True, is_xyb=True), "a lossy JPEG XL with an ICC profile"),
            (rewrite(1, 1, 2), "a JPEG XL of unknown colours"),
            (rewrite(kind=2), "a JPEG XL of unknown colours"),
        ],
    )
    def test_colors_that_the_decoder_cannot_give(self, data: bytes, reason: str) -> None:
        with pytest.raises(ImageError, match=f"{reason} is not supported; convert the image to"):
            read_image(data)


class TestPixels:
    @pytest.fixture(autouse=True)
    def _needs_extra(self) -> None:
        pytest.importorskip("pylibjxl")

    @pytest.mark.parametrize("data", [PLAIN, wrap(PLAIN), wrap(PLAIN, 30)])
    def test_pixels_are_exact(self, data: bytes) -> None:
        image = read_image(data)
        assert measure_image(data) == (40, 24)
        assert image.pixels.shape == (24, 40, 3)
        assert image.pixels[5, 5].tolist() == [200, 60, 40]
        assert image.pixels[0, 0].tolist() == [255, 255, 255]
        assert "color=srgb" in image.description
        assert image.warnings == ()

    def test_the_decoder_turns_the_image(self) -> None:
        corners = {3: (-1, -1), 6: (0, -1), 8: (-1, 0), 2: (0, -1)}
        for orientation, corner in corners.items():
            image = read_image(rewrite(orientation=orientation))
            assert image.pixels[corner].tolist() == [255, 255, 255], orientation
            assert "orientation=decoder" in image.description

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_gray_and_alpha(self, channels: int) -> None:
        import pylibjxl

        pixels = np.dstack([make_pixels(), make_pixels()[..., :1]])[..., :channels]
        if channels == 2:
            pixels = np.ascontiguousarray(pixels)
        try:
            data = pylibjxl.encode(np.ascontiguousarray(pixels), lossless=True)
        except (RuntimeError, ValueError):
            pytest.skip("the encoder does not write this kind")
        image = read_image(data, background=(0, 0, 0))
        assert ("alpha=composited" in image.description) == (channels in (2, 4))
        color = pixels[..., : 3 if channels > 2 else 1].astype(int)
        if channels in (2, 4):
            color = np.rint(color * (pixels[..., -1:] / 255)).astype(int)
        assert np.abs(image.pixels - color).max() <= 1

    def test_a_profile_is_read_with_the_pixels(self) -> None:
        import pylibjxl

        data = pylibjxl.encode(SWATCHES, lossless=True, icc=make_adobe_profile())
        expected = read_image(png(SWATCHES, *icc(make_adobe_profile())))
        np.testing.assert_array_equal(read_image(data).pixels, expected.pixels)

    def test_declared_colors(self) -> None:
        image = read_image(rewrite(1, 11, 13))
        one = np.full((1, 1, 3), (200, 60, 40), np.uint8)
        expected = read_image(png(one, cicp(12, 13)))
        assert image.pixels[5, 5].tolist() == expected.pixels[0, 0].tolist()

    @pytest.mark.parametrize("length", [1, 5, 30, 44])
    def test_a_truncated_file_is_refused(self, length: int) -> None:
        with pytest.raises(ImageError):
            read_image(PLAIN[:length])
