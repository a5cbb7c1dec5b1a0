"""A model chosen for a run: known by its identity at once, loaded when the first image needs it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dinac_cli.codec.quantizer import choose_steps, read_sensitivity
from dinac_cli.models.dinac.config import DinacAEConfig
from dinac_cli.models.identity import ModelIdentity
from dinac_cli.models.registry import ResolvedModel

if TYPE_CHECKING:
    from dinac_cli.codec.engine import Engine


@dataclass(frozen=True)
class DeviceChoice:
    """The `--device`, `--dtype` and `--compile` options; resolved only when a model is loaded."""

    device: str = "auto"
    dtype: str = "auto"
    compiled: bool = False


@dataclass
class ModelHandle:
    """One model and the part of it ("encoder", "decoder", "class_head") that a run needs.

    `more_parts` are others that it needs as well.

    Its configuration and identity are read without torch, so a run that finds everything done
    never imports it. `engine` loads the weights, once.
    """

    resolved: ResolvedModel
    part: str
    choice: DeviceChoice
    more_parts: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What records and messages call it."""
        return self.resolved.label

    @cached_property
    def config(self) -> DinacAEConfig:
        """Sizes and constants. Raises ModelError."""
        return self.resolved.read_config()

    @cached_property
    def identity(self) -> ModelIdentity:
        """Which network it is. Raises ModelError."""
        return self.resolved.identify()

    @cached_property
    def sensitivity(self) -> npt.NDArray[np.float32] | None:
        """The calibration of its latent channels, float32 [C], where it ships one."""
        return read_sensitivity(self.resolved.read_settings(), self.config.bottleneck_dim)

    def check(self, precision: str | None = None) -> None:
        """Read what is needed before the weights. Raises ModelError: of the run, not of a file."""
        _ = self.config, self.identity
        if precision is not None:
            self.choose_steps(precision)

    def choose_steps(self, precision: str) -> npt.NDArray[np.float32] | None:
        """Quantiser steps float32 [C] of a precision; None for bf16 and f32."""
        return choose_steps(precision, self.config.bottleneck_dim, self.sensitivity)

    @cached_property
    def engine(self) -> Engine:
        """The loaded model. Raises ModelError, DeviceError."""
        from dinac_cli.codec.engine import Engine
        from dinac_cli.models.device import resolve_device, resolve_dtype
        from dinac_cli.models.dinac.autoencoder import DinacAE
        from dinac_cli.models.dinac.fast.autoencoder import accelerate

        device = resolve_device(self.choice.device)
        dtype = resolve_dtype(self.choice.dtype, device)
        parts = (self.part, *self.more_parts)
        model = DinacAE.from_pretrained(self.resolved.path, device=device, dtype=dtype, parts=parts)
        return Engine(accelerate(model, compiled=self.choice.compiled))
