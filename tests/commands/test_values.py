"""The values of options: checked, parsed and completed."""

from __future__ import annotations

import math

import pytest

from dinac_cli.commands.values import (
    complete,
    count_or_auto,
    find_nearest,
    one_of,
    parse_crop,
    parse_crop_choice,
    parse_percent,
    real,
    whole,
)
from dinac_cli.errors import UsageError


def test_batch_size() -> None:
    assert count_or_auto("--batch-size")("auto") is None
    assert count_or_auto("--batch-size")("1") == 1
    assert count_or_auto("--batch-size")("64") == 64


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "many", "²", " 4", "+4"])
def test_malformed_batch_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a positive number or auto"):
        count_or_auto("--batch-size")(text)


def test_crop() -> None:
    assert (parse_crop("256"), parse_crop("256x128")) == ((256, 256), (256, 128))
    assert (parse_crop_choice("256"), parse_crop_choice("none")) == ((256, 256), "none")


@pytest.mark.parametrize("text", ["", "x", "8xy", "0", "8x0", "-8", "8x1048577", "1048577"])
def test_malformed_crop_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_crop(text)
    assert str(caught.value) == f"--crop {text}: expected WxH or N, 1 to 1048576 pixels"
    with pytest.raises(UsageError) as caught:
        parse_crop_choice(text)
    assert str(caught.value) == f"--crop {text}: expected WxH or N, 1 to 1048576 pixels, or none"


class TestChoices:
    def test_dash_and_underscore_are_equal(self) -> None:
        check = one_of("--sampler", ("ddim", "dpmpp-2m"))
        assert check("dpmpp_2m") == check("dpmpp-2m") == "dpmpp-2m"

    def test_other_values_are_refused(self) -> None:
        check = one_of("--sampler", ("ddim", "dpmpp-2m"))
        for text in ("", "euler", "DDIM"):
            with pytest.raises(UsageError, match=r"choose one of ddim, dpmpp-2m$"):
                check(text)

    def test_completion(self) -> None:
        offer = complete(("ddim", "dpmpp-2m"))
        assert offer("") == ["ddim", "dpmpp-2m"]
        assert offer("dp") == ["dpmpp-2m"]
        assert offer("x") == []


def test_whole_number() -> None:
    parse = whole("--crop", 32, 64)
    assert (parse("32"), parse("64"), parse(40)) == (32, 64, 40)
    assert whole("--seed", 0)("99999999999999999999") == 99999999999999999999


@pytest.mark.parametrize("text", ["", "x", "31", "65", "40.0", "-40", "4e1"])
def test_number_outside_its_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        whole("--crop", 32, 64)(text)
    assert str(caught.value) == f"--crop {text}: expected 32 to 64"
    with pytest.raises(UsageError) as caught:
        whole("--crop", 32, 64, "a side")(text)
    assert str(caught.value) == f"--crop {text}: expected a side"


def test_real_number() -> None:
    parse = real("--guidance", math.isfinite, "a finite number")
    assert (parse("2"), parse("-.5"), parse(1.0)) == (2.0, -0.5, 1.0)
    for text in ("nan", "inf", "x", ""):
        with pytest.raises(UsageError) as caught:
            parse(text)
        assert str(caught.value) == f"--guidance {text}: expected a finite number"


@pytest.mark.parametrize(
    ("text", "percent"), [("5%", 5.0), ("5", 5.0), ("0.5%", 0.5), ("100%", 100.0), ("0.001", 0.001)]
)
def test_percent(text: str, percent: float) -> None:
    assert parse_percent(text) == percent


@pytest.mark.parametrize("text", ["0", "0%", "100.1", "-5", "5%%", "%", "", "1e1", "nan"])
def test_malformed_percent_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--reencode .*expected a share such as 5%"):
        parse_percent(text)


def test_only_close_names_are_nearest() -> None:
    commands = ("encode", "decode", "export", "bench")
    assert find_nearest("encod", commands) == ["encode"]
    assert find_nearest("EXPORT", commands) == []
    assert find_nearest("max-pixel", ("max-side", "max-pixels")) == ["max-pixels"]
    assert find_nearest("ab", ("abc", "abd", "xyz")) == ["abc", "abd"]
    assert find_nearest("x", ()) == []
