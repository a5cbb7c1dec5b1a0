"""Pixels to latents and back: exact at the edges, the same in any company, calm without memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from dinac_cli.codec import engine as engine_module
from dinac_cli.codec.engine import Engine
from dinac_cli.codec.flight import Array, Download, Transfer
from dinac_cli.codec.handle import ModelHandle
from dinac_cli.codec.memory import measure_token_bytes
from dinac_cli.errors import DeviceError, ImageError
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.config import DinacAEConfig, DinacAEInferenceConfig

SETTINGS = DinacAEInferenceConfig(seed=0)

Pixels = npt.NDArray[np.uint8]


@dataclass
class Mirror:
    """A model whose latents are the pixels themselves, and which may fail before that."""

    config: DinacAEConfig = field(default_factory=lambda: DinacAEConfig(patch_size=1))
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    is_compiled: bool = False
    failures: list[Exception] = field(default_factory=list)
    calls: int = 0

    def encode(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return images

    def decode(
        self, latents: Tensor, height: int, width: int, settings: DinacAEInferenceConfig
    ) -> Tensor:
        assert latents.shape[2:] == (height, width)
        return self.encode(latents)


def make_engine(model: Mirror) -> Engine:
    return Engine(cast(DinacAE, model))


def draw(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def batches_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shape of a graphics card's calls, on the processor."""
    monkeypatch.setattr(Engine, "batch_size", lambda self, height, width: 4)


class TestPixels:
    def test_all_levels_map_to_the_interval(self) -> None:
        levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
        (latents,) = make_engine(Mirror()).encode([levels])
        expected = levels.transpose(2, 0, 1).astype(np.float64) / 127.5 - 1
        assert latents.dtype == np.float32
        assert np.abs(latents - expected).max() < 1e-7
        assert (latents.min(), latents.max()) == (-1, 1)

    def test_way_there_and_back_is_the_identity(self) -> None:
        levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
        engine = make_engine(Mirror())
        (back,) = engine.decode(engine.encode([levels]), [(16, 16)], SETTINGS)
        assert back.dtype == np.uint8
        assert back.flags["C_CONTIGUOUS"]
        assert np.array_equal(back, levels)

    @pytest.mark.parametrize(
        ("value", "level"), [(-3.0, 0), (-1.0, 0), (0.0, 128), (0.999, 255), (1.0, 255), (7.0, 255)]
    )
    def test_values_beyond_are_clamped_and_halves_go_to_even(
        self, value: float, level: int
    ) -> None:
        latents = np.full((3, 2, 2), value, dtype=np.float32)
        (pixels,) = make_engine(Mirror()).decode([latents], [(2, 2)], SETTINGS)
        assert (pixels == level).all()

    def test_edges_are_repeated_and_cut_off_again(self) -> None:
        engine = make_engine(Mirror(config=DinacAEConfig(patch_size=16)))
        pixels = draw(17, 5)
        (latents,) = engine.encode([pixels])
        assert latents.shape == (3, 32, 16)
        assert np.array_equal(latents[:, :, 5], latents[:, :, 15])
        assert np.array_equal(latents[:, 16], latents[:, 31])


class TestBatch:
    def test_size_on_the_processor_is_one(self, encoder: ModelHandle) -> None:
        assert encoder.engine.batch_size(16, 16) == 1

    @pytest.mark.parametrize(
        ("height", "width", "size"),
        [(16, 16, 8192), (256, 256, 32), (512, 512, 8), (4096, 4096, 1)],
    )
    def test_size_elsewhere_is_a_function_of_the_padded_size(
        self, height: int, width: int, size: int
    ) -> None:
        model = Mirror(config=DinacAEConfig(patch_size=16), device=torch.device("meta"))
        assert make_engine(model).batch_size(height, width) == size

    @pytest.mark.usefixtures("batches_of_four")
    def test_every_call_is_a_whole_batch(self) -> None:
        shapes = []

        class Watched(Mirror):
            def encode(self, images: Tensor) -> Tensor:
                shapes.append(tuple(images.shape))
                return images

        engine = make_engine(Watched())
        latents = engine.encode([draw(8, 8, seed) for seed in range(3)])
        engine.decode(latents, [(8, 8)] * 3, SETTINGS)
        assert shapes == [(4, 3, 8, 8)] * 2

    @pytest.mark.usefixtures("batches_of_four")
    def test_latents_are_the_same_alone_and_in_company(self, encoder: ModelHandle) -> None:
        images = [draw(33, 48, 1), draw(48, 40, 2), draw(48, 48, 3)]  # one padded size
        together = encoder.engine.encode(images)
        for image, latents in zip(images, together, strict=True):
            assert latents.shape == (8, 3, 3)
            assert np.array_equal(encoder.engine.encode([image])[0], latents)

    @pytest.mark.usefixtures("batches_of_four")
    def test_images_are_the_same_alone_and_in_company(self, decoder: ModelHandle) -> None:
        rng = np.random.default_rng(0)
        latents = [rng.standard_normal((8, 2, 3)).astype(np.float32) for _ in range(3)]
        sizes = [(32, 48), (17, 33), (30, 48)]
        together = decoder.engine.decode(latents, sizes, SETTINGS)
        for one, size, pixels in zip(latents, sizes, together, strict=True):
            assert pixels.shape == (*size, 3)
            assert np.array_equal(decoder.engine.decode([one], [size], SETTINGS)[0], pixels)

    def test_compute_says_device_and_type(self, encoder: ModelHandle) -> None:
        assert encoder.engine.compute == "cpu/f32"
        assert make_engine(Mirror(dtype=torch.bfloat16)).compute == "cpu/bf16"
        assert make_engine(Mirror(is_compiled=True)).compute == "cpu/f32/compiled"


class TestMemory:
    def test_out_of_memory_once_is_tried_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        freed: list[torch.device] = []
        monkeypatch.setattr(engine_module, "_free_memory", freed.append)
        for lack in (
            MemoryError(),
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate"
                " memory: you tried to allocate 99 bytes. Error code 12"
            ),
            RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        ):
            model = Mirror(failures=[lack])
            pixels = draw(4, 4)
            (latents,) = make_engine(model).encode([pixels])
            assert latents.shape == (3, 4, 4)
            assert model.calls == 2
        assert len(freed) == 4

    def test_shape_stays_what_it_was(self, batches_of_four: None) -> None:
        shapes = []

        class Watched(Mirror):
            def encode(self, images: Tensor) -> Tensor:
                shapes.append(tuple(images.shape))
                return super().encode(images)

        make_engine(Watched(failures=[MemoryError()])).encode([draw(4, 4)])
        assert shapes == [(4, 3, 4, 4)] * 2

    def test_out_of_memory_twice_is_the_images_failure(self) -> None:
        model = Mirror(failures=[MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
        with pytest.raises(ImageError) as caught:
            make_engine(model).encode([draw(4, 4)])
        assert str(caught.value) == (
            "out of memory on cpu; free some, scale the image down or choose another --device"
        )

    def test_no_memory_to_pad_is_the_images_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def pad(pixels: Pixels, multiple: int) -> Pixels:
            raise MemoryError

        monkeypatch.setattr(engine_module, "pad_pixels", pad)
        with pytest.raises(ImageError, match="out of memory on cpu"):
            make_engine(Mirror()).encode([draw(4, 4)])

    @pytest.mark.parametrize("before", [[], [MemoryError()]])
    def test_other_failures_are_the_devices(self, before: list[Exception]) -> None:
        model = Mirror(failures=[*before, RuntimeError("CUDA error: unspecified\nat line 1")])
        with pytest.raises(DeviceError) as caught:
            make_engine(model).encode([draw(4, 4)])
        assert str(caught.value) == "cpu failed: CUDA error: unspecified"

    def test_a_failure_of_compiled_work_has_a_remedy(self) -> None:
        lack = RuntimeError("InvalidCxxCompiler: No working C++ compiler found")
        with pytest.raises(DeviceError, match="compiler found; try without --compile"):
            make_engine(Mirror(is_compiled=True, failures=[lack])).encode([draw(4, 4)])

    def test_what_the_first_try_held_is_free_before_the_second(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alive: list[bool] = []

        class Large:
            def __del__(self) -> None:
                alive.clear()

        def send() -> list[Download]:
            large = Large()
            alive.append(True)
            raise MemoryError(large)

        monkeypatch.setattr(engine_module, "_free_memory", lambda device: seen.append(list(alive)))
        seen: list[list[bool]] = []
        with pytest.raises(ImageError):
            make_engine(Mirror())._submit(send, list, 1).result()
        assert seen[0] == []


@dataclass
class Slow(Download):
    """A download that arrives when it is waited for."""

    content: Tensor
    fetched: bool = False

    @property
    def has_arrived(self) -> bool:
        return self.fetched

    def fetch(self) -> Array:
        self.fetched = True
        return self.content.numpy()


class TestInFlight:
    """As on a GPU, where work is sent and waited for later."""

    @pytest.fixture
    def downloads(self, monkeypatch: pytest.MonkeyPatch) -> list[Slow]:
        sent: list[Slow] = []

        def download(transfer: Transfer, x: Tensor) -> Slow:
            sent.append(Slow(x))
            return sent[-1]

        monkeypatch.setattr(Transfer, "download", download)
        monkeypatch.setattr(engine_module, "_make_lanes", lambda model: None)
        return sent

    def test_is_bounded_in_tokens(
        self, downloads: list[Slow], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine_module, "_TOKENS_IN_FLIGHT", 3 * 16)
        engine = make_engine(Mirror())
        images = [draw(4, 4, seed) for seed in range(7)]
        pendings = []
        for count, image in enumerate(images, start=1):
            pendings.append(engine.submit_images([image]))
            assert sum(not download.fetched for download in downloads) == min(count, 3)
        for image, pending in zip(images, pendings, strict=True):
            (encoded,) = pending.result()
            latents = encoded.latents
            assert pending.is_done
            assert np.array_equal(np.rint((latents + 1) * 127.5), image.transpose(2, 0, 1))
            assert pending.result()[0] is encoded

    def test_one_that_is_larger_than_the_bound_goes_alone(
        self, downloads: list[Slow], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine_module, "_TOKENS_IN_FLIGHT", 10)
        engine = make_engine(Mirror())
        engine.submit_images([draw(4, 4)])
        engine.submit_images([draw(4, 4)])
        assert [download.fetched for download in downloads] == [True, False]

    def test_out_of_memory_makes_fewer_of_it_for_good_and_loses_nothing(
        self, downloads: list[Slow]
    ) -> None:
        model = Mirror()
        engine = make_engine(model)
        images = [draw(4, 4, seed) for seed in range(8)]
        pendings = [engine.submit_images([image]) for image in images[:2]]
        model.failures.append(torch.OutOfMemoryError("CUDA out of memory"))
        pendings.append(engine.submit_images([images[2]]))
        assert [download.fetched for download in downloads] == [True, True, False]
        for image in images[3:]:
            pendings.append(engine.submit_images([image]))
            assert sum(not download.fetched for download in downloads) == 2
        for image, pending in zip(images, pendings, strict=True):
            (encoded,) = pending.result()
            assert np.array_equal(np.rint((encoded.latents + 1) * 127.5), image.transpose(2, 0, 1))

    def test_a_failure_on_the_way_is_the_devices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Lost(Download):
            def fetch(self) -> Array:
                raise RuntimeError("CUDA error: an illegal memory access\nat line 1")

        monkeypatch.setattr(Transfer, "download", lambda transfer, x: Lost(x))
        with pytest.raises(DeviceError, match="cpu failed: CUDA error: an illegal memory access"):
            make_engine(Mirror()).encode([draw(4, 4)])


class Meeting(Mirror):
    """A model that notes how many calls are computed at once; the first `meet` wait for another."""

    def __init__(self, meet: int = 0) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._meet = meet
        self._barrier = threading.Barrier(2)
        self._at_once = 0
        self.most_at_once = 0

    def encode(self, images: Tensor) -> Tensor:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            meets = self.calls < self._meet
        try:
            images = super().encode(images)
            if meets:
                self._barrier.wait(timeout=30)
        finally:
            with self._lock:
                self._at_once -= 1
        return images


def show(latents: npt.NDArray[np.float32]) -> Pixels:
    """The pixels of which `Mirror` made them."""
    pixels: Pixels = np.rint((latents + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0)
    return pixels


class TestSideBySide:
    """On the CPU, where two calls fill each other's gaps."""

    def test_two_at_once_and_no_more(self) -> None:
        model = Meeting(meet=8)
        engine = make_engine(model)
        images = [draw(4, 4, seed) for seed in range(8)]
        pendings = [engine.submit_images([image]) for image in images]
        for image, pending in zip(images, pendings, strict=True):
            assert np.array_equal(show(pending.result()[0].latents), image)
            assert pending.is_done
        assert model.most_at_once == 2

    def test_large_ones_go_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine_module, "_CPU_TOKENS_IN_FLIGHT", 31)
        model = Meeting()
        engine = make_engine(model)
        for pending in [engine.submit_images([draw(4, 4, seed)]) for seed in range(20)]:
            pending.result()
        assert model.most_at_once == 1

    def test_compiled_work_goes_alone(self) -> None:
        model = Meeting()
        model.is_compiled = True
        engine = make_engine(model)
        assert engine.submit_images([draw(4, 4)]).is_done

    def test_out_of_memory_loses_nothing_and_makes_it_one_by_one(self) -> None:
        model = Meeting(meet=2)
        engine = make_engine(model)
        images = [draw(4, 4, seed) for seed in range(12)]
        pendings = [engine.submit_images([image]) for image in images[:2]]
        for image, pending in zip(images, pendings, strict=False):
            assert np.array_equal(show(pending.result()[0].latents), image)
        model.failures.append(MemoryError())
        lacking = engine.submit_images([images[2]])
        assert np.array_equal(show(lacking.result()[0].latents), images[2])
        assert model.calls == 4
        model.most_at_once = 0
        pendings = [engine.submit_images([image]) for image in images[3:]]
        for image, pending in zip(images[3:], pendings, strict=True):
            assert np.array_equal(show(pending.result()[0].latents), image)
        assert model.most_at_once == 1

    def test_the_second_try_has_the_memory_to_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = Meeting(meet=2)
        engine = make_engine(model)
        model.failures.append(MemoryError())
        started = threading.Event()
        released = threading.Event()
        lacking = engine.submit_images([draw(4, 4)])
        wait([lacking._sent])

        def encode(images: Tensor) -> Tensor:
            started.set()
            released.wait(timeout=30)
            return images

        monkeypatch.setattr(model, "encode", encode)
        beside = engine.submit_images([draw(4, 4, 1)])
        started.wait(timeout=30)
        monkeypatch.setattr(
            engine_module, "_free_memory", lambda device: seen.append(beside.is_done)
        )
        seen: list[bool] = []
        threading.Timer(0.05, released.set).start()
        lacking.result()
        assert seen == [True]

    def test_a_failure_is_told_when_it_is_asked_for(self) -> None:
        model = Mirror(failures=[RuntimeError("broken\nat line 1")])
        engine = make_engine(model)
        lost = engine.submit_images([draw(4, 4)])
        lost.wait()
        whole = engine.submit_images([draw(4, 4, 1)])
        with pytest.raises(DeviceError, match=r"^cpu failed: broken$"):
            lost.result()
        assert np.array_equal(show(whole.result()[0].latents), draw(4, 4, 1))

    def test_same_bytes_side_by_side(self, encoder: ModelHandle, decoder: ModelHandle) -> None:
        sizes = [(16 + 16 * (seed % 3), 48 + 16 * (seed % 5)) for seed in range(40)]
        images = [draw(*size, seed) for seed, size in enumerate(sizes)]
        alone = [encoder.engine.encode([image])[0] for image in images]
        pendings = [encoder.engine.submit_images([image]) for image in images]
        latents = [pending.result()[0].latents for pending in pendings]
        assert all(np.array_equal(*pair) for pair in zip(alone, latents, strict=True))
        decoded = [
            decoder.engine.decode([one], [size], SETTINGS)[0]
            for one, size in zip(latents, sizes, strict=True)
        ]
        waiting = [
            decoder.engine.submit_latents([one], [size], SETTINGS)
            for one, size in zip(latents, sizes, strict=True)
        ]
        for pixels, pending in zip(decoded, waiting, strict=True):
            assert np.array_equal(pending.result()[0], pixels)


class TestSizeCheck:
    @pytest.fixture
    def limit(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
        def limit(size: int | None) -> None:
            monkeypatch.setattr(engine_module, "free_bytes", lambda device: size)

        return limit

    def test_of_what_fits_and_what_does_not(
        self, encoder: ModelHandle, limit: Callable[[int | None], None]
    ) -> None:
        token_bytes = measure_token_bytes(encoder.config)
        limit(6 * token_bytes)
        encoder.engine.check_size(32, 48)
        encoder.engine.check_size(17, 33)
        with pytest.raises(ImageError) as caught:
            encoder.engine.check_size(33, 48)
        assert str(caught.value) == (
            "48x33 needs about 0.0 GiB of memory on cpu and 0.0 GiB are free; scale it down"
        )

    def test_where_memory_is_not_known(
        self, encoder: ModelHandle, limit: Callable[[int | None], None]
    ) -> None:
        limit(None)
        encoder.engine.check_size(10**6, 10**6)

    def test_what_is_computed_beside_it_does_not_decide(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = Mirror()
        engine = make_engine(model)
        token_bytes = measure_token_bytes(model.config)
        started, released = threading.Event(), threading.Event()

        def encode(images: Tensor) -> Tensor:
            started.set()
            released.wait(timeout=30)
            return images

        def count_free(device: torch.device) -> int:
            return (16 if beside.is_done else 15) * token_bytes

        monkeypatch.setattr(model, "encode", encode)
        monkeypatch.setattr(engine_module, "free_bytes", count_free)
        beside = engine.submit_images([draw(4, 4)])
        started.wait(timeout=30)
        threading.Timer(0.05, released.set).start()
        engine.check_size(4, 4)
        with pytest.raises(ImageError):
            engine.check_size(4, 5)

    def test_counts_the_whole_batch(
        self,
        encoder: ModelHandle,
        limit: Callable[[int | None], None],
        batches_of_four: None,
    ) -> None:
        token_bytes = measure_token_bytes(encoder.config)
        limit(4 * token_bytes)
        encoder.engine.check_size(16, 16)
        with pytest.raises(ImageError):
            encoder.engine.check_size(16, 17)
