"""Torch, devices and compilers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dinac_cli.doctor import hardware, probe
from dinac_cli.doctor.finding import Level
from dinac_cli.doctor.hardware import (
    judge_compilers,
    judge_device,
    judge_torch,
    measure_compilers,
    measure_device,
    read_driver,
)

from .canned import CPU, CUDA

DEVICE, COMPILER = CPU[probe.DEVICE], CPU[probe.COMPILER]
ABSENT = "device cuda is not available; torch finds only cpu; use --device auto"


def test_this_machine_is_measured() -> None:
    facts = measure_device("cpu")
    assert (facts["torch"], facts["device"], facts["kind"]) == (torch.__version__, "cpu", "cpu")
    assert "cpu" in facts["devices"]
    absent = measure_device("cuda:99")
    assert absent["device"] is None
    assert absent["problem"].startswith("device cuda:99 is not available; ")


@pytest.mark.parametrize(("asked", "level"), [("auto", Level.FAIL), ("cpu", Level.OK)])
def test_a_driver_that_fails_matters_only_to_runs_on_the_gpu(
    asked: str, level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(index: object = 0) -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old\nmore")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", fail)
    monkeypatch.setattr(torch.cuda, "current_device", fail)
    facts = {**measure_device(asked), "cuda": "13.0"}
    found = judge_device(facts)
    assert found.level is level
    if asked == "auto":
        assert found.text.startswith("cuda:0 failed: RuntimeError: The NVIDIA driver on your")
        assert found.remedy.startswith("check the driver: nvidia-smi")
        assert found.remedy.endswith("; or use --device cpu")


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 2024", "550.54.15"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build",
            "580.65.06",
        ),
        ("something else", None),
    ],
)
def test_the_version_of_the_driver(line: str, version: str | None, tmp_path: Path) -> None:
    path = tmp_path / "version"
    path.write_text(f"{line}\nGCC version:  gcc version 12.3.0\n")
    assert read_driver(path) == version
    assert read_driver(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "2.13.0+cpu, built for CPUs"),
        ({"cuda": "13.0"}, "2.13.0+cpu, built for CUDA 13.0"),
        ({"hip": "7.0"}, "2.13.0+cpu, built for ROCm 7.0"),
    ],
)
def test_the_build_of_torch(changes: dict[str, Any], text: str) -> None:
    assert judge_torch({**DEVICE, **changes}).text == text


@pytest.mark.parametrize(
    ("facts", "level", "text", "remedy"),
    [
        (DEVICE, Level.NOTE, "because no GPU was found", "if this machine has a GPU"),
        ({**DEVICE, "asked": "cpu"}, Level.OK, "--device or DINAC_DEVICE is cpu", ""),
        ({**DEVICE, "gpu_driver": True}, Level.NOTE, "torch sees no GPU", "install a torch with"),
        (
            {**DEVICE, "gpu_driver": True, "cuda": "13.0"},
            Level.NOTE,
            "torch sees no GPU",
            "check the driver",
        ),
        (
            CUDA[probe.DEVICE],
            Level.OK,
            "cuda:0 computes: NVIDIA H200, capability 9.0, 141 GiB, driver 580.65.06",
            "",
        ),
        (
            {**DEVICE, "device": "mps", "kind": "mps", "devices": {"mps": {}, "cpu": {}}},
            Level.OK,
            "mps computes",
            "",
        ),
        (
            {**DEVICE, "asked": "cuda", "device": None, "kind": None, "problem": ABSENT},
            Level.FAIL,
            "device cuda is not available; torch finds only cpu",
            "install a torch with CUDA or ROCm, as pytorch.org says; or use --device auto",
        ),
        (
            {**DEVICE, "asked": "mps", "device": None, "kind": None, "problem": ABSENT},
            Level.FAIL,
            "is not available",
            "use --device auto",
        ),
    ],
)
def test_devices_are_judged(facts: dict[str, Any], level: Level, text: str, remedy: str) -> None:
    found = judge_device(facts)
    assert found.level is level
    assert text in found.text
    assert found.remedy.startswith(remedy)


def test_compilers_are_found_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    facts = measure_compilers()
    assert (facts["c"], facts["c++"]) == (None, None)
    assert facts["triton_cache"]["writable"] is True
    for name in ("clang", "my-c++"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("CXX", f"{tmp_path}/my-c++ -O1")
    facts = measure_compilers()
    assert (facts["c"], facts["c++"]) == (f"{tmp_path}/clang", f"{tmp_path}/my-c++")


def test_on_a_cpu_only_compile_needs_a_compiler() -> None:
    assert judge_compilers(COMPILER, "cpu").level is Level.OK
    found = judge_compilers({**COMPILER, "c++": None}, "cpu")
    assert found.level is Level.NOTE
    assert "only --compile needs one" in found.text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"triton": None}, "Triton"),
        ({"c": None}, "a C compiler"),
        ({"python_headers": False}, "Python's headers"),
        ({"triton_cache": {"folder": "/x", "writable": False}}, "a writable cache folder"),
    ],
)
def test_kernels_need_four_things_on_a_gpu(changes: dict[str, Any], text: str) -> None:
    assert judge_compilers(COMPILER, "cuda").level is Level.OK
    found = judge_compilers({**COMPILER, **changes}, "cuda")
    assert found.level is Level.NOTE
    assert found.text.startswith(f"fast GPU kernels need {text}; ")


def test_the_devices_of_a_gpu_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name, major, minor, total_memory = "NVIDIA H200", 9, 0, 151_397_597_184

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    facts = measure_device("auto")
    assert (facts["device"], facts["kind"]) == ("cuda:0", "cuda")
    assert judge_device(facts).text == "cuda:0 computes: NVIDIA H200, capability 9.0, 141 GiB"
    assert measure_device("cuda")["device"] == "cuda:0"
    assert hardware._list_devices()["cuda:0"]["name"] == "NVIDIA H200"
