"""Pixels to whitened latents and back, on one device, in a compute shape fixed by size alone."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from dinac_cli.codec.memory import free_bytes, measure_token_bytes
from dinac_cli.errors import DeviceError, ImageError
from dinac_cli.images.pixels import crop_pixels, pad_pixels
from dinac_cli.model.autoencoder import DinacAE
from dinac_cli.model.config import DinacAEInferenceConfig

Pixels = npt.NDArray[np.uint8]
Latents = npt.NDArray[np.float32]
R = TypeVar("R")

# Tokens of one micro-batch on a GPU: enough to fill it, the same for every run.
_GPU_BATCH_TOKENS = 8192
_OUT_OF_MEMORY_PHRASES = ("out of memory", "can't allocate memory", "not enough memory")


class Engine:
    """A loaded model and the way it is fed.

    What an image comes out as depends on the image, the model, the device, the dtype and the
    thread count, and on nothing else: every call computes `batch_size(height, width)` images, a
    function of the padded size, filled up with copies of the last one.
    """

    def __init__(self, model: DinacAE) -> None:
        self._model = model
        self.patch = model.config.patch_size
        self.device = model.device
        short = "bf16" if model.dtype == torch.bfloat16 else "f32"
        self.compute = f"{self.device.type}/{short}"

    def batch_size(self, height: int, width: int) -> int:
        """Images a call, for a padded size in pixels. One on the CPU, where more gain nothing."""
        if self.device.type == "cpu":
            return 1
        return max(1, _GPU_BATCH_TOKENS // (height * width // self.patch**2))

    def check_size(self, height: int, width: int) -> None:
        """Refuse, before any work, an image that cannot fit into memory. Raises ImageError."""
        rows, columns = -(-height // self.patch), -(-width // self.patch)
        images = self.batch_size(rows * self.patch, columns * self.patch)
        needed = images * rows * columns * measure_token_bytes(self._model.config)
        available = free_bytes(self.device)
        if available is not None and needed > available:
            raise ImageError(
                f"{width}x{height} needs about {needed / 2**30:.1f} GiB of memory on "
                f"{self.device.type} and {available / 2**30:.1f} GiB are free; scale it down"
            )

    def encode(self, images: Sequence[Pixels]) -> list[Latents]:
        """Whitened latents, float32 [C, h, w], of uint8 images [H, W, 3] of one padded size."""

        def compute() -> torch.Tensor:
            padded = [pad_pixels(image, self.patch) for image in images]
            height, width = padded[0].shape[:2]
            batch = _stack(padded, self.batch_size(height, width)).to(self.device)
            pixels = batch.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)  # [B, 3, H, W]
            return self._model.encode(pixels).cpu()

        return [latents.numpy() for latents in self._run(compute)[: len(images)]]

    def decode(
        self,
        latents: Sequence[Latents],
        sizes: Sequence[tuple[int, int]],
        settings: DinacAEInferenceConfig,
    ) -> list[Pixels]:
        """Images uint8 [H, W, 3] of latents of one grid, cropped to their (height, width)."""
        grid = latents[0].shape[1:]
        height, width = grid[0] * self.patch, grid[1] * self.patch

        def compute() -> torch.Tensor:
            batch = _stack(latents, self.batch_size(height, width)).to(self.device)
            x = self._model.decode(batch, height, width, settings)
            levels = x.clamp(-1.0, 1.0).add(1.0).mul(127.5).round()
            return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()  # [B, H, W, 3]

        images = self._run(compute)[: len(latents)]
        return [
            crop_pixels(image.numpy(), *size) for image, size in zip(images, sizes, strict=True)
        ]

    def _run(self, compute: Callable[[], R]) -> R:
        """Run `compute`; after an out-of-memory once more, with everything freed that can be.

        The compute shape stays what it is: a smaller one would change the bytes of the result.
        """
        try:
            return self._try(compute)
        except MemoryError:
            pass  # what the failed call held is given up with its traceback, only then is it free
        _free_memory(self.device)
        try:
            return self._try(compute)
        except MemoryError as exc:
            _free_memory(self.device)
            raise ImageError(
                f"out of memory on {self.device}; free some, scale the image down "
                "or choose another --device"
            ) from exc

    def _try(self, compute: Callable[[], R]) -> R:
        """Run `compute`; raises MemoryError where that is what is lacking, else DeviceError."""
        try:
            with torch.inference_mode():
                return compute()
        except RuntimeError as exc:
            if _is_out_of_memory(exc):
                raise MemoryError from exc
            raise DeviceError(f"{self.device} failed: {_first_line(exc)}") from exc


def _stack(arrays: Sequence[npt.NDArray[np.generic]], count: int) -> torch.Tensor:
    """One tensor of `count` arrays, the last one repeated where there are fewer."""
    filled = [*arrays, *([arrays[-1]] * (count - len(arrays)))]
    return torch.from_numpy(np.stack(filled))


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
