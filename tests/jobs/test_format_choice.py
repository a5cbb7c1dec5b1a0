"""The image format of a decode: from --format, from OUT's suffix, or not given."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from dinac_cli.errors import UsageError
from dinac_cli.images.formats import OUTPUT_FORMATS
from dinac_cli.jobs.decode import DecodeChoice, choose_format, choose_quality
from dinac_cli.storage.output import OutputKind


@pytest.mark.parametrize(
    ("name", "out", "kind", "chosen"),
    [
        (None, "out", OutputKind.FOLDER, None),
        (None, "-", OutputKind.STREAM, None),
        (None, "x.WEBP", OutputKind.FILE, "webp"),
        (None, "x.jpeg", OutputKind.FILE, "jpg"),
        (None, "x.webp", OutputKind.FOLDER, None),
        ("tiff", "out", OutputKind.FOLDER, "tiff"),
        ("TIFF", "out", OutputKind.FOLDER, "tiff"),
        ("jpeg", "out", OutputKind.FOLDER, "jpg"),
        ("tif", "-", OutputKind.STREAM, "tiff"),
        ("jpg", "x.jpeg", OutputKind.FILE, "jpg"),
    ],
)
def test_chosen_format(name: str | None, out: str, kind: OutputKind, chosen: str | None) -> None:
    assert choose_format(name, out, kind) is (chosen and OUTPUT_FORMATS[chosen])


@pytest.mark.parametrize("name", ["", "gif", "psd", "p ng"])
def test_unknown_format_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="choose one of png, jpg, webp"):
        choose_format(name, "out", OutputKind.FOLDER)


def test_contradiction_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--format jpg contradicts the suffix of x\.png"):
        choose_format("jpg", "x.png", OutputKind.FILE)


@pytest.mark.parametrize(
    ("quality", "name", "chosen"),
    [
        ("default", "jpg", None),
        ("default", "png", None),
        (80, "jpg", 80),
        (95, "jpg", None),
        (90, "avif", None),
        (95, "avif", 95),
        (100, "webp", 100),
        (1, "webp", 1),
    ],
)
def test_default_quality_counts_as_none(
    quality: int | Literal["default"], name: str, chosen: int | None
) -> None:
    assert choose_quality(quality, OUTPUT_FORMATS[name]) == chosen


@pytest.mark.parametrize("quality", [0, -1, 101, True, 80.0, "high"])
def test_quality_has_a_range(quality: Any) -> None:
    with pytest.raises(UsageError, match=rf"^--quality {quality}: expected 1 to 100$"):
        DecodeChoice(quality=quality)


@pytest.mark.parametrize("name", ["png", "tiff", "bmp", "ppm"])
def test_quality_of_a_lossless_format_is_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose_quality(80, OUTPUT_FORMATS[name])
    assert str(caught.value) == (
        f"--quality 80: {name} is lossless; leave out --quality, or choose one of jpg, webp, avif "
        "with --format"
    )
