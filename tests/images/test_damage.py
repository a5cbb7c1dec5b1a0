"""Damaged JPEGs are recognised, whatever Pillow makes of them; sound ones are not accused."""

from __future__ import annotations

import base64
import io
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from dinac_cli.errors import DamagedImageError, ImageError, UsageError
from dinac_cli.images import damage, fast_jpeg
from dinac_cli.images.damage import Damage, parse_damage_choice
from dinac_cli.images.reading import WHITE, SourceImage, read_image, read_shaped

from .hand_made import make_exif, save

pytest.importorskip("simplejpeg")

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("RGB", {}),
    "4:4:4": ("RGB", {"subsampling": 0}),
    "progressive": ("RGB", {"progressive": True}),
    "restarts": ("RGB", {"restart_marker_blocks": 3}),
    "optimised": ("RGB", {"optimize": True}),
    "profile": ("RGB", {"icc_profile": PROFILE}),
    "turned": ("RGB", {"exif": make_exif(6)}),
    "gray": ("L", {}),
    "cmyk": ("CMYK", {}),
    "gray progressive": ("L", {"progressive": True}),
}
END = b"\xff\xd9"
# Noise of 32 x 24 gray pixels.
ARITHMETIC = base64.b64decode(
    "/9j/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWGkJ6jq62rZ4C8ybqmx5mo"
    "q6T/yQALCAAYACABAREA/8wABgAQEAX/2gAIAQEAAD8AyQWa4N19kJ7TGgvxGqXgy6yZNX4QkdfINcg5+apZF5Z7dr3p"
    "1+hYOJwnCHMsp2hk0CRcWs+QYJtHsADjDHl+Zx87ZxX2ojg6w6S2D0YrdG6S5tKd6Xt4PXn2/wA2wiTG7hz87tvR5wdb"
    "TyDTYjro2N2lbAZ3U3KqS1tdqeV9FJBKKI8Gml1BstH+zl5QsOdMkNGafuqw17T7HQw6+CC9hYaYL86h+sbIxWPhGGTP"
    "B84V8L/DwuHD/wCvqjW31kf1kFvxqiHxRaWe3Y5E8rAEZo99DEAe+DsJingkcQmgN6yHHg3D61xncO4zg0hDYLYQ0+F/"
    "RvxDF78YkKypBfX6Aq1jeiUhG3T/2Q=="
)


@pytest.fixture(autouse=True)
def _forget_decoders() -> Iterator[None]:
    caches = (fast_jpeg.find_decoder, damage._find_check)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def make_picture(width: int = 203, height: int = 151) -> Image.Image:
    noise = np.random.default_rng(7).integers(0, 60, (height, width, 3))
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 190 // width, y * 190 // height, (x + y) % 190], axis=-1)
    return Image.fromarray((smooth + noise).astype(np.uint8))


def make_jpeg(kind: str) -> bytes:
    mode, options = KINDS[kind]
    return save(make_picture().convert(mode), "JPEG", **{"quality": 88, **options})


def middle(data: bytes) -> int:
    return (data.index(b"\xff\xda") + len(data)) // 2


def zero_middle(data: bytes) -> bytes:
    at = middle(data)
    return data[:at] + bytes(400) + data[at + 400 :]


def scramble(data: bytes) -> bytes:
    at = middle(data)
    return data[:at] + np.random.default_rng(1).bytes(200) + data[at + 200 :]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], Damage]] = {
    "half": (lambda data: data[: middle(data)], Damage.TRUNCATED),
    "nearly all": (lambda data: data[:-40], Damage.TRUNCATED),
    "half and an end marker": (lambda data: data[: middle(data)] + END, Damage.CORRUPT),
    "a hole": (lambda data: data[: middle(data)] + data[middle(data) + 300 :], Damage.CORRUPT),
    "zeros in the middle": (zero_middle, Damage.CORRUPT),
    "noise in the middle": (scramble, Damage.CORRUPT),
}


@pytest.mark.parametrize("kind", KINDS)
def test_sound_jpeg_is_read_without_warning(kind: str) -> None:
    image = read_image(make_jpeg(kind))
    assert (image.soundness, image.warnings) == (damage.SOUND, ())
    assert "damaged" not in image.description


@pytest.mark.parametrize("harm", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_jpeg_fails_or_is_read_with_a_warning(kind: str, harm: str) -> None:
    spoil, found = DAMAGES[harm]
    whole = make_jpeg(kind)
    spoilt = spoil(whole)
    with pytest.raises(
        DamagedImageError, match=r"^(damaged JPEG file \(.+\)|truncated JPEG file); copy"
    ):
        read_image(spoilt)
    try:
        image = read_image(spoilt, damaged="warn")
    except DamagedImageError:
        raise
    except ImageError as exc:  # Pillow refuses some files
        assert re.match("(damaged|truncated) JPEG file; copy", str(exc))  # noqa: PT017
        return
    assert image.description.endswith(f";damaged={image.soundness.damage.value}")  # type: ignore[union-attr]
    assert len(image.warnings) == 1
    assert image.pixels.shape == read_image(whole).pixels.shape
    if harm != "noise in the middle":
        assert image.soundness.damage is found


@pytest.mark.parametrize("kind", KINDS)
def test_jpeg_that_lacks_only_its_end_marker_is_read_with_a_warning(kind: str) -> None:
    whole = make_jpeg(kind)
    image = read_image(whole[:-2])
    np.testing.assert_array_equal(image.pixels, read_image(whole).pixels)
    assert image.warnings == ("the JPEG lacks its end marker; the picture is complete",)
    assert image.description == read_image(whole).description


def test_file_that_ends_inside_a_marker_is_truncated() -> None:
    with pytest.raises(
        DamagedImageError, match=r"^truncated JPEG file; copy or download it again$"
    ):
        read_image(make_jpeg("plain")[:-1])


def make_441() -> bytes:
    """A JPEG of the subsampling 4:4:1. Its blocks are those of 4:2:0 in another order."""
    data = save(make_picture(64, 64), "JPEG", quality=88, subsampling=2)
    luma = data.index(b"\xff\xc0") + 11
    assert data[luma] == 0x22
    return data[:luma] + b"\x14" + data[luma + 1 :]


@pytest.mark.parametrize("harm", DAMAGES)
def test_subsampling_that_simplejpeg_has_no_name_for(harm: str) -> None:
    assert read_image(make_441()).soundness is damage.SOUND
    with pytest.raises(DamagedImageError, match="JPEG file"):
        read_image(DAMAGES[harm][0](make_441()))


def test_arithmetic_jpeg_without_end_marker_may_lack_anything() -> None:
    whole = read_image(ARITHMETIC)
    assert whole.soundness is damage.SOUND
    for cut in (2, 40):
        with pytest.raises(DamagedImageError, match=r"^truncated JPEG file; copy"):
            read_image(ARITHMETIC[:-cut])
        assert read_image(ARITHMETIC[:-cut], damaged="warn").pixels.shape == whole.pixels.shape


@pytest.mark.parametrize("end", [b"", END])
def test_progressive_jpeg_without_its_last_scans_is_truncated(end: bytes) -> None:
    data = make_jpeg("progressive")
    cut = data[: data.rindex(b"\xff\xda")]
    cut = cut[: cut.rindex(b"\xff\xc4")]  # also the table of the last scan
    with pytest.raises(DamagedImageError, match="JPEG file"):
        read_image(cut + end)
    assert read_image(cut + end, damaged="warn").soundness.damage is Damage.TRUNCATED


def test_flat_picture_may_hold_long_runs_of_zeros() -> None:
    for options in ({}, {"optimize": True}, {"progressive": True}):
        data = save(Image.new("L", (1024, 1024), 128), "JPEG", **options)
        assert read_image(data).warnings == ()
    assert bytes(64) in save(Image.new("L", (1024, 1024), 128), "JPEG", optimize=True)


def test_data_after_the_end_marker_is_no_damage() -> None:
    assert read_image(make_jpeg("plain") + bytes(500)).warnings == ()


def test_odd_metadata_is_no_damage_and_hides_none() -> None:
    data = make_jpeg("plain").replace(b"JFIF\x00\x01", b"JFIF\x00\x07", 1)
    assert read_image(data).warnings == ()
    with pytest.raises(DamagedImageError):
        read_image(DAMAGES["half and an end marker"][0](data))


def test_without_simplejpeg_damage_is_not_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    image = read_image(DAMAGES["half and an end marker"][0](make_jpeg("plain")))
    assert not image.soundness.is_checked
    with pytest.raises(ImageError, match=r"^truncated JPEG file; copy or download it again$"):
        read_image(make_jpeg("plain")[:-2])


FAXES = ("tiff_ccitt", "group3", "group4")


def make_fax(compression: str) -> bytes:
    return save(make_picture().convert("L").convert("1"), "TIFF", compression=compression)


@pytest.mark.parametrize("compression", FAXES)
def test_sound_fax_is_read_without_warning(compression: str) -> None:
    image = read_image(make_fax(compression))
    assert (image.soundness, image.warnings) == (damage.SOUND, ())


@pytest.mark.parametrize("filler", [b"\x00", b"\x01"])
@pytest.mark.parametrize("compression", FAXES)
def test_fax_with_bad_code_words_is_damaged(compression: str, filler: bytes) -> None:
    data = make_fax(compression)
    at, size = (Image.open(io.BytesIO(data)).tag_v2[tag][0] for tag in (273, 279))  # type: ignore[attr-defined]
    data = data[: at + size // 2] + filler * 200 + data[at + size // 2 + 200 :]
    with pytest.raises(DamagedImageError, match=r"^damaged TIFF file \((bad|zeros) .*warn$"):
        read_image(data)
    image = read_image(data, damaged="warn")
    assert image.description.endswith("frame=1/1;damaged=corrupt")
    assert len(image.warnings) == 1


def test_threads_do_not_share_complaints() -> None:
    data = make_fax("tiff_ccitt")
    at, size = (Image.open(io.BytesIO(data)).tag_v2[tag][0] for tag in (273, 279))  # type: ignore[attr-defined]
    bad = data[: at + size // 2] + b"\x55" * 200 + data[at + size // 2 + 200 :]
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda each: read_image(each, damaged="warn"), [data, bad] * 20))
    assert [image.soundness.damage for image in images] == [None, Damage.CORRUPT] * 20


def test_other_formats_need_no_check() -> None:
    assert read_image(save(make_picture(), "PNG")).soundness is damage.SOUND


def test_unknown_choice_is_refused() -> None:
    assert [parse_damage_choice(choice) for choice in ("fail", "warn")] == ["fail", "warn"]
    with pytest.raises(UsageError, match="--damaged skip: choose one of fail, warn"):
        parse_damage_choice("skip")


def test_a_jpeg_that_ends_in_half_a_marker_after_a_header_is_damaged() -> None:
    data = save(Image.new("RGB", (32, 24)), "JPEG")
    odd = data[:11] + b"\x09" + data[12:]  # an odd revision of JFIF, which hides other warnings
    scan = odd.index(b"\xff\xda")
    cut = odd[: scan + 2 + int.from_bytes(odd[scan + 2 : scan + 4], "big")] + b"\xff"
    with pytest.raises(DamagedImageError):
        read_image(cut)


def test_images_of_a_run_are_read_like_others_even_if_their_headers_are_odd() -> None:
    """Pillow does not open a plain JPEG of a run, but refuses some bytes between its segments."""
    data = make_jpeg("plain")
    scan = data.index(b"\xff\xda")

    def read_in_run(data: bytes) -> SourceImage:
        return read_shaped(data, lambda size_bytes: None, background=WHITE, max_pixels=10**6)

    image = read_in_run(data)
    np.testing.assert_array_equal(image.pixels, read_image(data).pixels)
    assert image.description == read_image(data).description
    odd = data[:scan] + b"\xff\x01" + data[scan:]
    for read in (read_image, read_in_run):
        with pytest.raises(ImageError, match=r"^damaged JPEG file; copy"):
            read(odd)
