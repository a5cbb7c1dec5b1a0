"""Identifies the model of a run at once, but loads the weights only when an image needs them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from dinac_cli.codec.compute import Compute
from dinac_cli.codec.quantizer import choose_steps, read_sensitivity
from dinac_cli.models.identity import ModelIdentity
from dinac_cli.models.interface import GpuStep, LatentModel, ModelTraits

if TYPE_CHECKING:
    import torch

    from dinac_cli.codec.engine import Engine

_OF_PROCESS = ("engine", "gpu_step")
"""What a handle caches that belongs to one process."""


@dataclass(frozen=True, kw_only=True)
class DeviceChoice:
    """The options `--device`, `--dtype` and `--compile`. They are checked when a model loads.

    Requests may have a device `all` or a list such as `cuda:0,cuda:1`; models have one device.
    """

    device: str = "auto"
    dtype: str = "auto"
    compiled: bool = False


@dataclass(eq=False)  # hashed by identity, so that a handle can be the key of a batch
class ModelHandle:
    """One model and the part ("encoder", "decoder" or "class_head") that a run needs.

    `more_parts` are the other parts to load. The first use of `engine` imports torch and loads the
    weights. If all outputs of a run are up to date, the run does not use `engine`.
    """

    resolved: LatentModel
    part: str
    choice: DeviceChoice
    more_parts: tuple[str, ...] = ()

    def __getstate__(self) -> dict[str, object]:
        """A pickled handle has no loaded model: another process loads its own."""
        return {key: value for key, value in vars(self).items() if key not in _OF_PROCESS}

    @property
    def label(self) -> str:
        """The model's name, for records and messages."""
        return self.resolved.label

    @cached_property
    def traits(self) -> ModelTraits:
        """What the model is and can do. Raises ModelError."""
        return self.resolved.read_traits()

    @cached_property
    def identity(self) -> ModelIdentity:
        """The hashes of the latent space and of the weights. Raises ModelError."""
        return self.resolved.identify()

    @cached_property
    def sensitivity(self) -> npt.NDArray[np.float32] | None:
        """The sensitivity of each latent channel, float32 [C], or None if the model has none."""
        return read_sensitivity(self.resolved.read_settings(), self.traits.channels)

    def check(self, precision: str | None = None) -> None:
        """Reads the model without its weights, to find damage early. Raises ModelError."""
        _ = self.traits, self.identity
        if precision is not None:
            self.choose_steps(precision)

    def choose_steps(self, precision: str) -> npt.NDArray[np.float32] | None:
        """Returns the quantiser steps of a precision, float32 [C], or None for bf16 and f32."""
        return choose_steps(precision, self.traits.channels, self.sensitivity)

    @cached_property
    def compute(self) -> str:
        """The field `compute` of the records that `engine` makes.

        Imports torch, but loads no weights. Raises DeviceError.
        """
        device, dtype = self._resolve()
        step = None if self.gpu_step is None else self.gpu_step.step
        return str(Compute.from_torch(device, dtype, compiled=self.choice.compiled, step=step))

    @cached_property
    def gpu_step(self) -> GpuStep | None:
        """How a CUDA device computes; None on other devices, or if the model has one way.

        Imports torch and, on CUDA, checks the device. Raises DeviceError, UsageError.
        """
        device, dtype = self._resolve()
        if device.type != "cuda":
            return None
        from dinac_cli.models.device import prepare_device

        prepare_device(device)
        return self.resolved.choose_step(device, dtype, compiled=self.choice.compiled)

    def _resolve(self) -> tuple[torch.device, torch.dtype]:
        from dinac_cli.models.device import resolve_device, resolve_dtype

        device = resolve_device(self.choice.device)
        return device, resolve_dtype(self.choice.dtype, device)

    def use_device(self, name: str) -> None:
        """Computes on the device `name` from now on. Call this before the model is used."""
        self.choice = replace(self.choice, device=name)

    @property
    def is_on_cpu(self) -> bool:
        """True if the model is loaded and the CPU computes."""
        return "engine" in vars(self) and self.engine.device.type == "cpu"

    def take_busy_spans(self) -> list[tuple[float, float]]:
        """Returns when a GPU has computed since the last call; see `BusyTimer`."""
        return self.engine.take_busy_spans() if "engine" in vars(self) else []

    def take_remarks(self) -> list[str]:
        """Returns new remarks about the device; none before the model is used."""
        return self.engine.take_remarks() if "engine" in vars(self) else []

    def measure_room(self) -> tuple[int, int] | None:
        """Returns the room on a GPU for further processes; None before the model is used."""
        return self.engine.measure_room() if "engine" in vars(self) else None

    @cached_property
    def engine(self) -> Engine:
        """The loaded model. Its GPU becomes the current one. Raises ModelError, DeviceError."""
        from dinac_cli.codec.engine import load_engine

        device, dtype = self._resolve()
        return load_engine(
            self.resolved,
            (self.part, *self.more_parts),
            device,
            dtype,
            self.gpu_step,
            compiled=self.choice.compiled,
        )


class BatchGroup(NamedTuple):
    """All that the images of one batch share: the model, and the padded size in pixels."""

    model: ModelHandle
    height: int
    width: int
