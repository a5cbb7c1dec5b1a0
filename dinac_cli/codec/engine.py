"""Pixels to whitened latents and back on one device; the image size alone fixes the batch shape."""

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

from dinac_cli.codec.compute import Compute
from dinac_cli.codec.flight import Array, Download, InFlight, Pending, Sent, Transfer, settle
from dinac_cli.codec.memory import free_bytes, measure_token_bytes
from dinac_cli.container.tensors import Encoded
from dinac_cli.errors import DeviceError, ImageError
from dinac_cli.images.pixels import Pixels, crop_pixels, pad_pixels
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.fast.graphs import GraphCache, record_cuda_graph
from dinac_cli.models.interface import DinacAEInferenceConfig

Latents = npt.NDArray[np.float32]
Features = npt.NDArray[np.float32]
Step = Callable[[Tensor], tuple[Tensor, ...]]
R = TypeVar("R")

# Tokens of one micro-batch on a GPU: enough to fill it, the same for every run.
_GPU_BATCH_TOKENS = 8192
# One micro-batch is uploaded, one computed and one downloaded at a time.
_TOKENS_IN_FLIGHT = 3 * _GPU_BATCH_TOKENS
# Two photographs of 1024², or more smaller ones; a larger one occupies all processors by itself.
_CPU_TOKENS_IN_FLIGHT = 8192
_CPU_LANES = 2
_OUT_OF_MEMORY_PHRASES = ("out of memory", "can't allocate memory", "not enough memory")


class Engine:
    """A loaded model, fed in micro-batches of a fixed shape.

    The result for an image depends on the image, the model, the device, the dtype and the thread
    count only: every call computes `batch_size(height, width)` images, a function of the padded
    size, and fills up the batch with copies of the last image. The `submit` methods return once
    the work is submitted and raise ImageError if the device runs out of memory.

    On the CPU two calls are computed side by side, each with all threads. The threads of one call
    wait for one another at the end of every layer; the other call uses that time. On two cores
    this took nano 17 % less time to encode photographs and 26 % less to decode them, D2 11 % and
    13 % (model alone against model overlapped, `dinac bench --only commands`).
    """

    def __init__(self, model: DinacAE) -> None:
        self._model = model
        self.patch = model.config.patch_size
        self.device = model.device
        dtype = "bf16" if model.dtype == torch.bfloat16 else "f32"
        self.compute = str(Compute(self.device.type, dtype, model.is_compiled))
        self._transfer = Transfer(self.device)
        is_cuda = self.device.type == "cuda"
        self._graphs = GraphCache(self._record) if is_cuda else None
        self._lanes = _make_lanes(model)
        self._in_flight = InFlight(_CPU_TOKENS_IN_FLIGHT if self._lanes else _TOKENS_IN_FLIGHT)

    def batch_size(self, height: int, width: int) -> int:
        """Returns the number of images per call, for a padded size in pixels."""
        return choose_batch_size(self.device, height * width // self.patch**2)

    def check_size(self, height: int, width: int) -> None:
        """Raises ImageError, before any work, if an image of this size cannot fit into memory."""
        needed = self._count_tokens(height, width) * measure_token_bytes(self._model.config)
        available = free_bytes(self.device)
        if available is not None and needed > available and self._in_flight.wait():
            available = free_bytes(self.device)  # memory of calls in flight counts as free
        if available is not None and needed > available:
            raise ImageError(
                f"{width}x{height} needs about {needed / 2**30:.1f} GiB of memory on "
                f"{self.device.type} and {available / 2**30:.1f} GiB are free; scale it down"
            )

    def submit_images(
        self, images: Sequence[Pixels], *, logsnr: bool = False, class_token: bool = False
    ) -> Pending[list[Encoded]]:
        """Encodes uint8 images [H, W, 3] of one padded size to latents and the requested extras.

        The extras never change a byte of the latents.
        """
        extras = _Extras(logsnr, class_token)

        def send() -> list[Download]:
            padded = [pad_pixels(image, self.patch) for image in images]
            batch = self._transfer.upload(padded, self.batch_size(*padded[0].shape[:2]))
            encode = partial(self._encode_batch, extras=extras)
            return self._send_back(self._run((batch.shape, extras), encode, batch))

        def unpack(arrays: list[Array]) -> list[Encoded]:
            encoded = [extras.name_parts(parts) for parts in zip(*arrays, strict=True)]
            return encoded[: len(images)]

        return self._submit(send, unpack, self._count_tokens(*images[0].shape[:2]))

    def submit_latents(
        self,
        latents: Sequence[Latents],
        sizes: Sequence[tuple[int, int]],
        settings: DinacAEInferenceConfig,
    ) -> Pending[list[Pixels]]:
        """Decodes latents of one grid to uint8 images [H, W, 3], cropped to (height, width)."""
        height, width = (self.patch * side for side in latents[0].shape[1:])

        def send() -> list[Download]:
            batch = self._transfer.upload(latents, self.batch_size(height, width))
            # Noise without a seed differs in each call; a recording would repeat it.
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
        """Predicts the DINO class token, float32 [1, D], from latents of one grid.

        If `spatial`, predicts [1 + h·w, D]: the class token, then the patch tokens, row-major.
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
        """Waits for `submit_images` and returns the latents, float32 [C, h, w]."""
        return [encoded.latents for encoded in self.submit_images(images).result()]

    def decode(
        self,
        latents: Sequence[Latents],
        sizes: Sequence[tuple[int, int]],
        settings: DinacAEInferenceConfig,
    ) -> list[Pixels]:
        """Waits for `submit_latents` and returns the images."""
        return self.submit_latents(latents, sizes, settings).result()

    def _encode_batch(self, batch: Tensor, extras: _Extras) -> tuple[Tensor, ...]:
        """Encodes uint8 [B, H, W, 3] to whitened latents [B, C, h, w] and the extras."""
        images = batch.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
        if not extras.logsnr:
            parts: tuple[Tensor, ...] = (self._model.encode(images),)
        else:
            posterior = self._model.encode_posterior(images)
            parts = (self._model.whiten(posterior.mode()), posterior.logsnr.contiguous())
        if extras.class_token:
            parts += (self._model.predict_class(parts[0]).contiguous(),)
        return parts

    def _decode_batch(self, batch: Tensor, settings: DinacAEInferenceConfig) -> tuple[Tensor, ...]:
        """Decodes whitened latents [B, C, h, w] to uint8 images [B, H, W, 3]."""
        height, width = (self.patch * side for side in batch.shape[2:])
        x = self._model.decode(batch, height, width, settings)
        levels = x.clamp(-1.0, 1.0).add_(1.0).mul_(127.5).round_()
        return (levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous(),)

    def _send_back(self, tensors: Sequence[Tensor]) -> list[Download]:
        return [self._transfer.download(tensor) for tensor in tensors]

    def _run(self, key: Hashable, step: Step, batch: Tensor) -> tuple[Tensor, ...]:
        if self._graphs is None or key is None:
            return step(batch)
        return self._graphs.run(key, step, batch)

    def _record(self, step: Step, batch: Tensor) -> Step:
        return record_cuda_graph(step, batch, self._model.list_constants)

    def _submit(
        self, send: Callable[[], list[Download]], unpack: Callable[[list[Array]], R], tokens: int
    ) -> Pending[R]:
        """Submits work to the device; after an out-of-memory, frees all it can and retries once.

        From then on fewer calls are in flight. The batch shape never changes: a smaller one would
        change the bytes of the result.
        """
        self._in_flight.make_room(tokens)

        def finish(sent: Sent) -> R:
            downloads = self._recover(send) if sent is None else sent
            return unpack(self._try(lambda: [download.fetch() for download in downloads]))

        if self._lanes is not None:
            pending = Pending(self._lanes.submit(self._attempt, send), finish, tokens)
        else:
            sent = self._attempt(send)
            pending = Pending(settle(self._recover(send) if sent is None else sent), finish, tokens)
        self._in_flight.add(pending)
        return pending

    def _attempt(self, send: Callable[[], list[Download]]) -> Sent:
        """Runs `send`; on an out-of-memory returns None, with the memory of the call freed."""
        try:
            return self._try(send)
        except MemoryError:
            return None

    def _recover(self, send: Callable[[], list[Download]]) -> list[Download]:
        """Lowers the limit of calls in flight, waits for them, frees memory and retries.

        Raises ImageError if the retry runs out of memory too.
        """
        self._in_flight.lower_limit(one_by_one=self._lanes is not None)
        self._in_flight.wait()
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
        """Runs `work`. Raises MemoryError for an out-of-memory, DeviceError for other failures."""
        try:
            with torch.inference_mode(), _on_device(self.device):
                return work()
        except RuntimeError as exc:
            if _is_out_of_memory(exc):
                raise MemoryError from exc
            remedy = "; try without --compile" if self._model.is_compiled else ""
            raise DeviceError(f"{self.device} failed: {_first_line(exc)}{remedy}") from exc

    def _count_tokens(self, height: int, width: int) -> int:
        """Returns the tokens of the micro-batch that an image of this size is computed in."""
        rows, columns = -(-height // self.patch), -(-width // self.patch)
        return self.batch_size(rows * self.patch, columns * self.patch) * rows * columns


class _Extras(NamedTuple):
    """The arrays that encoding returns besides the latents, in this order."""

    logsnr: bool
    class_token: bool

    def name_parts(self, parts: Sequence[Any]) -> Encoded:
        """Names the arrays of one image; `parts` holds the latents, then the extras."""
        left = iter(parts)
        latents = next(left)
        logsnr = next(left) if self.logsnr else None
        return Encoded(latents, logsnr, next(left) if self.class_token else None)


def choose_batch_size(device: torch.device, tokens: int) -> int:
    """Returns the images per call, each of `tokens` latent positions.

    The CPU takes one image per call: larger batches are no faster there.
    """
    return 1 if device.type == "cpu" else max(1, _GPU_BATCH_TOKENS // tokens)


def _make_lanes(model: DinacAE) -> ThreadPoolExecutor | None:
    """Returns threads that compute calls side by side, None if the device overlaps them itself.

    Compiled models run one call at a time: the compiler's settings are global to the process.
    """
    if model.device.type != "cpu" or model.is_compiled:
        return None
    return ThreadPoolExecutor(_CPU_LANES, "model")


def _on_device(device: torch.device) -> AbstractContextManager[object]:
    """Makes `device` the current one: Triton launches there, wherever the tensors are."""
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
