"""Which names are valid, and how all other names are escaped."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinac_cli.container.names import check_name, escape_name, escape_text
from dinac_cli.errors import FormatError, Rejection

ALLOWED = [
    "a.jpg",
    "trip/day 1/a.jpg",
    "-rf",
    ".hidden/.a",
    "..a/...b",
    "[1] (2) {3}.png",
    "été/写真/фото.webp",
    "family👩‍👩‍👧.jpg",
    "100%.jpg",
    "a%2Fb",
    "12:30.png",
    "a b/c",
    " leading space",
    "CONSOLE.png",
    "COM10.png",
    "auxiliary.txt",
    "x" * 255,
    "é" * 127,
    "/".join(["x" * 255] * 16),
]

# raw name, its escape
ESCAPED = [
    ("/etc/passwd", "%2Fetc/passwd"),
    ("//host/share", "%2F/host/share"),
    ("a//b", "a%2F/b"),
    ("a/", "a%2F"),
    ("/", "%2F"),
    ("//", "%2F%2F"),
    (".", "%2E"),
    ("..", ".%2E"),
    ("../../a", ".%2E/.%2E/a"),
    ("a/./b", "a/%2E/b"),
    ("a\\b", "a%5Cb"),
    ("..\\..\\a", "..%5C..%5Ca"),
    ("a\0b", "a%00b"),
    ("a\nb", "a%0Ab"),
    ("\x1b[2J", "%1B[2J"),
    ("a\x7f", "a%7F"),
    ("a\x9bb", "a%C2%9Bb"),
    ("a\u2028b", "a%E2%80%A8b"),
    ("gpj\u202e.exe", "gpj%E2%80%AE.exe"),
    ("a\udcffb", "a%FFb"),
    ("a\ud800b", "a%ED%A0%80b"),
    ("C:a", "C%3Aa"),
    ("c:", "c%3A"),
    ("a/d:b", "a/d%3Ab"),
    ("CON", "%43ON"),
    ("nul.txt", "%6Eul.txt"),
    ("a/Aux .jpg", "a/%41ux .jpg"),
    ("com1:", "%63om1:"),
    ("LPT².png", "%4CPT².png"),
    ("CONIN$", "%43ONIN$"),
    ("CON.", "CON%2E"),
    ("a.", "a%2E"),
    ("a /b", "a%20/b"),
    ("...", "..%2E"),
    (" ", "%20"),
]


@pytest.mark.parametrize("name", ALLOWED)
def test_valid_name_is_unchanged(name: str) -> None:
    check_name(name)
    assert escape_name(name) == name


@pytest.mark.parametrize(("raw", "escaped"), ESCAPED)
def test_invalid_name_is_refused_and_escaped(raw: str, escaped: str) -> None:
    with pytest.raises(FormatError) as caught:
        check_name(raw)
    assert caught.value.rejection is Rejection.NAME
    assert escape_name(raw) == escaped
    check_name(escaped)


def test_empty_name_is_refused() -> None:
    with pytest.raises(FormatError, match="empty"):
        check_name("")


@pytest.mark.parametrize("name", ["a/" + "x" * 256, "é" * 128])
def test_long_component_is_refused(name: str) -> None:
    with pytest.raises(FormatError, match="component longer than 255 bytes"):
        check_name(name)


def test_shortened_component_keeps_its_suffix_and_stays_unique() -> None:
    names = [escape_name("dir/" + letter * 300 + "z.jpg") for letter in "ab"]
    names += [escape_name("dir/" + "a" * 300 + "y.jpg"), escape_name("dir/" + "写" * 100 + ".jpg")]
    for name in names:
        check_name(name)
        assert name.startswith("dir/")
        assert name.endswith(".jpg")
        assert 230 <= len(name.rpartition("/")[2].encode()) <= 240
    assert len(set(names)) == 4


def test_long_suffix_is_shortened_too() -> None:
    name = escape_name("a." + "b" * 300)
    check_name(name)
    assert name.startswith("a.bbb")
    assert len(name) == 240


def test_long_path_becomes_a_hash_and_the_last_component() -> None:
    raw = "/".join(["x" * 200] * 30 + ["a.jpg"])
    with pytest.raises(FormatError, match="longer than 4096 bytes"):
        check_name(raw)
    name = escape_name(raw)
    check_name(name)
    digest, last = name.split("/")
    assert (len(digest), last) == (8, "a.jpg")


def test_safe_text_is_not_escaped() -> None:
    assert escape_text("C:\\models\\é/ü.safetensors") == "C:\\models\\é/ü.safetensors"
    assert escape_text("a\x1b\udc80") == "a%1B%80"


def _is_refused(name: str) -> bool:
    try:
        check_name(name)
    except FormatError:
        return True
    return False


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("/\\.: aCONconul1é\0\udc80"), min_size=1) | st.text(min_size=1))
def test_escaped_name_is_valid_and_changed_only_if_refused(raw: str) -> None:
    escaped = escape_name(raw)
    assert not _is_refused(escaped)
    assert (escaped == raw) is not _is_refused(raw)


@settings(max_examples=200)
@given(st.text(st.sampled_from("/\\.~: aCON\0é\udc80"), min_size=1) | st.text(min_size=1))
def test_escaping_twice_changes_nothing_more(raw: str) -> None:
    escaped = escape_name(raw)
    assert escape_name(escaped) == escaped


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=600))
def test_any_bytes_of_a_file_name_can_be_escaped(raw: bytes) -> None:
    check_name(escape_name(os.fsdecode(raw)))
