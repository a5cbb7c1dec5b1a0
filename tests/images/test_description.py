"""Descriptions (`key=value;key=value`) are parsed and formatted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinac_cli.images.description import format_description, parse_description

KEYS = st.text(st.characters(exclude_characters=";=", exclude_categories=["Cs"]), min_size=1)
VALUES = st.text(st.characters(exclude_characters=";", exclude_categories=["Cs"]))


@given(st.dictionaries(KEYS, VALUES))
def test_formatted_pairs_are_parsed_in_order(pairs: dict[str, str]) -> None:
    parsed = parse_description(format_description(pairs), strict=True)
    assert list(parsed.items()) == list(pairs.items())


def test_malformed_pairs_are_parsed_leniently() -> None:
    assert parse_description("a=1;b=x=y;;c;a=2") == {"a": "2", "b": "x=y", "c": ""}
    assert parse_description("") == {}


@pytest.mark.parametrize("text", ["a=1;b", "a=1;a=2"])
def test_strict_parser_refuses_malformed_pairs(text: str) -> None:
    with pytest.raises(ValueError, match="is not a key=value pair, or repeats a key"):
        parse_description(text, strict=True)
