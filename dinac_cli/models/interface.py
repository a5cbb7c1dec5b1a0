"""What every model offers: its facts, its identity, and how it is opened. Does not import torch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeGuard

from dinac_cli.errors import UsageError
from dinac_cli.models.aliases import HUB_ALIASES, NANO

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dinac_cli.models.identity import ModelIdentity
    from dinac_cli.models.tensor_file import TensorTable

ENCODER, DECODER, CLASS_HEAD = "encoder", "decoder", "class_head"
"""The parts of a model that can be loaded separately."""

GRAPHS, TRITON, TORCH, PLAIN = STEPS = ("graphs", "triton", "torch", "plain")
"""How a CUDA device computes, from the fastest to the slowest; see `GpuStep`."""

STEP_VARIABLE = "DINAC_CUDA"
"""The environment variable that names a step. If that step does not work, the run fails."""

SAMPLERS = ("ddim", "dpmpp_2m")
SCHEDULES = ("linear", "cosine")


@dataclass(frozen=True)
class DinacAEInferenceConfig:
    """The settings for decoding latents.

    `num_steps` is the number of decoder evaluations (NFE). With path-drop guidance (`pdg`), the
    decoder is evaluated twice as often. `sampler` is "ddim" or "dpmpp_2m"; the spelling "dpmpp-2m"
    is accepted. `schedule` is "linear" or "cosine". `strength`, in (0, 1], multiplies the diffusion
    times. If `seed` is None, every image gets fresh noise. Raises UsageError if a field is out of
    range.
    """

    num_steps: int = 1
    sampler: str = "ddim"
    schedule: str = "linear"
    pdg: bool = False
    pdg_strength: float = 2.0
    strength: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.sampler == "dpmpp-2m":
            object.__setattr__(self, "sampler", "dpmpp_2m")
        self._demand("num_steps", is_int(self.num_steps) and self.num_steps >= 1, "an integer ≥ 1")
        self._demand("sampler", self.sampler in SAMPLERS, " or ".join(SAMPLERS))
        self._demand("schedule", self.schedule in SCHEDULES, " or ".join(SCHEDULES))
        self._demand("pdg", isinstance(self.pdg, bool), "True or False")
        self._demand("pdg_strength", is_finite(self.pdg_strength), "a finite number")
        self._demand(
            "strength", is_finite(self.strength) and 0 < self.strength <= 1, "a number in (0, 1]"
        )
        self._demand(
            "seed",
            self.seed is None or (is_int(self.seed) and -(2**63) <= self.seed < 2**64),
            "None or a 64-bit integer",
        )

    def _demand(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise UsageError(f"{name} is {getattr(self, name)!r}; it must be {wanted}")


def is_int(value: object) -> TypeGuard[int]:
    """True for an integer that is not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: object) -> bool:
    """True for a finite float, or an integer that a float holds exactly."""
    if isinstance(value, float):
        return math.isfinite(value)
    return is_int(value) and abs(value) < 2**53


@dataclass(frozen=True)
class ModelTraits:
    """What a model is and what it can do.

    A latent is [channels, h, w], and one position of it stands for patch x patch pixels. `parts`
    are the parts that the model has, of ENCODER, DECODER and CLASS_HEAD. `has_posterior` says
    whether the encoder also gives a log-SNR for each value. A decoder that `has_steps` is a
    diffusion decoder, which takes all of `DinacAEInferenceConfig`; another one ignores it.
    `feature_dim` is the width of the predicted features, or None without a class head.
    `token_bytes` is a generous estimate of the peak memory per latent position, in bytes. If
    `can_compile` is false, the model refuses to be opened `compiled`.
    """

    patch: int
    channels: int
    parts: frozenset[str]
    has_posterior: bool
    has_steps: bool
    feature_dim: int | None
    token_bytes: int
    can_compile: bool = True


class GpuStep(Protocol):
    """How a CUDA device computes a model: one of STEPS. It is chosen before the first image."""

    @property
    def step(self) -> str:
        """One of STEPS."""

    def describe(self) -> str | None:
        """Returns one line for the user, if the GPU computes in a slower way than it could."""


class OpenModel(Protocol):
    """A model in memory, on one device. The codec calls nothing else.

    Pixels are uint8 [B, H, W, 3] with sides divisible by the patch. Latents are whitened: float32
    [B, C, h, w]. The result for an image must not depend on the other images of a batch. Tensors
    that are returned are contiguous.
    """

    @property
    def traits(self) -> ModelTraits:
        """The facts of the model."""

    @property
    def device(self) -> torch.device:
        """The device that holds the model."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of the matrix products: float32 or bfloat16."""

    @property
    def is_compiled(self) -> bool:
        """Whether the model runs code from torch.compile, which rounds differently."""

    def encode_batch(
        self, pixels: Tensor, *, logsnr: bool = False, class_token: bool = False
    ) -> tuple[Tensor, ...]:
        """Returns the latents, the log-SNR (of their shape) and the class tokens [B, D].

        Only what is asked for follows the latents; it must not change them.
        """

    def decode_batch(self, latents: Tensor, settings: DinacAEInferenceConfig) -> Tensor:
        """Decodes latents to pixels."""

    def predict_batch(self, latents: Tensor, *, spatial: bool) -> Tensor:
        """Predicts features of latents, float32 [B, 1, D]: the class token of each image.

        If `spatial` is true, returns [B, 1 + h·w, D]: the patch tokens follow, row by row.
        """

    def measure_deviation(self, logsnr: Tensor) -> Tensor:
        """Returns the deviation of the posterior of whitened latents, float32 [B, C, h, w].

        `logsnr` is the log-SNR that `encode_batch` returns. Needs no part of the model.
        """

    def list_constants(self) -> list[Tensor]:
        """Returns the tensors that are cached between calls, which recorded graphs keep alive."""

    def forget_starts(self) -> None:
        """Frees what is cached between calls and is large."""


@dataclass(frozen=True)
class LatentModel(ABC):
    """A model on disk. The codec, the jobs and the commands know no more of a model.

    `path` is a folder or a .safetensors file, which may be missing. `label` names the model in
    records and messages. `revision` is the Hub commit, the number of the embedded model, or "" for
    a local path. A subclass is a family of models; see `families`. It can be pickled and is a key
    of dicts. Its methods raise ModelError if the checkpoint is missing, damaged or not supported.
    """

    path: Path
    label: str
    revision: str = ""

    weights_pattern: ClassVar[str] = "*.safetensors"
    """The weights files to download, in the folder of the configuration: a name or a pattern."""

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a folder or file is a checkpoint of this family. Raises no error."""

    @property
    def is_public(self) -> bool:
        """True if the label names a published model. Such a label says nothing about the user."""
        return bool(self.revision) and self.label in (NANO, *HUB_ALIASES.values())

    @abstractmethod
    def read_traits(self) -> ModelTraits:
        """Reads the facts of the model, but no weights."""

    @abstractmethod
    def identify(self) -> ModelIdentity:
        """Returns the hashes of the latent space and of the weights."""

    @abstractmethod
    def open(
        self,
        parts: Collection[str],
        device: torch.device,
        dtype: torch.dtype,
        step: GpuStep | None = None,
        *,
        compiled: bool = False,
    ) -> OpenModel:
        """Loads the parts of the model. `step` is the result of `choose_step`."""

    @abstractmethod
    def read_table(self) -> TensorTable:
        """Reads the names, types and shapes of the tensors."""

    @abstractmethod
    def find_part(self, tensor: str) -> str | None:
        """Returns the part that a tensor belongs to; None if the tensor is no parameter."""

    @abstractmethod
    def keeps_float32(self, tensor: str) -> bool:
        """Whether a tensor stays float32 in a bfloat16 model."""

    def read_settings(self) -> Mapping[str, object]:
        """Returns the keys of the configuration; the codec looks for `channel_sensitivity`."""
        return {}

    def demand_library(self) -> None:  # noqa: B027  most families need no further library
        """Raises MissingLibraryError if `open` needs a library that is not installed. Is quick."""

    def choose_step(
        self, device: torch.device, dtype: torch.dtype, *, compiled: bool = False
    ) -> GpuStep | None:
        """Chooses how a CUDA device computes. None is right if the model has only one way.

        Raises DeviceError, UsageError.
        """
        return None
