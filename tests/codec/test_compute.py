"""A record's `compute` field: written by the engine, read when a record is re-encoded."""

from __future__ import annotations

import pytest

from dinac_cli.codec.compute import Compute


@pytest.mark.parametrize(
    ("compute", "text"),
    [
        (Compute("cpu", "f32"), "cpu/f32"),
        (Compute("cuda", "bf16"), "cuda/bf16"),
        (Compute("cpu", "bf16", compiled=True), "cpu/bf16/compiled"),
    ],
)
def test_text_round_trips(compute: Compute, text: str) -> None:
    assert str(compute) == text
    assert Compute.parse(text) == compute


def test_unknown_parts_after_the_dtype_are_ignored() -> None:
    assert Compute.parse("tpu/f32/tiled/compiled") == Compute("tpu", "f32", compiled=True)
    assert Compute.parse("cpu/bf16/") == Compute("cpu", "bf16")


@pytest.mark.parametrize("text", ["", "cpu", "cpu/", "cpu/f16", "f32", "bf16/cpu"])
def test_text_without_a_dtype_is_not_parsed(text: str) -> None:
    assert Compute.parse(text) is None
