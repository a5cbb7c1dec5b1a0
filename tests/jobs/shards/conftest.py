"""Tests of shards compute with one thread: its number is among the settings of an OUT."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dinac_cli.jobs.shards import packing


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "BACKOFF_SECONDS", (0.0, 0.0, 0.0))
