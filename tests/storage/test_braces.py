"""Names that stand for several files."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from dinac_cli.errors import UsageError
from dinac_cli.storage.braces import expand_braces


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("s3://b/{00..02}.tar", ["s3://b/00.tar", "s3://b/01.tar", "s3://b/02.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{0..6..3}", ["0", "3", "6"]),
        ("{6..0..3}", ["6", "3", "0"]),
        ("{0..2..0}", ["0", "1", "2"]),
        ("{-1..1}", ["-1", "0", "1"]),
        ("{train,test}.tar", ["train.tar", "test.tar"]),
        ("x{,y}", ["x", "xy"]),
        ("{a,b}/{1..2}", ["a/1", "a/2", "b/1", "b/2"]),
        ("{a{1..2},b}", ["a1", "a2", "b"]),
        ("{a,{b,c}}", ["a", "b", "c"]),
        ("{a}", ["{a}"]),
        ("{}", ["{}"]),
        ("{a}{b,c}", ["{a}b", "{a}c"]),
        ("{{1..2}}", ["{1}", "{2}"]),
        ("{1..2", ["{1..2"]),
        ("1..2}", ["1..2}"]),
        ("}{1..2}{", ["}1{", "}2{"]),
        ("{1..}", ["{1..}"]),
        ("{1..a}", ["{1..a}"]),
    ],
)
def test_expansion(place: str, expected: list[str]) -> None:
    assert list(expand_braces(place)) == expected


def test_a_file_with_braces_in_its_name_is_meant_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "{a,b}.tar").touch()
    assert list(expand_braces("{a,b}.tar")) == ["{a,b}.tar"]
    assert list(expand_braces("{a,c}.tar")) == ["a.tar", "c.tar"]


@pytest.mark.parametrize(
    "place",
    [
        "{0..1000000}",
        "{0..999999999999999}",
        "{-999999999999999..999999999999999}",
        "{0..9}" * 7,
        "{a,{0..999999}}",
        "{" * 100_000,
        "{a,b}" * 100_000,
    ],
)
def test_huge_ranges_are_refused_before_memory_is_taken(place: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match="stands for more than 1,000,000 files; name fewer"):
            expand_braces(place)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_the_largest_range_is_expanded_as_it_is_read() -> None:
    tracemalloc.start()
    places = expand_braces("{000000..999999}.tar")
    assert next(places) == "000000.tar"
    assert sum(1 for _ in zip(places, range(10_000), strict=False)) == 10_000
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_the_message_hides_secrets() -> None:
    with pytest.raises(UsageError) as caught:
        expand_braces("https://user:pass@host/{0..9999999}.tar?signature=abc")
    assert str(caught.value).startswith("https://host/{0..9999999}.tar: stands for")
