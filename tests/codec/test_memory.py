"""How much memory there is, as the kernel and a control group have it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dinac_cli.codec import memory
from dinac_cli.codec.memory import free_bytes, measure_token_bytes
from dinac_cli.models.dinac.config import DinacAEConfig

CPU = torch.device("cpu")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system that says of its memory what the files in this folder say: at first, nothing."""
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    return tmp_path


def test_nothing_is_known(system: Path) -> None:
    assert free_bytes(CPU) is None
    assert free_bytes(torch.device("meta")) is None


def test_kernels_estimate(system: Path) -> None:
    (system / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:     12 kB\n")
    assert free_bytes(CPU) == 12 * 1024


def test_control_group_leaves_less(system: Path) -> None:
    (system / "meminfo").write_text("MemAvailable: 1000 kB\n")
    (system / "memory.max").write_text("500000\n")
    (system / "memory.current").write_text("400000\n")
    (system / "memory.stat").write_text("anon 300000\nactive_file 30000\ninactive_file 60000\n")
    assert free_bytes(CPU) == 500000 - 400000 + 90000


def test_cache_of_files_is_no_used_memory(system: Path) -> None:
    """A run over many images fills its group with their bytes, which the kernel gives up."""
    (system / "memory.max").write_text("500000\n")
    (system / "memory.current").write_text("500000\n")
    (system / "memory.stat").write_text("anon 0\nactive_file 0\ninactive_file 499000\n")
    assert free_bytes(CPU) == 499000


def test_control_group_without_a_limit(system: Path) -> None:
    (system / "memory.max").write_text("max\n")
    (system / "memory.current").write_text("400000\n")
    (system / "memory.stat").write_text("")
    assert free_bytes(CPU) is None


def test_control_group_beyond_its_limit(system: Path) -> None:
    (system / "memory.max").write_text("5\n")
    (system / "memory.current").write_text("7\n")
    (system / "memory.stat").write_text("anon 7\n")
    assert free_bytes(CPU) == 0


def test_first_version_of_control_groups(system: Path) -> None:
    (system / "memory").mkdir()
    (system / "memory/memory.limit_in_bytes").write_text("1000\n")
    (system / "memory/memory.usage_in_bytes").write_text("900\n")
    (system / "memory/memory.stat").write_text("active_file 5\ntotal_active_file 50\n")
    assert free_bytes(CPU) == 150


def test_this_machine() -> None:
    size = free_bytes(CPU)
    assert size is None or size > 2**20


def test_token_bytes_of_the_released_network() -> None:
    floats = 2 * 4 * 896 + 6 * 896 + 4 * 3 * 16 * 16
    assert measure_token_bytes(DinacAEConfig()) == 4 * floats
