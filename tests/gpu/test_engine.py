"""The engine on the device: the same bytes in any company, and graphs that change nothing."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from dinac_cli.codec.engine import Engine
from dinac_cli.errors import ImageError
from dinac_cli.images.pixels import Pixels
from dinac_cli.models.graphs import Compute, CudaRecorder
from dinac_cli.models.interface import DinacAEInferenceConfig

from .conftest import IS_GPU, load_nano, make_engine

SETTINGS = DinacAEInferenceConfig(seed=0)
SIDE = 64 if IS_GPU else 32
NINE = [(48 + 16 * (n % 3), 48 + 16 * (n // 3)) for n in range(9)]
LANDSCAPE, PORTRAIT = (3008, 4000), (4000, 3008)


def draw(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def encoder(named_step: str, device: torch.device) -> Engine:
    return make_engine("encoder")


@pytest.fixture
def decoder(named_step: str, device: torch.device) -> Engine:
    return make_engine("decoder")


def choose_places(engine: Engine) -> tuple[int, set[int]]:
    """Returns the number of images in a batch, and a few places there."""
    count = engine.batch_size(SIDE, SIDE)
    return count, {0, min(1, count - 1), count // 2, count - 1}


def test_latents_are_the_same_alone_and_at_every_place_of_a_batch(encoder: Engine) -> None:
    count, places = choose_places(encoder)
    image = draw(SIDE, SIDE)
    others = [draw(SIDE, SIDE, seed) for seed in range(1, count)]
    (alone,) = encoder.encode([image])
    for place in places:
        batch = [*others[:place], image, *others[place:]]
        assert np.array_equal(encoder.encode(batch)[place], alone)


def test_pixels_are_the_same_alone_and_at_every_place_of_a_batch(decoder: Engine) -> None:
    count, places = choose_places(decoder)
    rng = np.random.default_rng(0)
    shape = (128, SIDE // 16, SIDE // 16)
    latents = [rng.standard_normal(shape).astype(np.float32) for _ in range(count)]
    size = (SIDE, SIDE)
    (alone,) = decoder.decode(latents[:1], [size], SETTINGS)
    for place in places:
        batch = [*latents[1 : place + 1], latents[0], *latents[place + 1 :]]
        assert np.array_equal(decoder.decode(batch, [size] * count, SETTINGS)[place], alone)


def test_later_calls_give_the_bytes_of_the_first(encoder: Engine, decoder: Engine) -> None:
    """From the fourth call on, the first step of the ladder replays a graph."""
    images = [draw(SIDE, SIDE, seed) for seed in range(3)]
    first = [encoder.encode([image])[0] for image in images]
    pixels = [decoder.decode([z], [(SIDE, SIDE)], SETTINGS)[0] for z in first]
    for _ in range(4):
        for image, latents, decoded in zip(images, first, pixels, strict=True):
            assert np.array_equal(encoder.encode([image])[0], latents)
            assert np.array_equal(decoder.decode([latents], [(SIDE, SIDE)], SETTINGS)[0], decoded)
    assert encoder.take_remarks() == decoder.take_remarks() == []


def test_nine_sizes_in_turns(encoder: Engine, decoder: Engine) -> None:
    first: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    for _, size in itertools.product(range(6 if IS_GPU else 2), NINE):
        (latents,) = encoder.encode([draw(*size)])
        (pixels,) = decoder.decode([latents], [size], SETTINGS)
        expected = first.setdefault(size, (latents, pixels))
        assert np.array_equal(latents, expected[0])
        assert np.array_equal(pixels, expected[1])
    assert encoder.take_remarks() == decoder.take_remarks() == []


@pytest.mark.needs_gpu
def test_two_orientations_of_12_megapixels_in_turns(decoder: Engine) -> None:
    rng = np.random.default_rng(0)
    given = {
        size: rng.standard_normal((128, size[0] // 16, size[1] // 16)).astype(np.float32)
        for size in (LANDSCAPE, PORTRAIT)
    }
    first: dict[tuple[int, int], np.ndarray] = {}
    for _, size in itertools.product(range(6), given):
        (pixels,) = decoder.decode([given[size]], [size], SETTINGS)
        assert np.array_equal(pixels, first.setdefault(size, pixels))
    assert decoder.take_remarks() == []


@pytest.mark.parametrize("steps", [1, 4, 100] if IS_GPU else [1, 4])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_many_steps(decoder: Engine, steps: int, sampler: str) -> None:
    settings = DinacAEInferenceConfig(seed=0, num_steps=steps, sampler=sampler)
    latents = np.random.default_rng(0).standard_normal((128, 2, 3)).astype(np.float32)
    (first,) = decoder.decode([latents], [(32, 48)], settings)
    for _ in range(5):
        assert np.array_equal(decoder.decode([latents], [(32, 48)], settings)[0], first)
    assert decoder.take_remarks() == []


@pytest.mark.needs_gpu
def test_an_image_too_large_for_the_memory_is_one_failure(
    encoder: Engine, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    torch.cuda.set_per_process_memory_fraction(0.02, device)
    try:
        with pytest.raises(ImageError, match="out of memory on cuda"):
            encoder.encode([draw(16384, 16384)])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert encoder.encode([draw(SIDE, SIDE)])[0].shape == (128, SIDE // 16, SIDE // 16)


@pytest.mark.needs_gpu
def test_no_memory_while_a_graph_is_recorded(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DINAC_CUDA", "graphs")
    engine = make_engine("encoder")
    record, image = CudaRecorder.__call__, draw(512, 512)
    (first,) = engine.encode([image])

    def record_without_memory(recorder: CudaRecorder, compute: Compute, x: Tensor) -> Compute:
        torch.cuda.empty_cache()
        held = torch.cuda.memory_reserved(device)
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, 1.02 * held / total), device)
        try:
            return record(recorder, compute, x)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)

    monkeypatch.setattr(CudaRecorder, "__call__", record_without_memory)
    for _ in range(6):
        assert np.array_equal(engine.encode([image])[0], first)
    assert len(engine.take_remarks()) == 1


@pytest.mark.needs_gpu
def test_memory_stays_flat_over_200_batches(
    encoder: Engine, decoder: Engine, device: torch.device
) -> None:
    image = draw(256, 256)
    reserved = []
    for number in range(200):
        (latents,) = encoder.encode([image])
        decoder.decode([latents], [(256, 256)], SETTINGS)
        if number in (20, 199):
            gc.collect()
            reserved.append(torch.cuda.memory_reserved(device))
    assert reserved[1] <= reserved[0]


@pytest.mark.needs_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_second_device_computes_what_the_first_does() -> None:
    first, second = (load_nano("encoder", device=torch.device("cuda", n)).engine for n in (0, 1))
    image = draw(SIDE, SIDE)
    for _ in range(6):
        (ours,), (theirs,) = first.encode([image]), second.encode([image])
        assert np.abs(ours - theirs).max() <= 0.05
    if torch.cuda.get_device_name(0) == torch.cuda.get_device_name(1):
        assert np.array_equal(ours, theirs)
