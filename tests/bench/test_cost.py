"""Predicted speed: the kernels that are counted, and how long they take on a GPU."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from dinac_cli.bench import benchmark, cost
from dinac_cli.bench.benchmark import Benchmark, BenchRequest
from dinac_cli.bench.cost import GPUS, Cost, Gpu, Kernel, count_cost, find_gpu
from dinac_cli.bench.network import NetworkFigures, count_flops
from dinac_cli.codec.handle import DeviceChoice
from dinac_cli.models.dinac.config import RELEASED
from dinac_cli.models.dinac.fast.autoencoder import accelerate
from dinac_cli.models.dinac.fast.ladder import Choice
from dinac_cli.models.interface import GRAPHS, PLAIN, TORCH, DinacAEInferenceConfig

from ..models.conftest import triton_operations
from ..models.launches import build_on_meta, record_launches

__all__ = ["triton_operations"]

D2 = RELEASED["d2"]
EVEN = Gpu("even", "even", 1e12 / 0.8, 1e12 / 0.8, 1e12 / 0.8, 1, 1e12 / 128)
"""A GPU that moves one byte, does one FLOP or starts one instruction per picosecond."""


def count(network: str, task: str, steps: int, resolution: int = 256) -> Cost:
    return count_cost(D2, torch.bfloat16, network, task, steps, resolution)


def test_published_speed_of_the_plain_model_is_predicted() -> None:
    """Source: the model card of DINAC-AE-D2, for encoding on an RTX 5090 in bfloat16."""
    gpu = find_gpu("NVIDIA GeForce RTX 5090")
    assert gpu is not None
    for resolution, published in ((256, 1840), (512, 426)):
        predicted = count(PLAIN, "encode", 0, resolution).predict_rate(gpu)
        assert predicted == pytest.approx(published, rel=0.25)


def test_each_step_of_the_ladder_is_slower_than_the_one_before() -> None:
    for task, steps in (("encode", 0), ("decode", 1)):
        graphs, plain = (count(network, task, steps) for network in (GRAPHS, PLAIN))
        assert len(graphs.kernels) < len(plain.kernels) / 2
        assert graphs.size_bytes < plain.size_bytes / 2
        for gpu in GPUS:
            assert graphs.predict_rate(gpu) > 1.3 * plain.predict_rate(gpu)


@pytest.mark.parametrize(("task", "steps"), [("encode", 0), ("decode", 1), ("decode", 4)])
def test_flops_are_those_of_the_network(task: str, steps: int) -> None:
    counted = count(PLAIN, task, steps)
    flops = counted.batch * count_flops(D2, task, steps, 256)
    assert counted.flops == pytest.approx(flops, rel=0.02)  # all images share the first noise
    assert count(TORCH, task, steps).flops <= counted.flops


@pytest.mark.parametrize("task", ["encode", "decode"])
@pytest.mark.usefixtures("triton_operations")
def test_kernels_are_those_that_the_network_launches(
    task: str, request: pytest.FixtureRequest
) -> None:
    operations = request.getfixturevalue("triton_operations")
    with record_launches(operations) as launches, torch.inference_mode():
        fast = accelerate(build_on_meta(D2, torch.bfloat16), operations)
        pixels = torch.empty(32, 256, 256, 3, dtype=torch.uint8, device="meta")
        latents = torch.empty(32, D2.bottleneck_dim, 16, 16, device="meta")
        for _ in range(2):
            launches.clear()
            if task == "encode":
                fast.encode_pixels(pixels)
            else:
                fast.decode_pixels(latents, DinacAEInferenceConfig(seed=0))
    counted = count(GRAPHS, task, int(task == "decode")).kernels
    launched = Counter(launch.kernel for launch in launches.triton)
    assert launched
    assert Counter(one.name for one in counted if one.name in launched) == launched
    assert set(cost.INSTRUCTIONS) <= set(dir(operations.kernels))


def test_copies_are_kernels_but_views_and_allocations_are_not() -> None:
    plain, graphs = (
        Counter(one.name for one in count(network, task, steps).kernels)
        for network, task, steps in ((PLAIN, "encode", 0), (GRAPHS, "decode", 1))
    )
    assert plain["flatten"] == 1  # cuts the images into patches; the other ones copy nothing
    assert not {"new_empty", "empty_like", "expand", "view", "flatten"} & set(graphs)
    assert graphs["add_"] == 1


@pytest.mark.parametrize(
    ("kernel", "picoseconds"),
    [
        (Kernel("copies", 7), 7),
        (Kernel("multiplies", 7, flops=9), 9),
        (Kernel("multiplies", 7, flops=9, kind="bf16"), 9),
        (Kernel("multiplies", 7, flops=9, kind="tf32"), 18),
        (Kernel("computes", 7, flops=9, instructions=11), 11),
    ],
)
def test_the_slowest_part_of_a_kernel_is_its_time(kernel: Kernel, picoseconds: float) -> None:
    assert kernel.predict_seconds(EVEN) == pytest.approx(picoseconds * 1e-12)


def test_gaps_between_kernels_are_shorter_in_graphs() -> None:
    kernels = [Kernel("nothing", 0)] * 10
    rates = [
        Cost("encode", 0, network, 256, 5, kernels).predict_rate(EVEN)
        for network in (PLAIN, GRAPHS)
    ]
    assert rates == [pytest.approx(5 / 20e-6), pytest.approx(5 / 10e-6)]


def test_float32_has_no_tensor_cores() -> None:
    exact = count_cost(D2, torch.float32, PLAIN, "encode", 0, 256)
    rounded = count(PLAIN, "encode", 0)
    for gpu in GPUS:
        assert exact.predict_rate(gpu) < rounded.predict_rate(gpu)


@pytest.mark.parametrize("step", [GRAPHS, TORCH])
def test_measured_figures_of_a_known_gpu_are_compared(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast model is compared with the step that it computes on."""
    monkeypatch.setattr(benchmark, "resolve_device", torch.device)
    monkeypatch.setattr(benchmark, "prepare_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(benchmark, "choose_step", lambda *arguments: Choice(step))
    request = BenchRequest(
        model=None,
        random_weights="d2",
        choice=DeviceChoice(device="cuda:0", dtype="bf16"),
        compare=None,
        resolutions=(256,),
        batches=(),
        images=(),
        file_counts=(),
        workers=1,
        seconds=0.0,
    )
    rows = [
        NetworkFigures("encode", 0, network, 256, 32, 1.0, 1.0, 4000.0, None, None, 1.0)
        for network in ("plain", "fast", "compiled")
    ]
    gpu = find_gpu("NVIDIA H200")
    assert gpu is not None
    predicted = [count(network, "encode", 0).predict_rate(gpu) for network in (PLAIN, step)]
    assert list(Benchmark(request).compare_with_predictions(rows)) == [
        f"encode 256, batch 32, {name}: 4000 images/s, {4000 / rate:.2f} times the "
        f"predicted {rate:.0f}"
        for name, rate in zip(("plain", "fast"), predicted, strict=True)
    ]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "another GPU")
    assert list(Benchmark(request).compare_with_predictions(rows)) == []
