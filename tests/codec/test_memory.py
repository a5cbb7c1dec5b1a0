"""Free memory according to the kernel and the control group."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dinac_cli.codec import memory
from dinac_cli.codec.memory import free_bytes, measure_room
from dinac_cli.models.dinac.config import DinacAEConfig

CPU = torch.device("cpu")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the system's memory files, empty at first."""
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    return tmp_path


def test_free_memory_may_be_unknown(system: Path) -> None:
    assert free_bytes(CPU) is None
    assert free_bytes(torch.device("meta")) is None


def test_estimate_of_the_kernel_is_used(system: Path) -> None:
    (system / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:     12 kB\n")
    assert free_bytes(CPU) == 12 * 1024


def test_control_group_limits_the_estimate(system: Path) -> None:
    (system / "meminfo").write_text("MemAvailable: 1000 kB\n")
    (system / "memory.max").write_text("500000\n")
    (system / "memory.current").write_text("400000\n")
    (system / "memory.stat").write_text("anon 300000\nactive_file 30000\ninactive_file 60000\n")
    assert free_bytes(CPU) == 500000 - 400000 + 90000


def test_page_cache_counts_as_free(system: Path) -> None:
    (system / "memory.max").write_text("500000\n")
    (system / "memory.current").write_text("500000\n")
    (system / "memory.stat").write_text("anon 0\nactive_file 0\ninactive_file 499000\n")
    assert free_bytes(CPU) == 499000


def test_control_group_without_a_limit_is_ignored(system: Path) -> None:
    (system / "memory.max").write_text("max\n")
    (system / "memory.current").write_text("400000\n")
    (system / "memory.stat").write_text("")
    assert free_bytes(CPU) is None


def test_control_group_over_its_limit_leaves_nothing(system: Path) -> None:
    (system / "memory.max").write_text("5\n")
    (system / "memory.current").write_text("7\n")
    (system / "memory.stat").write_text("anon 7\n")
    assert free_bytes(CPU) == 0


def test_version_1_of_control_groups_is_read(system: Path) -> None:
    (system / "memory").mkdir()
    (system / "memory/memory.limit_in_bytes").write_text("1000\n")
    (system / "memory/memory.usage_in_bytes").write_text("900\n")
    (system / "memory/memory.stat").write_text("active_file 5\ntotal_active_file 50\n")
    assert free_bytes(CPU) == 150


def test_memory_of_a_gpu_that_torch_holds_but_does_not_use_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 480)
    assert free_bytes(torch.device("cuda:0")) == 120


def test_the_room_on_a_gpu_counts_activations_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10_000, 20_000))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 300)
    free, used = measure_room(torch.device("cuda:0")) or (0, 0)
    assert free == 10_000 - 400
    assert used == 700 + 400 + memory._CONTEXT_BYTES
    assert measure_room(CPU) is None


def test_free_memory_of_this_machine_is_plausible() -> None:
    size = free_bytes(CPU)
    assert size is None or size > 2**20


def test_token_bytes_of_the_released_model() -> None:
    floats = 2 * 4 * 896 + 6 * 896 + 4 * 3 * 16 * 16
    assert DinacAEConfig().traits.token_bytes == 4 * floats
