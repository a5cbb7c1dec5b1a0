"""JPEG XL: the header is read by dinac, the pixels by pylibjxl (the extra `formats`)."""

from __future__ import annotations

import io
import struct
import sys

import numpy as np
import pytest

from dinac_cli.errors import ImageError
from dinac_cli.images.jxl_header import JxlHeader, read_header
from dinac_cli.images.reading import measure_image, read_image

from .hand_made import make_pixels

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


def rewrite(
    white: int = 1, primaries: int = 1, transfer: int = 13, orientation: int = 1, gamma: int = 0
) -> bytes:
    """PLAIN with other colours, as JPEG XL numbers them, and another orientation."""
    out = BitWriter()
    out.write((SIZE_BITS, int.from_bytes(PLAIN[2:], "little")), (1, 0))
    is_turned = orientation > 1
    out.write((1, is_turned), *([(3, orientation - 1), (3, 0)] if is_turned else []))
    out.write((1, 0), (2, 0), (1, 1), (2, 0), (1, 0))  # 8 bits, no extra channel, no XYB
    out.write((2, 0))  # colours without a profile
    for value in (0, white, primaries):
        out.write_enum(value)
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
        assert header.codes == (1, 13)
        flags = (header.is_gray, header.has_alpha, header.has_profile, header.is_turned)
        assert not any(flags)

    @pytest.mark.parametrize("orientation", range(2, 9))
    def test_the_size_is_that_of_the_upright_image(self, orientation: int) -> None:
        header = read(rewrite(orientation=orientation))
        size = (24, 40) if orientation > 4 else (40, 24)
        assert (header.width, header.height) == size
        assert header.is_turned

    @pytest.mark.parametrize(
        ("colors", "codes"),
        [
            ((1, 1, 13), (1, 13)),
            ((1, 11, 13), (12, 13)),
            ((11, 11, 17), (11, 17)),
            ((1, 9, 16), (9, 16)),
            ((1, 9, 18), (9, 18)),
            ((1, 1, 8), (1, 8)),
            ((10, 1, 13), None),
        ],
    )
    def test_colors(self, colors: tuple[int, int, int], codes: tuple[int, int] | None) -> None:
        assert read(rewrite(*colors)).codes == codes

    def test_a_gamma_has_no_code(self) -> None:
        assert read(rewrite(gamma=4_500_000)).codes is None

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

    def test_other_colors_are_refused(self) -> None:
        for data in (rewrite(1, 11, 13), rewrite(1, 9, 16), rewrite(1, 1, 8)):
            with pytest.raises(ImageError, match=r"its colours .* are not supported; convert"):
                read_image(data)
        with pytest.raises(ImageError, match="its own primaries or gamma are not supported"):
            read_image(rewrite(gamma=4_500_000))

    @pytest.mark.parametrize("length", [1, 5, 30, 44])
    def test_a_truncated_file_is_refused(self, length: int) -> None:
        with pytest.raises(ImageError):
            read_image(PLAIN[:length])
