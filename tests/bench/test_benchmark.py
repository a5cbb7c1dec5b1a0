"""A benchmark of real commands."""

from __future__ import annotations

import sys

import pytest
import torch

from dinac_cli.bench import benchmark, processes
from dinac_cli.bench.benchmark import Benchmark, BenchRequest
from dinac_cli.codec.handle import DeviceChoice
from dinac_cli.models.registry import open_nano


def make_request(device: str, file_counts: tuple[int, ...] = ()) -> BenchRequest:
    return BenchRequest(
        model=open_nano(),
        random_weights=None,
        choice=DeviceChoice(device=device, dtype="bf16"),
        compare=None,
        resolutions=(),
        batches=(),
        images=(),
        file_counts=file_counts,
        workers=1,
        seconds=0.0,
    )


def test_commands_run_on_samples_with_the_requested_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "REPEATS", 1)
    figures = list(Benchmark(make_request("cpu", (2,))).measure_commands())
    assert [(row.command, row.files) for row in figures] == [("encode", 2), ("decode", 2)]
    for row in figures:
        assert 0 < row.first_file_seconds <= row.seconds
        assert sys.platform != "linux" or (row.peak_memory_mib or 0) > 50


def test_the_measured_gpu_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton launches its kernels on the current device."""
    current: list[torch.device] = []
    monkeypatch.setattr(benchmark, "resolve_device", torch.device)
    monkeypatch.setattr(benchmark, "prepare_device", current.append)
    Benchmark(make_request("cuda:1"))
    assert current == [torch.device("cuda:1")]
