"""A record's `compute` field: written by the engine, read when a record is re-encoded."""

from __future__ import annotations

import pytest
import torch

from dinac_cli.codec.compute import Compute


@pytest.mark.parametrize(
    ("compute", "text"),
    [
        (Compute("cpu", "f32"), "cpu/f32"),
        (Compute("cuda", "bf16"), "cuda/bf16"),
        (Compute("cpu", "bf16", compiled=True), "cpu/bf16/compiled"),
        (Compute("cuda", "bf16", step="torch"), "cuda/bf16/torch"),
        (Compute("cuda", "f32", step="plain"), "cuda/f32/plain"),
    ],
)
def test_text_round_trips(compute: Compute, text: str) -> None:
    assert str(compute) == text
    assert Compute.parse(text) == compute


@pytest.mark.parametrize(
    ("step", "compiled", "text"),
    [
        ("graphs", False, "cuda/bf16"),
        ("triton", False, "cuda/bf16"),
        ("torch", False, "cuda/bf16/torch"),
        ("plain", False, "cuda/bf16/plain"),
        ("torch", True, "cuda/bf16/compiled"),
        (None, False, "cuda/bf16"),
    ],
)
def test_steps_that_round_differently_are_named(
    step: str | None, compiled: bool, text: str
) -> None:
    device = torch.device("cuda:1")
    compute = Compute.from_torch(device, torch.bfloat16, compiled=compiled, step=step)
    assert str(compute) == text


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        ("cuda/bf16", "cuda/bf16/torch", True),
        ("cuda/bf16/plain", "cuda/bf16/torch", True),
        ("cuda/bf16/torch", "cuda/bf16/torch", False),
        ("cuda/bf16", "cuda/f32/torch", False),
        ("cpu/bf16", "cuda/bf16/torch", False),
        ("cuda/bf16/compiled", "cuda/bf16/torch", False),
    ],
)
def test_only_the_step_differs(one: str, other: str, differs: bool) -> None:
    first, second = Compute.parse(one), Compute.parse(other)
    assert first is not None
    assert second is not None
    assert first.differs_in_step(second) == second.differs_in_step(first) == differs


def test_unknown_parts_after_the_dtype_are_ignored() -> None:
    assert Compute.parse("tpu/f32/tiled/compiled") == Compute("tpu", "f32", compiled=True)
    assert Compute.parse("cpu/bf16/") == Compute("cpu", "bf16")


@pytest.mark.parametrize("text", ["", "cpu", "cpu/", "cpu/f16", "f32", "bf16/cpu"])
def test_text_without_a_dtype_is_not_parsed(text: str) -> None:
    assert Compute.parse(text) is None
