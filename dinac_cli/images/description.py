"""Descriptions: texts like `key=value;key=value`, in a record's `image` field and in stamps."""

from __future__ import annotations

from collections.abc import Mapping


def parse_description(text: str, *, strict: bool = False) -> dict[str, str]:
    """Returns the pairs in their order.

    A key without `=` has the value "", and the last value of a repeated key wins. With `strict`,
    both raise ValueError.
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


def subtract_description(text: str, others: str) -> str:
    """Returns the pairs of `text` that are not in `others`; if all are, returns all of `text`.

    A word without `=` counts as a pair.
    """
    left = [pair for pair in text.split(";") if pair not in others.split(";")]
    return ";".join(left) or text
