"""Options as text, and what they mean."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from dinac_cli.codec.machine import count_processors
from dinac_cli.commands.values import (
    check_percent,
    choose_format,
    complete,
    one_of,
    parse_batch_size,
    parse_color,
    parse_percent,
)
from dinac_cli.errors import UsageError
from dinac_cli.images.formats import MAX_PIXELS, OUTPUT_FORMATS
from dinac_cli.storage.output import OutputKind


@pytest.mark.parametrize(
    ("text", "color"),
    [
        ("white", (255, 255, 255)),
        ("Black", (0, 0, 0)),
        ("gray", (128, 128, 128)),
        ("grey", (128, 128, 128)),
        ("#0aff80", (10, 255, 128)),
        ("0AFF80", (10, 255, 128)),
    ],
)
def test_color(text: str, color: tuple[int, int, int]) -> None:
    assert parse_color(text) == color


@pytest.mark.parametrize("text", ["", "#", "red", "#fff", "#0aff8", "#0aff8000", "#gggggg", "ü"])
def test_malformed_color(text: str) -> None:
    with pytest.raises(UsageError, match="expected white, black, gray or #rrggbb"):
        parse_color(text)


def test_batch_size() -> None:
    assert parse_batch_size("auto") is None
    assert parse_batch_size("1") == 1
    assert parse_batch_size("64") == 64


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "many", "²", " 4", "+4"])
def test_malformed_batch_size(text: str) -> None:
    with pytest.raises(UsageError, match="expected a positive number or auto"):
        parse_batch_size(text)


def test_default_limit_of_pixels_is_where_pillow_sees_a_bomb() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert 2 * Image.MAX_IMAGE_PIXELS == MAX_PIXELS


class TestFormat:
    @pytest.mark.parametrize(
        ("name", "out", "kind", "chosen"),
        [
            (None, "out", OutputKind.FOLDER, "png"),
            (None, "-", OutputKind.STREAM, "png"),
            (None, "x.WEBP", OutputKind.FILE, "webp"),
            (None, "x.jpeg", OutputKind.FILE, "jpg"),
            (None, "x.webp", OutputKind.FOLDER, "png"),
            ("tiff", "out", OutputKind.FOLDER, "tiff"),
            ("TIFF", "out", OutputKind.FOLDER, "tiff"),
            ("jpeg", "out", OutputKind.FOLDER, "jpg"),
            ("tif", "-", OutputKind.STREAM, "tiff"),
            ("jpg", "x.jpeg", OutputKind.FILE, "jpg"),
        ],
    )
    def test_chosen(self, name: str | None, out: str, kind: OutputKind, chosen: str) -> None:
        assert choose_format(name, out, kind) is OUTPUT_FORMATS[chosen]

    @pytest.mark.parametrize("name", ["", "gif", "psd", "p ng"])
    def test_unknown(self, name: str) -> None:
        with pytest.raises(UsageError, match="choose one of png, jpg, webp"):
            choose_format(name, "out", OutputKind.FOLDER)

    def test_contradiction(self) -> None:
        with pytest.raises(UsageError, match=r"--format jpg contradicts the suffix of x\.png"):
            choose_format("jpg", "x.png", OutputKind.FILE)


class TestChoices:
    def test_dash_and_underscore_are_alike(self) -> None:
        check = one_of("--sampler", ("ddim", "dpmpp-2m"))
        assert check("dpmpp_2m") == check("dpmpp-2m") == "dpmpp-2m"

    def test_others_are_refused(self) -> None:
        check = one_of("--sampler", ("ddim", "dpmpp-2m"))
        for text in ("", "euler", "DDIM"):
            with pytest.raises(UsageError, match=r"choose one of ddim, dpmpp-2m$"):
                check(text)

    def test_completion(self) -> None:
        offer = complete(("ddim", "dpmpp-2m"))
        assert offer("") == ["ddim", "dpmpp-2m"]
        assert offer("dp") == ["dpmpp-2m"]
        assert offer("x") == []


class TestProcessors:
    @pytest.fixture
    def quota(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The control group's file, of a process that may run on eight processors."""
        path = tmp_path / "cpu.max"
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
        real = open

        def opened(name: str, *args: object, **keywords: object) -> object:
            return real(path if name == "/sys/fs/cgroup/cpu.max" else name, *args, **keywords)  # type: ignore[call-overload]

        monkeypatch.setattr("builtins.open", opened)
        return path

    @pytest.mark.parametrize(
        ("text", "count"),
        [
            ("max 100000\n", 8),
            ("200000 100000\n", 2),
            ("50000 100000\n", 1),
            ("10000 100000\n", 1),
            ("9900000 100000\n", 8),
            ("odd\n", 8),
            ("", 8),
        ],
    )
    def test_quota(self, quota: Path, text: str, count: int) -> None:
        quota.write_text(text)
        assert count_processors() == count

    def test_no_control_group(self, quota: Path) -> None:
        assert count_processors() == 8

    def test_here(self) -> None:
        assert 1 <= count_processors() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("text", "percent"), [("5%", 5.0), ("5", 5.0), ("0.5%", 0.5), ("100%", 100.0), ("0.001", 0.001)]
)
def test_share(text: str, percent: float) -> None:
    assert parse_percent(text) == percent
    assert check_percent(text) == text


@pytest.mark.parametrize("text", ["0", "0%", "100.1", "-5", "5%%", "%", "", "1e1", "nan"])
def test_no_share(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--reencode .*expected a share such as 5%"):
        check_percent(text)


def test_share_that_is_not_given() -> None:
    assert check_percent(None) is None
