"""HEIC: pi-heif (the extra `formats`) decodes each file in a process of its own."""

from __future__ import annotations

import base64
import random
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from dinac_cli.errors import ImageError
from dinac_cli.images import heic, optional_formats
from dinac_cli.images.formats import detect_optional
from dinac_cli.images.heic_worker import DECODE
from dinac_cli.images.reading import measure_file, measure_image, read_image

from .hand_made import make_adobe_profile, make_exif
from .test_declared import SWATCHES, cicp, color_of, png

# One HEVC picture of 96 x 64 pixels: RED at the left, GREEN at the right above BLUE.
_CONFIGURATION = base64.b64decode(
    "AQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AAAAMA"
    "kAAAAwAAAwAeoDCBBZbqSSmubgIaDAgAAAMAyAAAAwAIQGIAAQAHRAHBcrAiQA=="
)
_PICTURE = base64.b64decode(
    "AAAAmSgBrwY4Wvz9N/P5P//+4Bvof47HC75Wm6/A4T/5Zf/+R29mOFPH/sX2T57+r9F/sWNlwzJnw7nqFy3D5mVa"
    "G2gaUpUgXAE6pu5m2QeZvomlwGF/9Va4bMnTyMYpqwM/cjcb1eUjhe+HCeA4+eeK/WKGjfaCavOpxmB77Hkw+JDg"
    "/ic0TM/7Wgxe4PfEH39RlnwrURYsqPGJBw=="
)
RED, GREEN, BLUE = (200, 60, 40), (90, 200, 90), (40, 60, 200)

Corners = Mapping[tuple[int, int], tuple[int, ...]]
"""Row and column → colour."""

needs_extra = pytest.mark.skipif(not heic.has_decoder(), reason="needs pi-heif")


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def nclx(primaries: int, transfer: int) -> bytes:
    return box(b"colr", b"nclx", struct.pack(">HHHB", primaries, transfer, 6, 0x80))


def turn(quarters: int) -> bytes:
    """Turns the image counterclockwise."""
    return box(b"irot", bytes([quarters]))


def mirror(axis: int) -> bytes:
    return box(b"imir", bytes([axis]))


def make_heic(*properties: bytes, exif: bytes = b"") -> bytes:
    """A HEIC of the picture. `properties` are boxes."""
    start = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    known = [
        box(b"hvcC", _CONFIGURATION),
        box(b"ispe", bytes(4), struct.pack(">II", 96, 64)),
        *properties,
    ]
    numbers = bytes([len(known), *(0x80 | (i + 1) for i in range(len(known)))])
    places = [(1, len(start) + 8, len(_PICTURE))]
    items = [box(b"infe", b"\x02\0\0\0", struct.pack(">HH", 1, 0), b"hvc1\0")]
    references = b""
    if exif:
        exif = bytes(4) + exif.removeprefix(b"Exif\0\0")
        places.append((2, len(start) + 8 + len(_PICTURE), len(exif)))
        items.append(box(b"infe", b"\x02\0\0\0", struct.pack(">HH", 2, 0), b"Exif\0"))
        link = box(b"cdsc", struct.pack(">HHH", 2, 1, 1))
        references = box(b"iref", bytes(4), link)
    extents = [struct.pack(">HHHII", item, 0, 1, at, size) for item, at, size in places]
    meta = box(
        b"meta",
        bytes(4),
        box(b"hdlr", bytes(8), b"pict", bytes(13)),
        box(b"pitm", bytes(4), struct.pack(">H", 1)),
        box(b"iloc", bytes(4), b"\x44\0", struct.pack(">H", len(extents)), *extents),
        box(b"iinf", bytes(4), struct.pack(">H", len(items)), *items),
        references,
        box(
            b"iprp",
            box(b"ipco", *known),
            box(b"ipma", bytes(4), struct.pack(">IH", 1, 1), numbers),
        ),
    )
    return start + box(b"mdat", _PICTURE, exif) + meta


def check(data: bytes, size: tuple[int, int], corners: Corners) -> str:
    """Compares size and pixels; returns the description."""
    image = read_image(data)
    assert measure_image(data) == size
    assert image.pixels.shape == (size[1], size[0], 3)
    for place, color in corners.items():
        found = image.pixels[place].tolist()
        assert max(abs(a - b) for a, b in zip(found, color, strict=True)) <= 2, (place, found)
    return image.description


def test_without_the_extra_the_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optional_formats, "has_decoder", lambda: False)
    with pytest.raises(ImageError, match=r"HEIC is .*pip install 'dinac-cli\[formats\]'"):
        read_image(make_heic())


def test_a_hand_made_file_is_detected() -> None:
    assert detect_optional(make_heic()) == "HEIC"


def test_the_codes_that_the_decoder_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(task: str, data: bytes) -> tuple[dict[str, object], bytes]:
        header = {"size": [40, 24], "mode": "RGB", "frames": 1, "codes": [12, 13], "profile": None}
        return header, SWATCHES.tobytes() if task == DECODE else b""

    monkeypatch.setattr(optional_formats, "has_decoder", lambda: True)
    monkeypatch.setattr(heic, "_run_worker", answer)
    image = read_image(make_heic(nclx(12, 13)))
    heic._measure.cache_clear()
    expected = read_image(png(SWATCHES, cicp(12, 13)))
    np.testing.assert_array_equal(image.pixels, expected.pixels)
    assert color_of(image) == "converted-display-p3-srgb"


@needs_extra
class TestPixels:
    @pytest.mark.parametrize("colors", [(), (nclx(1, 13),), (nclx(2, 2),)])
    def test_srgb(self, colors: tuple[bytes, ...]) -> None:
        corners = {(5, 5): RED, (5, 90): GREEN, (60, 90): BLUE}
        assert "color=srgb" in check(make_heic(*colors), (96, 64), corners)

    @pytest.mark.parametrize(
        ("properties", "size", "corners"),
        [
            ((turn(1),), (64, 96), {(5, 5): GREEN, (5, 60): BLUE, (90, 5): RED}),
            ((turn(2),), (96, 64), {(5, 5): BLUE, (60, 5): GREEN, (5, 90): RED}),
            ((turn(3),), (64, 96), {(5, 5): RED, (90, 60): GREEN, (90, 5): BLUE}),
            ((mirror(1),), (96, 64), {(5, 5): GREEN, (60, 5): BLUE, (5, 90): RED}),
            ((mirror(0),), (96, 64), {(5, 5): RED, (5, 90): BLUE, (60, 90): GREEN}),
        ],
    )
    def test_the_container_turns_and_mirrors(
        self,
        tmp_path: Path,
        properties: tuple[bytes, ...],
        size: tuple[int, int],
        corners: Corners,
    ) -> None:
        data = make_heic(*properties)
        assert "orientation=decoder" in check(data, size, corners)
        (tmp_path / "a.heic").write_bytes(data)
        assert measure_file(str(tmp_path / "a.heic"), upright=True) == size

    def test_exif_does_not_turn(self) -> None:
        check(make_heic(exif=make_exif(6)), (96, 64), {(5, 5): RED, (5, 90): GREEN})

    def test_a_profile_is_converted_and_comes_before_nclx(self) -> None:
        profile = box(b"colr", b"prof", make_adobe_profile())
        for properties in ((profile,), (profile, nclx(9, 16))):
            image = read_image(make_heic(*properties))
            assert "color=converted" in image.description
            assert image.pixels[5, 5, 0] > 210  # Adobe RGB has a redder red

    @pytest.mark.parametrize("codes", [(12, 13), (9, 14), (9, 16), (9, 18), (1, 8), (1, 1)])
    @pytest.mark.parametrize("hdr", ["clip", "tonemap"])
    def test_declared_colors_are_converted_as_in_a_png(
        self, codes: tuple[int, int], hdr: str
    ) -> None:
        image = read_image(make_heic(nclx(*codes)), hdr=hdr)
        expected = read_image(png(read_image(make_heic()).pixels, cicp(*codes)), hdr=hdr)
        np.testing.assert_array_equal(image.pixels, expected.pixels)
        assert color_of(image) == color_of(expected)

    def test_hdr_is_refused(self) -> None:
        with pytest.raises(ImageError, match=r"HDR image \(HLG curve\); convert it to SDR, or add"):
            read_image(make_heic(nclx(9, 18)))

    def test_unknown_codes_are_refused(self) -> None:
        with pytest.raises(ImageError, match="this kind of HEIC file is not supported; convert"):
            read_image(make_heic(nclx(99, 13)))

    def test_too_many_pixels_are_refused(self) -> None:
        with pytest.raises(ImageError, match="96x64 is 6144 pixels, more than the limit of 6000"):
            read_image(make_heic(), max_pixels=6000)

    @pytest.mark.parametrize("length", [40, 100, 200, 300])
    def test_a_truncated_file_is_refused(self, length: int) -> None:
        with pytest.raises(ImageError, match=r"(truncated|damaged) HEIC file; copy"):
            read_image(make_heic()[:length])

    def test_a_crash_of_the_decoder_is_a_failure_of_its_file(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(heic, "_PROGRAM", "import os; os.abort()")
        heic._measure.cache_clear()
        with pytest.raises(ImageError, match="damaged HEIC file; copy or download it again"):
            read_image(make_heic(nclx(1, 13)))

    def test_damaged_files_give_pixels_or_an_error(self) -> None:
        rng = random.Random(0)
        whole = make_heic()
        for _ in range(8):
            data = bytearray(whole)
            for _ in range(3):
                data[rng.randrange(40, len(data))] = rng.randrange(256)
            with suppress(ImageError):
                assert read_image(bytes(data), max_pixels=100_000).pixels.ndim == 3
