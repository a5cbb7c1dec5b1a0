"""Figures of the network: what is counted, compared and refused."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from dinac_cli.bench.contenders import (
    FAST,
    PLAIN,
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


def test_random_weights_are_never_zero(plain: DinacAE) -> None:
    assert all(parameter.any() for parameter in plain.parameters())
    again = draw_network(SMALL, CPU, torch.bfloat16)
    for (name, one), other in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one.to(other.dtype), other), name
    assert again.dtype == torch.bfloat16


def test_every_task_size_and_contender_has_its_row(plain: DinacAE) -> None:
    contenders = list_contenders(plain, compiled=False, compare=None)
    figures = list(measure_networks(contenders, SMALL, CPU, (32, 64), (), 1e12, seconds=0.0))
    assert [(f.task, f.steps, f.resolution, f.network) for f in figures] == [
        (task, steps, size, network)
        for task, steps in (("encode", 0), ("decode", 1), ("decode", 4))
        for size in (32, 64)
        for network in (PLAIN, FAST)
    ]
    for one in figures:
        assert one.batch == 1
        assert one.images_per_second == pytest.approx(1000 / one.ms_per_image)
        flops = count_flops(SMALL, one.task, one.steps, one.resolution)
        assert one.matmul_share == pytest.approx(flops / 1e12 * one.images_per_second)
        weights = contenders[FAST].count_weight_bytes(one.task)
        assert one.peak_memory_mib is None or one.peak_memory_mib >= weights / 2**20
    plain_first = [f for f in figures if f.network == PLAIN]
    assert all(f.speedup == 1 for f in plain_first)


def test_batches_are_taken_as_named(plain: DinacAE) -> None:
    contenders = {PLAIN: DinacContender(plain, plain)}
    figures = list(measure_networks(contenders, SMALL, CPU, (32,), (1, 3), 1e12, seconds=0.0))
    assert [f.batch for f in figures] == [1, 3] * 3
    for one in figures:
        assert one.ms_per_image == pytest.approx(one.ms_per_batch / one.batch)


def test_flops_of_the_published_network() -> None:
    d2 = DinacAEConfig().without_class_head()
    assert count_flops(d2, "encode", 0, 256) == pytest.approx(41.8e9, rel=0.01)
    assert count_flops(d2, "encode", 0, 512) == pytest.approx(189.6e9, rel=0.01)
    assert count_flops(d2, "decode", 1, 256) == pytest.approx(28.9e9, rel=0.01)
    assert count_flops(d2, "decode", 4, 256) == pytest.approx(4 * 28.9e9, rel=0.01)


def test_accuracy_of_the_fast_network_holds(plain: DinacAE) -> None:
    checks = check_accuracy(list_contenders(plain, compiled=False, compare=None), plain, 64)
    assert [(check.task, check.network) for check in checks] == [("encode", FAST), ("decode", FAST)]
    assert all(check.bound == 2e-5 and check.error > 0 and check.holds for check in checks)


def test_accuracy_of_a_wrong_network_does_not_hold(plain: DinacAE) -> None:
    torch.manual_seed(3)
    wrong = draw_network(replace(SMALL), CPU, torch.float32)
    wrong.encoder.blocks[0].mlp.up.weight.mul_(1.01)  # type: ignore[union-attr, operator]
    contenders = {PLAIN: DinacContender(plain, plain), FAST: DinacContender(wrong, plain)}
    encode, decode = check_accuracy(contenders, plain, 64)
    assert not encode.holds
    assert decode.holds


def make_figures(network: str, ms: float, mib: float | None) -> NetworkFigures:
    return NetworkFigures("encode", 0, network, 256, 1, ms, ms, 1000 / ms, mib, 0.5, 1.0)


def test_comparison_is_of_ours_against_another() -> None:
    figures = [make_figures(PLAIN, 80, 600), make_figures(FAST, 40, 300)]
    assert compare_with("flux2", [*figures, make_figures("flux2", 400, 1200)]) == [
        Comparison("encode", 256, 1, PLAIN, "flux2", 5.0, 0.5),
        Comparison("encode", 256, 1, FAST, "flux2", 10.0, 0.75),
    ]
    for row in compare_with("flux2", [*figures, make_figures("flux2", 400, None)]):
        assert row.memory_reduction is None
    assert compare_with("flux2", figures) == []


def test_without_diffusers_there_is_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UsageError, match=r"pip install 'dinac-cli\[compare\]'"):
        Flux2Contender(CPU, torch.float32)
