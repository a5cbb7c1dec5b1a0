"""Pixels to whitened latents and back, on one device, in a compute shape fixed by size alone."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dinac_cli.codec.flight import Array, Download, Pending, Sent, Transfer, UnderWay, settle
from dinac_cli.codec.memory import free_bytes, measure_token_bytes
from dinac_cli.container.tensors import Encoded
from dinac_cli.errors import DeviceError, ImageError
from dinac_cli.images.pixels import Pixels, crop_pixels, pad_pixels
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.config import DinacAEInferenceConfig
from dinac_cli.models.dinac.fast.graphs import Compute, GraphCache, record_cuda_graph

Latents = npt.NDArray[np.float32]
Features = npt.NDArray[np.float32]
R = TypeVar("R")

# Tokens of one micro-batch on a GPU: enough to fill it, the same for every run.
_GPU_BATCH_TOKENS = 8192
# One micro-batch goes up, one is computed, one comes down.
_TOKENS_IN_FLIGHT = 3 * _GPU_BATCH_TOKENS
# Two photographs of 1024² or more of smaller ones: from there on one occupies all processors.
_CPU_TOKENS_IN_FLIGHT = 8192
_CPU_LANES = 2
_OUT_OF_MEMORY_PHRASES = ("out of memory", "can't allocate memory", "not enough memory")


class Engine:
    """A loaded model and the way it is fed.

    What an image comes out as depends on the image, the model, the device, the dtype and the
    thread count, and on nothing else: every call computes `batch_size(height, width)` images, a
    function of the padded size, filled up with copies of the last one.

    On the CPU two calls are computed side by side, each with all threads: these wait for one
    another at the end of every layer, and one call's waiting is the other one's time. On two cores
    nano took 17 % less time so to encode photographs and 26 % to decode them, D2 11 % and 13 %
    (the model and it overlapped, `dinac bench --only commands`).
    """

    def __init__(self, model: DinacAE) -> None:
        self._model = model
        self.patch = model.config.patch_size
        self.device = model.device
        short = "bf16" if model.dtype == torch.bfloat16 else "f32"
        self.compute = f"{self.device.type}/{short}" + ("/compiled" if model.is_compiled else "")
        self._transfer = Transfer(self.device)
        is_cuda = self.device.type == "cuda"
        self._graphs = GraphCache(self._record) if is_cuda else None
        self._lanes = _make_lanes(model)
        self._under_way = UnderWay(_CPU_TOKENS_IN_FLIGHT if self._lanes else _TOKENS_IN_FLIGHT)

    def batch_size(self, height: int, width: int) -> int:
        """Images a call, for a padded size in pixels."""
        return choose_batch_size(self.device, height * width // self.patch**2)

    def check_size(self, height: int, width: int) -> None:
        """Refuse, before any work, an image that cannot fit into memory. Raises ImageError."""
        needed = self._count_tokens(height, width) * measure_token_bytes(self._model.config)
        available = free_bytes(self.device)
        if available is not None and needed > available and self._under_way.wait():
            available = free_bytes(self.device)  # what else is computed must not decide
        if available is not None and needed > available:
            raise ImageError(
                f"{width}x{height} needs about {needed / 2**30:.1f} GiB of memory on "
                f"{self.device.type} and {available / 2**30:.1f} GiB are free; scale it down"
            )

    def submit_images(
        self, images: Sequence[Pixels], *, logsnr: bool = False, class_token: bool = False
    ) -> Pending[list[Encoded]]:
        """Encode uint8 images [H, W, 3] of one padded size: latents, and what else is asked for.

        Latents are the same bytes, whatever is. Returns when the device has its work. Raises
        ImageError where it lacks memory.
        """
        asked = _Asked(logsnr, class_token)

        def send() -> list[Download]:
            padded = [pad_pixels(image, self.patch) for image in images]
            batch = self._transfer.upload(padded, self.batch_size(*padded[0].shape[:2]))
            encode = partial(self._encode_batch, asked=asked)
            return self._send_back(self._run((batch.shape, asked), encode, batch))

        def unpack(arrays: list[Array]) -> list[Encoded]:
            return [asked.name_parts(parts) for parts in zip(*arrays, strict=True)][: len(images)]

        return self._submit(send, unpack, self._count_tokens(*images[0].shape[:2]))

    def submit_latents(
        self,
        latents: Sequence[Latents],
        sizes: Sequence[tuple[int, int]],
        settings: DinacAEInferenceConfig,
    ) -> Pending[list[Pixels]]:
        """Decode latents of one grid: images uint8 [H, W, 3], cropped to their (height, width).

        Returns when the device has its work. Raises ImageError where it lacks memory.
        """
        height, width = (self.patch * side for side in latents[0].shape[1:])

        def send() -> list[Download]:
            batch = self._transfer.upload(latents, self.batch_size(height, width))
            # Noise without a seed is drawn anew each time, which no recording does.
            key = None if settings.seed is None else (batch.shape, settings)
            decode = partial(self._decode_batch, settings=settings)
            return self._send_back(self._run(key, decode, batch))

        def crop(arrays: list[Array]) -> list[Pixels]:
            [images] = arrays
            return [crop_pixels(image, *size) for image, size in zip(images, sizes, strict=False)]

        return self._submit(send, crop, self._count_tokens(height, width))

    def submit_features(
        self, latents: Sequence[Latents], *, spatial: bool
    ) -> Pending[list[Features]]:
        """Predict DINO tokens of latents of one grid: float32 [1, D], the class token.

        `spatial`: [1 + h·w, D], the patch tokens after it, row-major. Returns when the device has
        its work. Raises ImageError where it lacks memory.
        """
        height, width = (self.patch * side for side in latents[0].shape[1:])

        def send() -> list[Download]:
            batch = self._transfer.upload(latents, self.batch_size(height, width))
            if spatial:
                return self._send_back((self._model.predict_features(batch),))
            return self._send_back((self._model.predict_class(batch)[:, None].contiguous(),))

        tokens = self._count_tokens(height, width)
        return self._submit(send, lambda arrays: list(arrays[0][: len(latents)]), tokens)

    def encode(self, images: Sequence[Pixels]) -> list[Latents]:
        """The latents, float32 [C, h, w], that `submit_images` gives, waited for."""
        return [encoded.latents for encoded in self.submit_images(images).result()]

    def decode(
        self,
        latents: Sequence[Latents],
        sizes: Sequence[tuple[int, int]],
        settings: DinacAEInferenceConfig,
    ) -> list[Pixels]:
        """What `submit_latents` gives, waited for."""
        return self.submit_latents(latents, sizes, settings).result()

    def _encode_batch(self, batch: Tensor, asked: _Asked) -> tuple[Tensor, ...]:
        """Whitened latents [B, C, h, w] of uint8 [B, H, W, 3], and what else is asked for."""
        images = batch.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
        if not asked.logsnr:
            made: tuple[Tensor, ...] = (self._model.encode(images),)
        else:
            posterior = self._model.encode_posterior(images)
            made = (self._model.whiten(posterior.mode()), posterior.logsnr.contiguous())
        if asked.class_token:
            made += (self._model.predict_class(made[0]).contiguous(),)
        return made

    def _decode_batch(self, batch: Tensor, settings: DinacAEInferenceConfig) -> tuple[Tensor, ...]:
        """Images uint8 [B, H, W, 3] of whitened latents [B, C, h, w]."""
        height, width = (self.patch * side for side in batch.shape[2:])
        x = self._model.decode(batch, height, width, settings)
        levels = x.clamp(-1.0, 1.0).add_(1.0).mul_(127.5).round_()
        return (levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous(),)

    def _send_back(self, tensors: Sequence[Tensor]) -> list[Download]:
        return [self._transfer.download(tensor) for tensor in tensors]

    def _run(self, key: Hashable, compute: Compute, batch: Tensor) -> tuple[Tensor, ...]:
        if self._graphs is None or key is None:
            return compute(batch)
        return self._graphs.run(key, compute, batch)

    def _record(self, compute: Compute, batch: Tensor) -> Compute:
        return record_cuda_graph(compute, batch, self._model.list_constants)

    def _submit(
        self, send: Callable[[], list[Download]], unpack: Callable[[list[Array]], R], tokens: int
    ) -> Pending[R]:
        """Send work to the device; after an out-of-memory once more, with all freed that can be.

        From then on fewer are in flight. The compute shape stays what it is: a smaller one would
        change the bytes of the result.
        """
        self._under_way.make_room(tokens)

        def finish(sent: Sent) -> R:
            downloads = self._recover(send) if sent is None else sent
            return unpack(self._try(lambda: [download.fetch() for download in downloads]))

        if self._lanes is not None:
            pending = Pending(self._lanes.submit(self._attempt, send), finish, tokens)
        else:
            sent = self._attempt(send)
            pending = Pending(settle(self._recover(send) if sent is None else sent), finish, tokens)
        self._under_way.add(pending)
        return pending

    def _attempt(self, send: Callable[[], list[Download]]) -> Sent:
        """Do it on the device. None where memory is lacking: what the call held is free by then."""
        try:
            return self._try(send)
        except MemoryError:
            return None

    def _recover(self, send: Callable[[], list[Download]]) -> list[Download]:
        """Wait for what is under way, remember that it was too much, free the rest, try again."""
        self._under_way.allow_fewer(one_by_one=self._lanes is not None)
        self._under_way.wait()
        if self._graphs is not None:
            self._graphs.clear()
        _free_memory(self.device)
        try:
            return self._try(send)
        except MemoryError as exc:
            _free_memory(self.device)
            raise ImageError(
                f"out of memory on {self.device}; free some, scale the image down "
                "or choose another --device"
            ) from exc

    def _try(self, work: Callable[[], R]) -> R:
        """Do it on the device. Raises MemoryError where memory is lacking, else DeviceError."""
        try:
            with torch.inference_mode(), _on_device(self.device):
                return work()
        except RuntimeError as exc:
            if _is_out_of_memory(exc):
                raise MemoryError from exc
            remedy = "; try without --compile" if self._model.is_compiled else ""
            raise DeviceError(f"{self.device} failed: {_first_line(exc)}{remedy}") from exc

    def _count_tokens(self, height: int, width: int) -> int:
        """Latent positions of the micro-batch that an image of this size is computed in."""
        rows, columns = -(-height // self.patch), -(-width // self.patch)
        return self.batch_size(rows * self.patch, columns * self.patch) * rows * columns


class _Asked(NamedTuple):
    """What encoding gives beside the latents, in this order."""

    logsnr: bool
    class_token: bool

    def name_parts(self, parts: Sequence[Any]) -> Encoded:
        """One image's arrays, the latents first, under their names."""
        left = iter(parts)
        latents = next(left)
        logsnr = next(left) if self.logsnr else None
        return Encoded(latents, logsnr, next(left) if self.class_token else None)


def choose_batch_size(device: torch.device, tokens: int) -> int:
    """Images a call, each of so many latent positions; one on the CPU, where more gain nothing."""
    return 1 if device.type == "cpu" else max(1, _GPU_BATCH_TOKENS // tokens)


def _make_lanes(model: DinacAE) -> ThreadPoolExecutor | None:
    """Threads for calls side by side; None where the device itself does that.

    Compiled work goes one by one: the compiler's settings are those of the whole process.
    """
    if model.device.type != "cpu" or model.is_compiled:
        return None
    return ThreadPoolExecutor(_CPU_LANES, "model")


def _on_device(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device, whatever the tensors say."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _is_out_of_memory(exc: RuntimeError) -> bool:
    if isinstance(exc, torch.OutOfMemoryError):
        return True
    text = str(exc).lower()
    return any(phrase in text for phrase in _OUT_OF_MEMORY_PHRASES)


def _free_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().partition("\n")[0] or type(exc).__name__
