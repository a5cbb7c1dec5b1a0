"""Pixels to latents and back: exact values, batch-independent results, out-of-memory retries."""

from __future__ import annotations

import gc
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from dinac_cli.codec import engine as engine_module
from dinac_cli.codec.engine import Engine, load_engine
from dinac_cli.codec.flight import Array, BusyTimer, Download, Transfer
from dinac_cli.codec.handle import ModelHandle
from dinac_cli.errors import DeviceError, ImageError, UsageError
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.config import DinacAEConfig
from dinac_cli.models.dinac.fast.autoencoder import FastDinacAE
from dinac_cli.models.dinac.fast.ladder import Choice
from dinac_cli.models.dinac.model import DinacModel
from dinac_cli.models.graphs import Compute, CudaRecorder
from dinac_cli.models.interface import (
    GRAPHS,
    PLAIN,
    TORCH,
    TRITON,
    DinacAEInferenceConfig,
    ModelTraits,
)
from dinac_cli.models.pixel_scaling import round_images, scale_pixels

from .conftest import GOLDEN, Pixels, draw, make_handle

SETTINGS = DinacAEInferenceConfig(seed=0)

PATIENCE_SECONDS = 120.0


@dataclass
class Mirror:
    """A model whose latents are the pixels; its first calls raise `failures`."""

    traits: ModelTraits = field(default_factory=lambda: DinacAEConfig(patch_size=1).traits)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    is_compiled: bool = False
    failures: list[Exception] = field(default_factory=list)
    calls: int = 0
    forgotten: int = 0

    def list_constants(self) -> list[Tensor]:
        return []

    def forget_starts(self) -> None:
        self.forgotten += 1

    def encode(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return images

    def encode_batch(
        self, pixels: Tensor, *, logsnr: bool = False, class_token: bool = False
    ) -> tuple[Tensor, ...]:
        assert (logsnr, class_token) == (False, False)
        return (self.encode(scale_pixels(pixels)),)

    def decode_batch(self, latents: Tensor, settings: DinacAEInferenceConfig) -> Tensor:
        return round_images(self.encode(latents))

    def predict_batch(self, latents: Tensor, *, spatial: bool) -> Tensor:
        raise AssertionError("it predicts nothing")

    def measure_deviation(self, logsnr: Tensor) -> Tensor:
        raise AssertionError("it has no posterior")


def make_engine(model: Mirror) -> Engine:
    return Engine(model)


def show(latents: npt.NDArray[np.float32]) -> Pixels:
    """Returns the pixels that `Mirror` encoded."""
    pixels: Pixels = np.rint((latents + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0)
    return pixels


@pytest.fixture
def batches_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches as on a GPU, on the CPU."""
    monkeypatch.setattr(Engine, "batch_size", lambda self, height, width: 4)


class TestPixels:
    def test_levels_map_to_minus_one_to_one(self) -> None:
        levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
        (latents,) = make_engine(Mirror()).encode([levels])
        expected = levels.transpose(2, 0, 1).astype(np.float64) / 127.5 - 1
        assert latents.dtype == np.float32
        assert np.abs(latents - expected).max() < 1e-7
        assert (latents.min(), latents.max()) == (-1, 1)

    def test_round_trip_of_all_levels_is_exact(self) -> None:
        levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
        engine = make_engine(Mirror())
        (back,) = engine.decode(engine.encode([levels]), [(16, 16)], SETTINGS)
        assert back.dtype == np.uint8
        assert back.flags["C_CONTIGUOUS"]
        assert np.array_equal(back, levels)

    @pytest.mark.parametrize(
        ("value", "level"), [(-3.0, 0), (-1.0, 0), (0.0, 128), (0.999, 255), (1.0, 255), (7.0, 255)]
    )
    def test_values_are_clamped_and_halves_round_to_even(self, value: float, level: int) -> None:
        latents = np.full((3, 2, 2), value, dtype=np.float32)
        (pixels,) = make_engine(Mirror()).decode([latents], [(2, 2)], SETTINGS)
        assert (pixels == level).all()

    def test_edges_are_repeated_as_padding(self) -> None:
        engine = make_engine(Mirror(DinacAEConfig(patch_size=16).traits))
        pixels = draw(17, 5)
        (latents,) = engine.encode([pixels])
        assert latents.shape == (3, 32, 16)
        assert np.array_equal(latents[:, :, 5], latents[:, :, 15])
        assert np.array_equal(latents[:, 16], latents[:, 31])


class TestBatch:
    def test_cpu_computes_one_image_per_call(self, encoder: ModelHandle) -> None:
        assert encoder.engine.batch_size(16, 16) == 1

    @pytest.mark.parametrize(
        ("height", "width", "size"),
        [(16, 16, 8192), (256, 256, 32), (512, 512, 8), (4096, 4096, 1)],
    )
    def test_size_on_other_devices_depends_on_the_padded_size(
        self, height: int, width: int, size: int
    ) -> None:
        model = Mirror(DinacAEConfig(patch_size=16).traits, device=torch.device("meta"))
        assert make_engine(model).batch_size(height, width) == size

    @pytest.mark.usefixtures("batches_of_four")
    def test_every_call_computes_a_full_batch(self) -> None:
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
    def test_batch_mates_do_not_change_latents(self, encoder: ModelHandle) -> None:
        images = [draw(33, 48, 1), draw(48, 40, 2), draw(48, 48, 3)]  # share one padded size
        together = encoder.engine.encode(images)
        for image, latents in zip(images, together, strict=True):
            assert latents.shape == (8, 3, 3)
            assert np.array_equal(encoder.engine.encode([image])[0], latents)

    @pytest.mark.usefixtures("batches_of_four")
    def test_batch_mates_do_not_change_images(self, decoder: ModelHandle) -> None:
        rng = np.random.default_rng(0)
        latents = [rng.standard_normal((8, 2, 3)).astype(np.float32) for _ in range(3)]
        sizes = [(32, 48), (17, 33), (30, 48)]
        together = decoder.engine.decode(latents, sizes, SETTINGS)
        for one, size, pixels in zip(latents, sizes, together, strict=True):
            assert pixels.shape == (*size, 3)
            assert np.array_equal(decoder.engine.decode([one], [size], SETTINGS)[0], pixels)

    def test_compute_names_device_dtype_and_compilation(self, encoder: ModelHandle) -> None:
        assert encoder.engine.compute == "cpu/f32"
        assert make_engine(Mirror(dtype=torch.bfloat16)).compute == "cpu/bf16"
        assert make_engine(Mirror(is_compiled=True)).compute == "cpu/f32/compiled"


class TestMemory:
    def test_out_of_memory_frees_memory_and_retries(self, monkeypatch: pytest.MonkeyPatch) -> None:
        collections: list[bool] = []
        monkeypatch.setattr(gc, "collect", lambda: collections.append(True))
        for failure in (
            MemoryError(),
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate"
                " memory: you tried to allocate 99 bytes. Error code 12"
            ),
            RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        ):
            model = Mirror(failures=[failure])
            pixels = draw(4, 4)
            (latents,) = make_engine(model).encode([pixels])
            assert latents.shape == (3, 4, 4)
            assert model.calls == 2
        assert len(collections) == 4

    def test_the_retry_and_a_large_image_free_what_is_kept_for_later_calls(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = Mirror(failures=[MemoryError()])
        engine = make_engine(model)
        engine.encode([draw(4, 4)])
        assert model.forgotten == 1

        def count_free(device: torch.device) -> int:
            return 2**40 if model.forgotten == 2 else 0

        monkeypatch.setattr(engine_module, "free_bytes", count_free)
        engine.check_size(4, 4)
        assert model.forgotten == 2

    def test_retry_keeps_the_batch_shape(self, batches_of_four: None) -> None:
        shapes = []

        class Watched(Mirror):
            def encode(self, images: Tensor) -> Tensor:
                shapes.append(tuple(images.shape))
                return super().encode(images)

        make_engine(Watched(failures=[MemoryError()])).encode([draw(4, 4)])
        assert shapes == [(4, 3, 4, 4)] * 2

    def test_out_of_memory_twice_fails_the_image(self) -> None:
        model = Mirror(failures=[MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
        with pytest.raises(ImageError) as caught:
            make_engine(model).encode([draw(4, 4)])
        assert str(caught.value) == (
            "out of memory on cpu; free some memory, scale the image down "
            "or choose another --device"
        )

    def test_out_of_memory_while_padding_fails_the_image(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def pad(pixels: Pixels, multiple: int) -> Pixels:
            raise MemoryError

        monkeypatch.setattr(engine_module, "pad_pixels", pad)
        with pytest.raises(ImageError, match="out of memory on cpu"):
            make_engine(Mirror()).encode([draw(4, 4)])

    @pytest.mark.parametrize("before", [[], [MemoryError()]])
    def test_other_failures_are_device_errors(self, before: list[Exception]) -> None:
        model = Mirror(failures=[*before, RuntimeError("CUDA error: unspecified\nat line 1")])
        with pytest.raises(DeviceError) as caught:
            make_engine(model).encode([draw(4, 4)])
        assert str(caught.value) == "cpu failed: CUDA error: unspecified"

    @pytest.mark.parametrize(
        "failure",
        [
            subprocess.CalledProcessError(1, ["gcc"]),
            PermissionError(13, "Permission denied", "/root/.triton"),
            ImportError("no module"),
            AssertionError("no launcher"),
            type("CompilationError", (Exception,), {"__module__": "triton.compiler.errors"})("x"),
        ],
    )
    def test_failures_of_compilers_are_device_errors(self, failure: Exception) -> None:
        step = Choice(GRAPHS)
        model = Mirror(failures=[failure, failure])
        with pytest.raises(DeviceError) as caught:
            Engine(cast(DinacAE, model), step).encode([draw(4, 4)])
        assert str(caught.value) == (
            f"cpu failed: {failure}; DINAC_CUDA=torch computes in a slower way, which may work"
        )

    @pytest.mark.parametrize("failure", [ValueError("a bug"), UsageError("wrong"), KeyError("x")])
    def test_other_errors_stay_what_they_are(self, failure: Exception) -> None:
        with pytest.raises(type(failure)):
            make_engine(Mirror(failures=[failure])).encode([draw(4, 4)])

    @pytest.mark.parametrize(
        ("step", "suggestion"),
        [
            (TRITON, "; DINAC_CUDA=torch computes in a slower way, which may work"),
            (TORCH, "; DINAC_CUDA=plain computes in a slower way, which may work"),
            (PLAIN, ""),
        ],
    )
    def test_a_failure_suggests_a_slower_step(self, step: str, suggestion: str) -> None:
        model = Mirror(failures=[RuntimeError("CUDA error: misaligned address")])
        with pytest.raises(DeviceError) as caught:
            Engine(cast(DinacAE, model), Choice(step)).encode([draw(4, 4)])
        assert str(caught.value) == f"cpu failed: CUDA error: misaligned address{suggestion}"

    @pytest.mark.parametrize("ask", ["take_busy_spans", "measure_room"])
    def test_questions_to_a_device_that_failed_are_device_errors(
        self, ask: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*arguments: object) -> None:
            raise RuntimeError("CUDA error: an illegal memory access")

        monkeypatch.setattr(BusyTimer, "take_spans", fail)
        monkeypatch.setattr(engine_module, "measure_room", fail)
        monkeypatch.setattr(engine_module, "free_bytes", fail)
        engine = make_engine(Mirror())
        engine.encode([draw(4, 4)])
        with pytest.raises(DeviceError, match="cpu failed: CUDA error: an illegal memory access"):
            getattr(engine, ask)()
        with pytest.raises(DeviceError, match="cpu failed: CUDA error: an illegal memory access"):
            engine.check_size(4, 4)

    def test_memory_is_measured_after_the_first_result(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before that, only the weights take memory, so too many processes would fit."""
        monkeypatch.setattr(engine_module, "measure_room", lambda device: (3, 2))
        engine = make_engine(Mirror())
        assert engine.measure_room() is None
        pending = engine.submit_images([draw(4, 4)])
        assert engine.measure_room() is None
        pending.result()
        assert engine.measure_room() == (3, 2)

    def test_memory_that_cannot_be_freed_does_not_hide_the_retry(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail() -> None:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

        monkeypatch.setattr(torch.cuda, "empty_cache", fail)
        engine_module._free_memory(torch.device("cuda:0"))

    def test_failure_of_a_compiled_model_suggests_a_remedy(self) -> None:
        failure = RuntimeError("InvalidCxxCompiler: No working C++ compiler found")
        with pytest.raises(DeviceError, match="compiler found; try without --compile"):
            make_engine(Mirror(is_compiled=True, failures=[failure])).encode([draw(4, 4)])

    def test_retry_starts_after_the_first_try_has_freed_its_memory(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alive: list[bool] = []

        class Large:
            def __del__(self) -> None:
                alive.clear()

        class Failing(Mirror):
            def encode(self, images: Tensor) -> Tensor:
                large = Large()
                alive.append(True)
                raise MemoryError(large)

        seen: list[list[bool]] = []
        monkeypatch.setattr(gc, "collect", lambda: seen.append(list(alive)))
        with pytest.raises(ImageError):
            make_engine(Failing()).encode([draw(4, 4)])
        assert seen[0] == []


@dataclass
class Slow(Download):
    """A download that arrives when it is fetched."""

    content: Tensor
    fetched: bool = False

    @property
    def has_arrived(self) -> bool:
        return self.fetched

    def fetch(self) -> Array:
        self.fetched = True
        return self.content.numpy()


class TestInFlight:
    """As on a GPU: calls return before their downloads arrive.

    On the CPU a compiled model runs in the calling thread, as a GPU's does.
    """

    @pytest.fixture
    def downloads(self, monkeypatch: pytest.MonkeyPatch) -> list[Slow]:
        sent: list[Slow] = []

        def download(transfer: Transfer, x: Tensor) -> Slow:
            sent.append(Slow(x))
            return sent[-1]

        monkeypatch.setattr(Transfer, "download", download)
        return sent

    def test_tokens_in_flight_are_bounded(self, downloads: list[Slow]) -> None:
        engine = make_engine(Mirror(is_compiled=True))
        images = [draw(64, 128, seed) for seed in range(7)]  # a third of the bound
        pendings = []
        for count, image in enumerate(images, start=1):
            pendings.append(engine.submit_images([image]))
            assert sum(not download.fetched for download in downloads) == min(count, 3)
        for image, pending in zip(images, pendings, strict=True):
            (encoded,) = pending.result()
            assert pending.is_done
            assert np.array_equal(show(encoded.latents), image)
            assert pending.result()[0] is encoded

    def test_batch_larger_than_the_bound_goes_alone(self, downloads: list[Slow]) -> None:
        engine = make_engine(Mirror(is_compiled=True))
        engine.submit_images([draw(193, 128)])
        engine.submit_images([draw(193, 128)])
        assert [download.fetched for download in downloads] == [True, False]

    def test_out_of_memory_lowers_the_bound_and_loses_nothing(self, downloads: list[Slow]) -> None:
        model = Mirror(is_compiled=True)
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
            assert np.array_equal(show(pending.result()[0].latents), image)

    def test_failed_download_is_a_device_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Lost(Download):
            def fetch(self) -> Array:
                raise RuntimeError("CUDA error: an illegal memory access\nat line 1")

        monkeypatch.setattr(Transfer, "download", lambda transfer, x: Lost(x))
        with pytest.raises(DeviceError, match="cpu failed: CUDA error: an illegal memory access"):
            make_engine(Mirror()).encode([draw(4, 4)])


class TestLoading:
    @pytest.mark.parametrize(
        ("failure", "message"),
        [
            (
                torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
                "out of memory on cpu while the model is loaded; free some memory there, or choose "
                "another --device",
            ),
            (
                RuntimeError("CUDA error: no kernel image is available\nmore"),
                "cpu failed: CUDA error: no kernel image is available",
            ),
        ],
    )
    def test_a_device_that_fails_while_a_model_is_loaded(
        self, failure: Exception, message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*arguments: object, **options: object) -> DinacAE:
            raise failure

        monkeypatch.setattr(DinacModel, "open", fail)
        with pytest.raises(DeviceError) as caught:
            _ = make_handle().engine
        assert str(caught.value) == message

    @pytest.mark.parametrize(
        ("step", "is_fast", "compute"),
        [(None, True, "cpu/f32"), (TORCH, True, "cpu/f32/torch"), (PLAIN, False, "cpu/f32/plain")],
    )
    def test_the_step_decides_the_network_and_its_name(
        self, step: str | None, is_fast: bool, compute: str
    ) -> None:
        choice = None if step is None else Choice(step)
        model, cpu = DinacModel(GOLDEN / "tiny", "tiny"), torch.device("cpu")
        engine = load_engine(model, ["encoder"], cpu, torch.float32, choice)
        assert isinstance(engine._model, FastDinacAE) == is_fast
        assert engine.compute == compute


class TestRemarks:
    def test_a_slower_step_is_told_once(self) -> None:
        choice = Choice(TORCH, "Triton is not installed", "pip install triton")
        engine = Engine(cast(DinacAE, Mirror()), choice)
        assert engine.take_remarks() == [
            "the GPU computes with torch's operations, which is slower: Triton is not installed; "
            "pip install triton"
        ]
        assert engine.take_remarks() == []

    def test_graphs_that_fail_are_told_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(recorder: CudaRecorder, compute: Compute, x: Tensor) -> Compute:
            raise RuntimeError("CUDA error: capture invalidated\nmore")

        monkeypatch.setattr(CudaRecorder, "__call__", fail)
        engine = Engine(cast(DinacAE, Mirror()), Choice(GRAPHS))
        pixels = draw(4, 4)
        for _ in range(3):
            engine.encode([pixels])
        assert engine.take_remarks() == []
        for _ in range(3):
            (latents,) = engine.encode([pixels])
            assert np.array_equal(show(latents), pixels)
        assert engine.take_remarks() == [
            "cpu runs its kernels one by one, which is slower, because CUDA graphs failed: CUDA "
            "error: capture invalidated"
        ]
        assert engine.take_remarks() == []

    @pytest.mark.parametrize(("steps", "recorded"), [(256, 1), (257, 0)])
    def test_a_call_of_very_many_steps_is_not_recorded(
        self, steps: int, recorded: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        records: list[Compute] = []

        def record(recorder: CudaRecorder, compute: Compute, x: Tensor) -> Compute:
            records.append(compute)
            return compute

        monkeypatch.setattr(CudaRecorder, "__call__", record)
        engine = Engine(cast(DinacAE, Mirror()), Choice(GRAPHS))
        settings = DinacAEInferenceConfig(seed=0, num_steps=steps)
        latents = np.zeros((3, 2, 2), np.float32)
        for _ in range(6):
            engine.decode([latents], [(2, 2)], settings)
        assert len(records) == recorded

    def test_a_device_without_a_ladder_has_none(self, encoder: ModelHandle) -> None:
        assert encoder.engine.take_remarks() == []


class Meeting(Mirror):
    """Counts the calls computed at once; each of the first `meet` calls waits for another."""

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
                self._barrier.wait(timeout=PATIENCE_SECONDS)
            else:
                time.sleep(0.005)  # lets another call start, if it may
        finally:
            with self._lock:
                self._at_once -= 1
        return images


class TestSideBySide:
    """On the CPU, where two calls are computed at once."""

    def test_two_calls_at_most_run_at_once(self) -> None:
        model = Meeting(meet=8)
        engine = make_engine(model)
        images = [draw(4, 4, seed) for seed in range(8)]
        pendings = [engine.submit_images([image]) for image in images]
        for image, pending in zip(images, pendings, strict=True):
            assert np.array_equal(show(pending.result()[0].latents), image)
            assert pending.is_done
        assert model.most_at_once == 2

    def test_large_images_go_alone(self) -> None:
        model = Meeting()
        engine = make_engine(model)
        image = draw(1, 4097)  # two hold more than 8192 tokens
        for pending in [engine.submit_images([image]) for _ in range(4)]:
            pending.result()
        assert model.most_at_once == 1

    def test_compiled_models_run_one_call_at_a_time(self) -> None:
        model = Meeting()
        model.is_compiled = True
        engine = make_engine(model)
        assert engine.submit_images([draw(4, 4)]).is_done

    def test_out_of_memory_loses_nothing_and_ends_overlapping(self) -> None:
        model = Meeting(meet=2)
        engine = make_engine(model)
        images = [draw(4, 4, seed) for seed in range(12)]
        pendings = [engine.submit_images([image]) for image in images[:2]]
        for image, pending in zip(images, pendings, strict=False):
            assert np.array_equal(show(pending.result()[0].latents), image)
        model.failures.append(MemoryError())
        failed = engine.submit_images([images[2]])
        assert np.array_equal(show(failed.result()[0].latents), images[2])
        assert model.calls == 4
        model.most_at_once = 0
        pendings = [engine.submit_images([image]) for image in images[3:]]
        for image, pending in zip(images[3:], pendings, strict=True):
            assert np.array_equal(show(pending.result()[0].latents), image)
        assert model.most_at_once == 1

    def test_retry_waits_for_the_other_call(self, monkeypatch: pytest.MonkeyPatch) -> None:
        started, released = threading.Event(), threading.Event()

        class Blocking(Mirror):
            def encode(self, images: Tensor) -> Tensor:
                images = super().encode(images)
                started.set()
                released.wait(timeout=PATIENCE_SECONDS)
                return images

        engine = make_engine(Blocking(failures=[MemoryError()]))
        failed = engine.submit_images([draw(4, 4)])
        failed.wait()
        other = engine.submit_images([draw(4, 4, 1)])
        started.wait(timeout=PATIENCE_SECONDS)
        seen: list[bool] = []
        monkeypatch.setattr(gc, "collect", lambda: seen.append(other.is_done))
        threading.Timer(0.05, released.set).start()
        failed.result()
        assert seen == [True]

    def test_failure_is_raised_by_its_own_result(self) -> None:
        model = Mirror(failures=[RuntimeError("broken\nat line 1")])
        engine = make_engine(model)
        failed = engine.submit_images([draw(4, 4)])
        failed.wait()
        other = engine.submit_images([draw(4, 4, 1)])
        with pytest.raises(DeviceError, match=r"^cpu failed: broken$"):
            failed.result()
        assert np.array_equal(show(other.result()[0].latents), draw(4, 4, 1))

    def test_overlapping_does_not_change_bytes(
        self, encoder: ModelHandle, decoder: ModelHandle
    ) -> None:
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

    def test_image_that_does_not_fit_is_refused(
        self, encoder: ModelHandle, limit: Callable[[int | None], None]
    ) -> None:
        token_bytes = encoder.traits.token_bytes
        limit(6 * token_bytes)
        encoder.engine.check_size(32, 48)
        encoder.engine.check_size(17, 33)
        with pytest.raises(ImageError) as caught:
            encoder.engine.check_size(33, 48)
        assert str(caught.value) == (
            "48x33 needs about 0.0 GiB of memory on cpu, but 0.0 GiB are free; scale the image down"
        )

    def test_unknown_memory_refuses_nothing(
        self, encoder: ModelHandle, limit: Callable[[int | None], None]
    ) -> None:
        limit(None)
        encoder.engine.check_size(10**6, 10**6)

    def test_calls_in_flight_count_as_free_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = Mirror()
        engine = make_engine(model)
        token_bytes = model.traits.token_bytes
        started, released = threading.Event(), threading.Event()

        def encode(images: Tensor) -> Tensor:
            started.set()
            released.wait(timeout=PATIENCE_SECONDS)
            return images

        def count_free(device: torch.device) -> int:
            return (16 if other.is_done else 15) * token_bytes

        monkeypatch.setattr(model, "encode", encode)
        monkeypatch.setattr(engine_module, "free_bytes", count_free)
        other = engine.submit_images([draw(4, 4)])
        started.wait(timeout=PATIENCE_SECONDS)
        threading.Timer(0.05, released.set).start()
        engine.check_size(4, 4)
        with pytest.raises(ImageError):
            engine.check_size(4, 5)

    def test_whole_batch_is_counted(
        self,
        encoder: ModelHandle,
        limit: Callable[[int | None], None],
        batches_of_four: None,
    ) -> None:
        token_bytes = encoder.traits.token_bytes
        limit(4 * token_bytes)
        encoder.engine.check_size(16, 16)
        with pytest.raises(ImageError):
            encoder.engine.check_size(16, 17)
