"""Descriptions: texts like `key=value;key=value` in stamps and in the `image` field of records."""

from __future__ import annotations

from collections.abc import Mapping


def parse_description(text: str, *, strict: bool = False) -> dict[str, str]:
    """Returns the pairs of a description, in their order.

    A key without `=` has the value "". If a key is repeated, its last value is used. If `strict` is
    true, raises ValueError for a key without `=` and for a repeated key.
    """
    pairs: dict[str, str] = {}
    for pair in filter(None, text.split(";")):
        key, sign, value = pair.partition("=")
        if strict and (not sign or key in pairs):
            raise ValueError(f"{pair[:40]!a} is not a key=value pair, or repeats a key")
        pairs[key] = value
    return pairs


def format_description(pairs: Mapping[str, object]) -> str:
    """Returns `pairs` as a description, in their order."""
    return ";".join(f"{key}={value}" for key, value in pairs.items())
