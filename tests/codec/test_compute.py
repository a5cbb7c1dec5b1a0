"""`--device`, and a record's `compute` field: it is read when a record is re-encoded."""

from __future__ import annotations

import re

import pytest
import torch

from dinac_cli.codec.compute import (
    Compute,
    check_device,
    find_devices,
    parse_devices,
    refuse_devices,
)
from dinac_cli.errors import DeviceError, UsageError


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


CHOICES = (
    "choose one of auto, cpu, cuda, cuda:N, mps; encode and decode also take all or a list such as "
    "cuda:0,cuda:1"
)
GAP = "a name is missing beside a comma; write a list such as cuda:0,cuda:1"
MIXED = "{} cannot be in a list; name CUDA devices by number, such as cuda:0,cuda:1"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", CHOICES),
        ("gpu", CHOICES),
        ("cuda:", CHOICES),
        ("cuda:0, cuda:1", CHOICES),
        ("cuda:0,gpu", CHOICES),
        ("cuda:0,", GAP),
        (",cuda:0", GAP),
        ("cuda:0,,cuda:1", GAP),
        (",", GAP),
        ("auto,cuda:0", MIXED.format("auto")),
        ("cuda:0,all", MIXED.format("all")),
        ("all,all", MIXED.format("all")),
        ("cpu,cuda:0", MIXED.format("cpu")),
        ("cuda,cuda:0", MIXED.format("cuda")),
        ("cuda:1,mps", MIXED.format("mps")),
        ("cpu,cpu", MIXED.format("cpu")),
        ("cuda:0,cuda:0", "cuda:0 is named twice; name each device once"),
        ("cuda:0,cuda:2,cuda:1,cuda:2", "cuda:2 is named twice; name each device once"),
    ],
)
def test_wrong_devices_are_refused(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(f'--device {text}: {problem}')}$"):
        check_device(text)


@pytest.mark.parametrize(
    "text",
    ["auto", "all", "cpu", "mps", "cuda", "cuda:7", "cuda:1,cuda:0", "cuda:0,cuda:1,cuda:12"],
)
def test_devices_are_parsed(text: str) -> None:
    assert check_device(text) == text
    assert parse_devices(text) == tuple(text.split(","))


def test_several_devices_are_refused_by_name() -> None:
    for text in ("all", "cuda:0,cuda:1"):
        with pytest.raises(UsageError) as caught:
            refuse_devices(text, "bench")
        message = f"--device {text}: bench computes on one device; name one device"
        assert str(caught.value) == message
    for text in ("auto", "cuda:3"):
        refuse_devices(text, "bench")


def test_found_devices_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert find_devices("all") == ("cuda:0", "cuda:1")
    assert find_devices("cuda:1,cuda:0") == ("cuda:1", "cuda:0")
    assert find_devices("cuda:9") == ("cuda:9",)  # checked when a model loads
    with pytest.raises(DeviceError, match=r"^device cuda:2 is not available; torch finds only "):
        find_devices("cuda:0,cuda:2")
