"""Figures of the model: timing, operations, accuracy and comparison."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dinac_cli.bench import network
from dinac_cli.bench.contenders import (
    FAST,
    PLAIN,
    Calls,
    DinacContender,
    Flux2Contender,
    draw_network,
    list_contenders,
)
from dinac_cli.bench.network import (
    Comparison,
    NetworkFigures,
    check_accuracy,
    compare_with,
    count_flops,
    measure_networks,
)
from dinac_cli.errors import UsageError
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.config import DinacAEConfig

CPU = torch.device("cpu")
SMALL = DinacAEConfig(
    model_dim=128,
    encoder_depth=1,
    decoder_depth=3,
    decoder_start_blocks=1,
    decoder_end_blocks=1,
    adaln_low_rank_rank=4,
).without_class_head()


@pytest.fixture(scope="module")
def plain() -> DinacAE:
    return draw_network(SMALL, CPU, torch.float32)


def test_random_weights_are_nonzero_and_reproducible(plain: DinacAE) -> None:
    assert all(parameter.any() for parameter in plain.parameters())
    again = draw_network(SMALL, CPU, torch.bfloat16)
    for (name, drawn), other in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(drawn.to(other.dtype), other), name
    assert again.dtype == torch.bfloat16


def test_every_task_size_and_contender_has_a_row(plain: DinacAE) -> None:
    contenders = list_contenders(plain, compiled=False, compare=None)
    figures = list(measure_networks(contenders, plain, (32, 64), (), 1e12, seconds=0.0))
    assert [(f.task, f.steps, f.resolution, f.network) for f in figures] == [
        (task, steps, size, network)
        for task, steps in (("encode", 0), ("decode", 1), ("decode", 4))
        for size in (32, 64)
        for network in (PLAIN, FAST)
    ]
    sizes = {(f.task, f.steps, f.resolution) for f in figures}
    flops = {size: count_flops(SMALL, *size) for size in sizes}
    for row in figures:
        assert row.batch == 1
        assert row.images_per_second == pytest.approx(1000 / row.ms_per_image)
        ideal_seconds = flops[row.task, row.steps, row.resolution] / 1e12
        assert row.matmul_share == pytest.approx(ideal_seconds * row.images_per_second)
        weights = contenders[FAST].count_weight_bytes(row.task)
        assert row.peak_memory_mib is None or row.peak_memory_mib >= weights / 2**20
    plain_first = [f for f in figures if f.network == PLAIN]
    assert all(f.speedup == 1 for f in plain_first)


def test_requested_batches_are_timed(plain: DinacAE) -> None:
    contenders = {PLAIN: DinacContender(plain, plain)}
    figures = list(measure_networks(contenders, plain, (32,), (1, 3), 1e12, seconds=0.0))
    assert [f.batch for f in figures] == [1, 3] * 3
    for row in figures:
        assert row.ms_per_image == pytest.approx(row.ms_per_batch / row.batch)


class Recorded(DinacContender):
    """A contender that is timed otherwise than its memory is measured."""

    def __init__(self, plain: DinacAE) -> None:
        super().__init__(plain, plain)
        self.called: list[str] = []

    def prepare(self, task: str, steps: int, batch: int, side: int) -> Calls:
        def note(name: str) -> Tensor:
            self.called.append(name)
            return torch.zeros(1)

        return Calls(lambda: note("timed"), lambda: note("eager"))


def test_memory_is_that_of_the_call_that_is_not_recorded(
    plain: DinacAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recorded graph has its memory before it is called."""
    measured: list[str] = []

    def measure(work: Callable[[], object], device: torch.device) -> int:
        contender.called.clear()
        work()
        measured.extend(contender.called)
        return 2**20

    monkeypatch.setattr(network, "measure_growth", measure)
    contender = Recorded(plain)
    figures = list(measure_networks({PLAIN: contender}, plain, (32,), (), 1e12, seconds=0.0))
    assert measured == ["eager"] * len(figures) == ["eager"] * 3


def test_flops_of_the_published_model() -> None:
    d2 = DinacAEConfig().without_class_head()
    assert count_flops(d2, "encode", 0, 256) == pytest.approx(41.8e9, rel=0.01)
    assert count_flops(d2, "encode", 0, 512) == pytest.approx(189.6e9, rel=0.01)
    assert count_flops(d2, "decode", 1, 256) == pytest.approx(28.9e9, rel=0.01)
    assert count_flops(d2, "decode", 4, 256) == pytest.approx(4 * 28.9e9, rel=0.01)


def test_accuracy_of_the_fast_model_holds(plain: DinacAE) -> None:
    checks = check_accuracy(list_contenders(plain, compiled=False, compare=None), plain, 64)
    assert [(check.task, check.network) for check in checks] == [("encode", FAST), ("decode", FAST)]
    assert all(check.bound == 2e-5 and check.error > 0 and check.holds for check in checks)


def test_accuracy_of_a_wrong_model_does_not_hold(plain: DinacAE) -> None:
    torch.manual_seed(3)
    wrong = draw_network(replace(SMALL), CPU, torch.float32)
    wrong.encoder.blocks[0].mlp.up.weight.mul_(1.01)  # type: ignore[union-attr, operator]
    contenders = {PLAIN: DinacContender(plain, plain), FAST: DinacContender(wrong, plain)}
    encode, decode = check_accuracy(contenders, plain, 64)
    assert not encode.holds
    assert decode.holds


def make_figures(network: str, ms: float, mib: float | None) -> NetworkFigures:
    return NetworkFigures("encode", 0, network, 256, 1, ms, ms, 1000 / ms, mib, 0.5, 1.0)


def test_each_of_our_models_is_compared_with_the_other() -> None:
    figures = [make_figures(PLAIN, 80, 600), make_figures(FAST, 40, 300)]
    assert compare_with("flux2", [*figures, make_figures("flux2", 400, 1200)]) == [
        Comparison("encode", 256, 1, PLAIN, "flux2", 5.0, 0.5),
        Comparison("encode", 256, 1, FAST, "flux2", 10.0, 0.75),
    ]
    for row in compare_with("flux2", [*figures, make_figures("flux2", 400, None)]):
        assert row.memory_reduction is None
    assert compare_with("flux2", figures) == []


def test_missing_diffusers_suggests_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UsageError, match=r"pip install 'dinac-cli\[flux2\]'"):
        Flux2Contender(CPU, torch.float32)
