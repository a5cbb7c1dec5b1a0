"""Colours, apertures and turns that PNG and AVIF files declare outside ICC and EXIF."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from dinac_cli.errors import ImageError
from dinac_cli.images.avif import AvifProperties, find_aperture, read_properties
from dinac_cli.images.color_space import convert_levels, find_coded_space
from dinac_cli.images.description import parse_description
from dinac_cli.images.hdr import CLIP, TONEMAP
from dinac_cli.images.reading import SourceImage, measure_file, measure_image, read_image

from .hand_made import Pixels, add_avif_property, chunk, make_adobe_profile, make_pixels, make_png
from .hand_made import save as write

Floats = NDArray[np.float64]

P3_TO_SRGB = np.array(  # both D65; from CSS Color 4
    [[1.2249401, -0.2249402, 0], [-0.0420569, 1.0420571, 0], [-0.0196376, -0.0786507, 1.0982884]]
)
BT2020_TO_SRGB = np.array(
    [
        [1.660491, -0.587641, -0.07285],
        [-0.12455, 1.1329, -0.008349],
        [-0.018151, -0.100579, 1.11873],
    ]
)
ADOBE_CHRM = (31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
SRGB_CHRM = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
SRGB_ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encode_srgb(light: Floats) -> Floats:
    light = np.clip(light, 0, 1)
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.asarray(255 * curve)


def decode_srgb(levels: Floats) -> Floats:
    x = levels / 255
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def decode_pq(x: Floats) -> Floats:
    """Returns cd/m²."""
    m1, m2, c1, c2, c3 = 1305 / 8192, 2523 / 32, 107 / 128, 2413 / 128, 2392 / 128
    power = x ** (1 / m2)
    return np.asarray(10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1))


def encode_pq(nits: Floats) -> Floats:
    m1, m2, c1, c2, c3 = 1305 / 8192, 2523 / 32, 107 / 128, 2413 / 128, 2392 / 128
    power = (nits / 10_000) ** m1
    return np.asarray(((c1 + c2 * power) / (1 + c3 * power)) ** m2)


def cicp(primaries: int, transfer: int, *, full: int = 1) -> bytes:
    return chunk(b"cICP", bytes((primaries, transfer, 0, full)))


def gama(value: int) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", value))


def chrm(values: tuple[int, ...]) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *values))


def png(pixels: Pixels, *chunks: bytes) -> bytes:
    height, width, _ = pixels.shape
    return make_png((width, height), 8, 2, [row.tobytes() for row in pixels], *chunks)


def deep_png(levels: NDArray[np.uint16], color_type: int, *chunks: bytes) -> bytes:
    height, width = levels.shape[:2]
    rows = [row.astype(">u2").tobytes() for row in levels]
    return make_png((width, height), 16, color_type, rows, *chunks)


def avif(pixels: Pixels, primaries: int, transfer: int, **options: object) -> bytes:
    """A nearly lossless AVIF whose nclx names `primaries` and `transfer`."""
    data = write(Image.fromarray(pixels), "AVIF", quality=100, subsampling="4:4:4", **options)
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


def color_of(source: SourceImage) -> str:
    return parse_description(source.description)["color"]


def assert_close(source: SourceImage, expected: Floats, tolerance: float = 0.6) -> None:
    assert np.abs(source.pixels - expected).max() <= tolerance


SWATCHES = make_pixels()
AS_P3 = encode_srgb(decode_srgb(SWATCHES.astype(float)) @ P3_TO_SRGB.T)


class TestPng:
    def test_display_p3(self) -> None:
        source = read_image(png(SWATCHES, cicp(12, 13)))
        assert_close(source, AS_P3)
        assert color_of(source) == "converted-display-p3-srgb"
        assert source.warnings == ()

    def test_linear_light(self) -> None:
        source = read_image(png(SWATCHES, gama(100_000)))
        assert_close(source, encode_srgb(SWATCHES / 255))
        assert color_of(source) == "converted-bt709-linear"

    @pytest.mark.parametrize("value", [30_000, 55_556, 200_000])
    def test_other_gammas(self, value: int) -> None:
        source = read_image(png(SWATCHES, gama(value)))
        assert_close(source, encode_srgb((SWATCHES / 255) ** (100_000 / value)))
        assert color_of(source).startswith("converted-bt709-gamma")

    def test_adobe_rgb(self) -> None:
        source = read_image(png(SWATCHES, gama(45_455), chrm(ADOBE_CHRM)))
        reference = read_image(png(SWATCHES, *icc(make_adobe_profile())))
        assert np.abs(source.pixels.astype(int) - reference.pixels).max() <= 3
        assert color_of(source) == "converted-chrm-gamma2.2"

    def test_primaries_without_gamma_have_the_curve_of_srgb(self) -> None:
        p3 = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
        source = read_image(png(SWATCHES, chrm(p3)))
        assert_close(source, AS_P3)
        assert color_of(source) == "converted-chrm-srgb"

    @pytest.mark.parametrize(
        "chunks",
        [
            [gama(45_455)],
            [gama(45_455), chrm(SRGB_CHRM)],
            [gama(46_500)],
            [gama(44_000)],
            [chrm(SRGB_CHRM)],
            [cicp(1, 13)],
            [cicp(2, 2)],
            [chunk(b"sRGB", b"\0"), gama(100_000)],
        ],
    )
    def test_srgb_changes_nothing(self, chunks: list[bytes]) -> None:
        source = read_image(png(SWATCHES, *chunks))
        np.testing.assert_array_equal(source.pixels, SWATCHES)
        assert (color_of(source), source.warnings) == ("srgb", ())

    @pytest.mark.parametrize("transfer", [1, 6, 14, 15])
    def test_the_curve_of_a_camera_is_taken_as_srgb(self, transfer: int) -> None:
        source = read_image(png(SWATCHES, cicp(1, transfer)))
        np.testing.assert_array_equal(source.pixels, SWATCHES)
        assert color_of(source) == "bt709-as-srgb"

    def test_cicp_comes_before_a_profile(self) -> None:
        source = read_image(png(SWATCHES, cicp(12, 13), *icc(SRGB_ICC), gama(100_000)))
        assert_close(source, AS_P3)

    def test_a_profile_comes_before_srgb_and_gamma(self) -> None:
        profile = icc(make_adobe_profile())
        source = read_image(png(SWATCHES, *profile, gama(100_000), chrm(SRGB_CHRM)))
        np.testing.assert_array_equal(source.pixels, read_image(png(SWATCHES, *profile)).pixels)
        assert color_of(source) == "converted"

    @pytest.mark.parametrize("chunk", [cicp(99, 13), cicp(1, 99), chunk(b"cICP", b"\1")])
    def test_an_unknown_cicp_gives_way_to_the_next_declaration(self, chunk: bytes) -> None:
        source = read_image(png(SWATCHES, chunk, gama(100_000)))
        assert color_of(source) == "converted-bt709-linear"

    @pytest.mark.parametrize(
        "chunk",
        [cicp(99, 13), gama(0), gama(2**32 - 1), chrm((0,) * 8), chrm((33_000,) * 8)],
    )
    def test_an_unusable_declaration_gives_a_warning(self, chunk: bytes) -> None:
        source = read_image(png(SWATCHES, chunk))
        np.testing.assert_array_equal(source.pixels, SWATCHES)
        assert color_of(source) == "assumed-srgb"
        assert source.warnings == ("unusable colour description ignored; colours taken as sRGB",)

    def test_limited_range(self) -> None:
        levels = np.array([[[16] * 3, [126] * 3, [235] * 3, [0] * 3, [255] * 3]], np.uint8)
        source = read_image(png(levels, cicp(1, 13, full=0)))
        assert source.pixels[0, :, 0].tolist() == [0, 128, 255, 0, 255]
        assert color_of(source) == "converted-limited-bt709-srgb"

    @pytest.mark.parametrize("color_type", [0, 2, 4, 6])
    def test_sixteen_bits_of_linear_light_keep_dark_tones(self, color_type: int) -> None:
        shown = np.linspace(0, 255, 24 * 40).reshape(24, 40)
        levels = np.rint(decode_srgb(shown) * 65535).astype(np.uint16)
        channels = {0: 1, 2: 3, 4: 2, 6: 4}[color_type]
        image = np.repeat(levels[..., None], channels, axis=-1)
        if color_type in (4, 6):
            image[..., -1] = 65535
        source = read_image(deep_png(image, color_type, gama(100_000)))
        assert_close(source, np.repeat(shown[..., None], 3, axis=-1))

    def test_sixteen_bits_are_turned_with_the_image(self) -> None:
        levels = SWATCHES.astype(np.uint16) * 257
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            turn = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
            deep = read_image(deep_png(levels, 2, gama(100_000), turn))
            shallow = read_image(png(SWATCHES, gama(100_000), turn))
            np.testing.assert_array_equal(deep.pixels, shallow.pixels)
            assert deep.description == shallow.description

    def test_a_transparent_colour_of_sixteen_bits(self) -> None:
        levels = np.array([[[100, 100, 100], [25_700, 25_700, 25_701]]], np.uint16)
        clear = chunk(b"tRNS", struct.pack(">3H", 25_700, 25_700, 25_701))
        source = read_image(deep_png(levels, 2, gama(100_000), clear))
        assert source.pixels.tolist() == [[[5, 5, 5], [255, 255, 255]]]

    def test_colours_are_converted_before_compositing(self) -> None:
        rows = [bytes((100, 100, 100, 255, 0, 0, 0, 0))]
        source = read_image(make_png((2, 1), 8, 6, rows, gama(100_000)))
        assert source.pixels[0, :, 0].tolist() == [
            round(float(encode_srgb(np.array(100 / 255)))),
            255,
        ]

    def test_palette(self) -> None:
        palette = chunk(b"PLTE", bytes((0, 50, 100)))
        source = read_image(make_png((1, 1), 8, 3, [b"\0"], gama(100_000), palette))
        assert_close(source, encode_srgb(np.array([0, 50, 100]) / 255))


class TestAvif:
    def test_display_p3(self) -> None:
        plain = read_image(avif(SWATCHES, 1, 13)).pixels.astype(float)
        source = read_image(avif(SWATCHES, 12, 13))
        assert_close(source, encode_srgb(decode_srgb(plain) @ P3_TO_SRGB.T))
        assert color_of(source) == "converted-display-p3-srgb"

    def test_linear_light(self) -> None:
        plain = read_image(avif(SWATCHES, 1, 13)).pixels.astype(float)
        source = read_image(avif(SWATCHES, 1, 8))
        assert_close(source, encode_srgb(plain / 255))
        assert color_of(source) == "converted-bt709-linear"

    def test_a_profile_comes_before_nclx(self) -> None:
        data = avif(SWATCHES, 12, 8, icc_profile=SRGB_ICC)
        assert color_of(read_image(data)) == "srgb"

    def test_unknown_codes_give_a_warning(self) -> None:
        source = read_image(avif(SWATCHES, 500, 13))
        assert color_of(source) == "assumed-srgb"
        assert source.warnings

    def test_clean_aperture(self) -> None:
        whole = write(Image.fromarray(SWATCHES), "AVIF", quality=100)
        box = clap((20, 1), (11, 1), (5, 1), (-1, 2))
        source = read_image(add_avif_property(whole, b"clap", box))
        expected = read_image(whole).pixels[6:17, 15:35]
        np.testing.assert_array_equal(source.pixels, expected)

    def test_clean_aperture_is_cut_before_the_turn(self) -> None:
        whole = write(Image.fromarray(SWATCHES), "AVIF", quality=100)
        data = add_avif_property(whole, b"clap", clap((20, 1), (24, 1), (-10, 1), (0, 1)))
        data = add_avif_property(data, b"irot", b"\1")
        source = read_image(data)
        np.testing.assert_array_equal(source.pixels, np.rot90(read_image(whole).pixels[:, :20]))
        assert "orientation=applied" in source.description
        assert measure_image(data) == (20, 24)

    @pytest.mark.parametrize(
        "body",
        [
            struct.pack(">8I", *(0,) * 8),
            struct.pack(">8I", 41, 1, 24, 1, 0, 1, 0, 1),
            struct.pack(">8I", 0, 1, 24, 1, 0, 1, 0, 1),
            struct.pack(">IIIIiIiI", 20, 1, 24, 1, 11, 1, 0, 1),
        ],
    )
    def test_an_aperture_outside_the_image_is_refused(self, body: bytes) -> None:
        data = add_avif_property(write(Image.fromarray(SWATCHES), "AVIF"), b"clap", body)
        with pytest.raises(ImageError, match="its clean aperture lies outside the image"):
            read_image(data)

    @pytest.mark.parametrize("body", [b"", b"\0" * 8, b"\xff" * 31])
    def test_a_malformed_aperture_is_refused(self, body: bytes) -> None:
        with pytest.raises(ImageError, match="damaged AVIF file"):
            find_aperture(body, 40, 24)

    def test_hostile_boxes_are_read_in_bounded_time(self) -> None:
        """The file names a large property many times, and claims more items than it has."""
        item = struct.pack(">IB", 1, 255) + b"\0\1" * 255
        ipma = box(b"ipma", b"\1\0\0\1" + struct.pack(">I", 2**31) + item * 1000)
        ipco = box(b"ipco", box(b"colr", b"prof" + bytes(100_000)))
        pitm = box(b"pitm", b"\1\0\0\0\0\0\0\1")
        meta = box(b"meta", bytes(4) + pitm + box(b"iprp", ipco + ipma))
        file = CountingFile(meta)
        assert read_properties(file) == AvifProperties()
        assert file.bytes_read < 2_000_000
        file = CountingFile(box(b"free", b"") * 100_000)
        assert read_properties(file) == AvifProperties()
        assert file.bytes_read < 100_000

    def test_fractions_are_rounded(self) -> None:
        assert find_aperture(clap((41, 2), (5, 1), (0, 1), (0, 1)), 40, 5) == (10, 0, 31, 5)

    @pytest.mark.parametrize("orientation", [3, 6, 8])
    def test_exif_and_xmp_turn_nothing(self, orientation: int) -> None:
        xmp = (
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
            'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
            f'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/>'
            "</rdf:RDF></x:xmpmeta>"
        ).encode()
        exif = Image.Exif()
        exif[0x010F] = "camera"
        data = write(Image.fromarray(SWATCHES), "AVIF", xmp=xmp, exif=exif)
        source = read_image(data)
        assert source.pixels.shape == SWATCHES.shape
        assert "orientation=none" in source.description

    def test_any_cut_of_the_boxes_is_read_or_refused(self) -> None:
        data = avif(SWATCHES, 12, 13)
        for size in range(len(data) - 1, 32, -7):
            with pytest.raises(ImageError):
                read_image(data[:size])


class TestHdr:
    @pytest.mark.parametrize(
        "make",
        [
            pytest.param(lambda code: png(SWATCHES, cicp(9, code)), id="png"),
            pytest.param(lambda code: avif(SWATCHES, 9, code), id="avif"),
        ],
    )
    @pytest.mark.parametrize(("code", "name"), [(16, "PQ"), (18, "HLG")])
    def test_hdr_is_refused(self, make: Callable[[int], bytes], code: int, name: str) -> None:
        data = make(code)
        message = rf"HDR image \({name} curve\); convert it to SDR, or add --hdr tonemap or --hdr"
        with pytest.raises(ImageError, match=message):
            read_image(data)
        source = read_image(data, hdr=CLIP)
        assert color_of(source) == f"converted-bt2020-{name.lower()}-clip"
        assert measure_image(data) == (40, 24)

    def test_the_plan_refuses_it_too(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        path = tmp_path_factory.mktemp("hdr") / "a.png"
        path.write_bytes(png(SWATCHES, cicp(9, 16)))
        with pytest.raises(ImageError, match="HDR image"):
            measure_file(str(path))
        assert measure_file(str(path), hdr=TONEMAP) == (40, 24)

    def test_clipped_pq(self) -> None:
        light = decode_pq(SWATCHES / 255) / 203
        source = read_image(png(SWATCHES, cicp(9, 16)), hdr=CLIP)
        assert_close(source, encode_srgb(light @ BT2020_TO_SRGB.T), 1.1)

    def test_white_is_203_nits(self) -> None:
        level = round(65535 * float(encode_pq(np.array(203.0))))
        levels = np.full((1, 1, 3), level, np.uint16)
        space = find_coded_space(9, 16)
        assert convert_levels(levels, space, CLIP).tolist() == [[[255] * 3]]
        assert 220 < convert_levels(levels, space, TONEMAP)[0, 0, 0] < 255
        dimmer = np.full((1, 1, 3), 49152, np.uint16)  # 75 % of HLG is 203 cd/m²
        assert convert_levels(dimmer, find_coded_space(9, 18), CLIP).min() >= 254

    @pytest.mark.parametrize("transfer", [16, 18])
    def test_the_tone_curve_rises_from_black_to_white(self, transfer: int) -> None:
        gray = np.repeat(np.arange(65536, dtype=np.uint16)[None, :, None], 3, axis=2)
        space = find_coded_space(9, transfer)
        mapped = convert_levels(gray, space, TONEMAP)[0].astype(int)
        clipped = convert_levels(gray, space, CLIP)[0].astype(int)
        assert (mapped == mapped[:, :1]).all()
        assert (np.diff(mapped[:, 0]) >= 0).all()
        assert (mapped[0, 0], mapped[-1, 0]) == (0, 255)
        dark = clipped[:, 0] < 100
        assert np.abs(mapped - clipped)[dark].max() <= 1
        assert (mapped == 255).sum() < (clipped == 255).sum()


def icc(profile: bytes) -> list[bytes]:
    return [chunk(b"iCCP", b"p\0\0" + zlib.compress(profile))]


def clap(*fractions: tuple[int, int]) -> bytes:
    return struct.pack(">IIIIiIiI", *(part for fraction in fractions for part in fraction))


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + kind + body


class CountingFile(io.BytesIO):
    """A file that counts the bytes that are read from it."""

    bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        return data
