"""The image format of a decode: from --format, from OUT's suffix, or not given."""

from __future__ import annotations

import pytest

from dinac_cli.errors import UsageError
from dinac_cli.images.formats import OUTPUT_FORMATS
from dinac_cli.jobs.decode import choose_format
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
