"""Descriptions: `key=value;key=value` texts, in a record's `image` field and an image's stamp."""

from __future__ import annotations

from collections.abc import Mapping


def parse_description(text: str, *, strict: bool = False) -> dict[str, str]:
    """Returns the pairs in their order; a key without `=` has the value "".

    If a key is repeated, the last value wins. With `strict`, raises ValueError for a repeated key
    and for a missing `=`.
    """
    pairs: dict[str, str] = {}
    for pair in filter(None, text.split(";")):
        key, sign, value = pair.partition("=")
        if strict and (not sign or key in pairs):
            raise ValueError(f"{pair[:40]!a} is not a key=value pair, or repeats a key")
        pairs[key] = value
    return pairs


def format_description(pairs: Mapping[str, object]) -> str:
    """Returns the text of `pairs`, in their order."""
    return ";".join(f"{key}={value}" for key, value in pairs.items())


def subtract_description(text: str, others: str) -> str:
    """Returns the pairs of `text` that `others` lacks; all of `text` if `others` lacks none.

    Either may also be a single word without `=`, which counts as one pair.
    """
    left = [pair for pair in text.split(";") if pair not in others.split(";")]
    return ";".join(left) or text
