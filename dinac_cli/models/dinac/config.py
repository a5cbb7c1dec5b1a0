"""The sizes and constants of a network. Does not import torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from dinac_cli.errors import ModelError, OutputError
from dinac_cli.models.interface import (
    CLASS_HEAD,
    DECODER,
    ENCODER,
    ModelTraits,
    is_finite,
    is_int,
)
from dinac_cli.models.json_file import read_json

ENCODER_HEAD_DIM = 64
"""The width of the encoder's attention heads. It is the same in all configurations."""

TIME_FREQUENCIES = 128
"""The number of frequencies in the decoder's time embedding. Each gives a sine and a cosine."""

TRANSFORMER, FCDM, NO_ENCODER = ENCODER_TYPES = ("transformer", "fcdm", "none")
"""The encoder's blocks: transformer blocks, convolution blocks (SemDisDiffAE), or no encoder."""

DISABLED, CHANNEL_WISE = NORM_MODES = ("disabled", "channel_wise")
"""Whether the mean of the posterior is divided by its root mean square over the channels."""

CONFIRMED = "bottleneck_norm_confirmed"
"""The key of a `config.json` that says that its `bottleneck_norm_mode` is right."""

_POSTERIOR = {"bottleneck_posterior_kind": "diagonal_gaussian"}
_KINDS = {"encoder_mlp_type": "gelu", **_POSTERIOR, "bottleneck_norm_mode": DISABLED}
_CLASS_HEAD_KINDS = {"class_head_mlp_type": "gelu"}

UNKNOWN_ORDER = (
    "the order of its channels is not published, so it is not supported; "
    "use data-archetype/semdisdiffae_p32_v2"
)
"""Why dinac refuses a network that folds 2 x 2 latents into the channels."""

CLASS_HEAD_SIZES = (
    "class_head_feature_dim",
    "class_head_model_dim",
    "class_head_head_dim",
    "class_head_mlp_ratio",
    "class_head_register_token_count",
)

_NAMES_SHOWN = 3

# These fields are no numbers. A `config.json` names them only if they have another value.
_RARE: dict[str, object] = {"encoder_type": TRANSFORMER, "has_latent_statistics": True}

_CONSTANTS = ("logsnr_min", "logsnr_max", "pixel_noise_std", "latent_running_stats_eps")
"""The keys of the constants, which cannot be inferred from tensor shapes.

A missing key gets the value of the published models.
"""

# The upper bounds are far above the sizes of trained networks. Without them, a hostile
# file could fill the memory.
_INTEGER_RANGES = {
    "in_channels": (3, 3),
    "patch_size": (1, 64),
    "model_dim": (ENCODER_HEAD_DIM, 8192),
    "encoder_depth": (0, 128),
    "decoder_depth": (1, 128),
    "decoder_start_blocks": (1, 128),
    "decoder_end_blocks": (1, 128),
    "bottleneck_dim": (1, 4096),
    "depthwise_kernel_size": (1, 31),
    "adaln_low_rank_rank": (1, 8192),
    "class_head_feature_dim": (4, 8192),
    "class_head_model_dim": (4, 8192),
    "class_head_head_dim": (4, 1024),
    "class_head_register_token_count": (1, 1024),
}
_REAL_RANGES = {
    "mlp_ratio": (1 / 64, 64.0),
    "class_head_mlp_ratio": (1 / 64, 64.0),
    "logsnr_min": (-40.0, 40.0),
    "logsnr_max": (-40.0, 40.0),
    "pixel_noise_std": (1e-6, 100.0),
    "latent_running_stats_eps": (1e-12, 1.0),
}


@dataclass(frozen=True)
class DinacAEConfig:
    """The sizes and constants of a network. The defaults are the values of DINAC-AE-D2.

    If the network has no class head, all five `class_head_*` fields are None. `encoder_type` is one
    of ENCODER_TYPES; without an encoder, `encoder_depth` is 0. `bottleneck_norm_mode` is one of
    NORM_MODES. If `has_latent_statistics` is false, latents are not whitened. Raises ModelError if
    a value has the wrong type, is out of range or contradicts another value.
    """

    in_channels: int = 3
    patch_size: int = 16
    model_dim: int = 896
    encoder_depth: int = 8
    decoder_depth: int = 8
    decoder_start_blocks: int = 2
    decoder_end_blocks: int = 2
    bottleneck_dim: int = 128
    mlp_ratio: float = 4.0
    depthwise_kernel_size: int = 7
    adaln_low_rank_rank: int = 128
    logsnr_min: float = -10.0
    logsnr_max: float = 10.0
    pixel_noise_std: float = 0.558
    latent_running_stats_eps: float = 1e-4
    class_head_feature_dim: int | None = 768
    class_head_model_dim: int | None = 768
    class_head_head_dim: int | None = 64
    class_head_mlp_ratio: float | None = 4.0
    class_head_register_token_count: int | None = 4
    encoder_type: str = TRANSFORMER
    bottleneck_norm_mode: str = DISABLED
    has_latent_statistics: bool = True

    def __post_init__(self) -> None:
        absent = [key for key in CLASS_HEAD_SIZES if getattr(self, key) is None]
        if len(absent) < len(CLASS_HEAD_SIZES):
            _demand_no_absent_head_key(absent)
        for field in fields(self):
            if field.name in _INTEGER_RANGES.keys() | _REAL_RANGES and field.name not in absent:
                object.__setattr__(self, field.name, _checked(field.name, self))
        _demand_one_of("encoder_type", self.encoder_type, ENCODER_TYPES)
        modes = NORM_MODES if self.encoder_type == FCDM else (DISABLED,)
        _demand_one_of("bottleneck_norm_mode", self.bottleneck_norm_mode, modes)
        _demand(
            (self.encoder_type == NO_ENCODER) == (self.encoder_depth == 0),
            f"encoder_depth is {self.encoder_depth}, but encoder_type is {self.encoder_type!r}",
        )
        has_statistics = self.has_latent_statistics
        _demand_one_of("has_latent_statistics", has_statistics, (True, False))
        _demand_multiple("model_dim", self.model_dim, ENCODER_HEAD_DIM)
        _demand_whole("mlp_ratio", self.model_dim, self.mlp_ratio)
        kernel_size = self.depthwise_kernel_size
        _demand(kernel_size % 2 == 1, f"depthwise_kernel_size is {kernel_size}; it must be odd")
        _demand(
            self.decoder_middle_blocks >= 1,
            f"decoder_depth {self.decoder_depth} leaves no middle block between "
            f"{self.decoder_start_blocks} start and {self.decoder_end_blocks} end blocks",
        )
        _demand(
            self.logsnr_min < self.logsnr_max,
            f"logsnr_min {self.logsnr_min} is not below logsnr_max {self.logsnr_max}",
        )
        if self.class_head is not None:
            self.class_head.check_relations()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DinacAEConfig:
        """Reads a `config.json`. Raises ModelError if the file is damaged or not supported."""
        values = read_json(Path(path))
        try:
            return from_json(values)
        except ModelError as exc:
            raise ModelError(f"{path}: {exc}") from exc

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a `config.json`. Raises OutputError if the file cannot be written."""
        file = Path(path)
        part = file.with_name(f".{file.name}.part")
        try:
            part.write_bytes(format_json(self))
            part.replace(file)
        except OSError as exc:
            raise OutputError(
                f"{file} cannot be written: {exc.strerror or exc}; choose another place"
            ) from exc
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)

    @property
    def latent_channels(self) -> int:
        """The number of channels of a latent."""
        return self.bottleneck_dim

    @property
    def effective_patch_size(self) -> int:
        """The side of the square of pixels that one latent position stands for."""
        return self.patch_size

    @property
    def decoder_middle_blocks(self) -> int:
        """The number of middle blocks of the decoder. Path-drop skips these blocks."""
        return self.decoder_depth - self.decoder_start_blocks - self.decoder_end_blocks

    @property
    def mlp_dim(self) -> int:
        """The hidden width of the encoder's MLPs and of the decoder's blocks."""
        return round(self.model_dim * self.mlp_ratio)

    @property
    def class_head(self) -> ClassHeadConfig | None:
        """The sizes of the class head, or None if the network has no class head."""
        sizes = [getattr(self, key) for key in CLASS_HEAD_SIZES]
        return None if sizes[0] is None else ClassHeadConfig(*sizes)

    @property
    def traits(self) -> ModelTraits:
        """What a network of this configuration is and can do.

        The memory per latent position is two activations of the widest layer, six activations of
        the trunk, and four copies of the pixels, all in float32.
        """
        head, has_encoder = self.class_head, self.encoder_type != NO_ENCODER
        floats = 2 * self.mlp_dim + 6 * self.model_dim + 4 * 3 * self.patch_size**2
        return ModelTraits(
            patch=self.patch_size,
            channels=self.bottleneck_dim,
            parts=frozenset(
                ({ENCODER} if has_encoder else set())
                | {DECODER}
                | (set() if head is None else {CLASS_HEAD})
            ),
            has_posterior=has_encoder,
            has_steps=True,
            feature_dim=None if head is None else head.feature_dim,
            token_bytes=4 * floats,
        )

    def without_class_head(self) -> DinacAEConfig:
        """Returns the configuration of the same network without a class head."""
        absent: dict[str, Any] = dict.fromkeys(CLASS_HEAD_SIZES)
        return replace(self, **absent)


@dataclass(frozen=True)
class ClassHeadConfig:
    """The sizes of a class head: the `class_head_*` fields of a configuration."""

    feature_dim: int
    model_dim: int
    head_dim: int
    mlp_ratio: float
    register_token_count: int

    @property
    def mlp_dim(self) -> int:
        """The hidden width of the head's two MLPs."""
        return round(self.model_dim * self.mlp_ratio)

    def check_relations(self) -> None:
        """Raises ModelError if the sizes contradict each other."""
        _demand(
            self.feature_dim == self.model_dim,
            f"class_head_feature_dim {self.feature_dim} differs from class_head_model_dim "
            f"{self.model_dim}; they must be equal",
        )
        _demand_multiple("class_head_head_dim", self.head_dim, 4)
        _demand_multiple("class_head_model_dim", self.model_dim, self.head_dim)
        _demand_whole("class_head_mlp_ratio", self.model_dim, self.mlp_ratio)


def from_json(values: object) -> DinacAEConfig:
    """Reads the content of a `config.json`; ignores unknown keys.

    Raises ModelError if a size is missing, a value is invalid or a kind of layer is not supported.
    Also raises ModelError if only some of the `class_head_*` keys are present.
    """
    values = _demand_object(values)
    encoder_type = values.get("encoder_type")
    if encoder_type is None:
        encoder_type = FCDM if leaves_encoder_open(values) else TRANSFORMER
    return read_sizes(values, encoder_type)


def leaves_encoder_open(values: object) -> bool:
    """Whether a `config.json` has none of the keys that only transformer encoders have.

    These are `encoder_mlp_type` and the keys of the class head.
    """
    keys = ("encoder_mlp_type", *CLASS_HEAD_SIZES, *_CLASS_HEAD_KINDS)
    return isinstance(values, Mapping) and not any(values.get(key) is not None for key in keys)


def names_epsilon(values: object) -> bool:
    """Whether a `config.json` gives `latent_running_stats_eps`."""
    return isinstance(values, Mapping) and values.get("latent_running_stats_eps") is not None


def read_sizes(values: object, encoder_type: object) -> DinacAEConfig:
    """Reads the content of a `config.json` for a type of encoder; see `from_json`."""
    values = _demand_object(values)
    has_head = any(values.get(key) is not None for key in (*CLASS_HEAD_SIZES, *_CLASS_HEAD_KINDS))
    _demand_kinds(values, encoder_type, has_head=has_head)
    known = {field.name for field in fields(DinacAEConfig)} - {"encoder_type"}
    given = {key: values[key] for key in values if key in known}
    required = known - set(_CONSTANTS) - set(CLASS_HEAD_SIZES) - set(_RARE)
    absent = sorted(required - given.keys() - {"bottleneck_norm_mode"})
    if absent:
        shown = ", ".join(absent[:_NAMES_SHOWN]) + (", …" if len(absent) > _NAMES_SHOWN else "")
        raise ModelError(f"the configuration lacks {shown}; is this a DINAC-AE config.json?")
    if has_head:
        _demand_no_absent_head_key([key for key in CLASS_HEAD_SIZES if given.get(key) is None])
    chosen: dict[str, Any] = {**dict.fromkeys(CLASS_HEAD_SIZES), **given}
    return DinacAEConfig(**chosen, encoder_type=encoder_type)  # type: ignore[arg-type]  # checked


def complete_sizes(inferred: DinacAEConfig, values: object) -> DinacAEConfig:
    """Adds the constants of a `config.json` to the sizes that the tensors have.

    Raises ModelError if the `config.json` contradicts the tensors, or asks for what dinac does not
    support.
    """
    values = _demand_object(values)
    _demand_kinds(values, inferred.encoder_type, has_head=False)
    skipped = {*_CONSTANTS, *CLASS_HEAD_SIZES, "bottleneck_norm_mode", "has_latent_statistics"}
    chosen = set(_CONSTANTS)
    if inferred.encoder_type == NO_ENCODER:
        skipped |= {"encoder_depth"}  # the configuration may be that of the whole network
    else:
        chosen |= {"bottleneck_norm_mode"}
    for field in fields(DinacAEConfig):
        wanted, held = values.get(field.name), getattr(inferred, field.name)
        _demand(
            wanted is None or wanted == held or field.name in skipped,
            f"{field.name} is {_show(wanted)}, but the tensors have {held}; use the config.json "
            "that belongs to these weights",
        )
    given: dict[str, Any] = {key: values[key] for key in chosen if values.get(key) is not None}
    return replace(inferred, **given)


def _demand_object(values: object) -> Mapping[str, object]:
    if not isinstance(values, Mapping):
        raise ModelError("the configuration is not a JSON object; is this a DINAC-AE config.json?")
    return values


def _demand_kinds(values: Mapping[str, object], encoder_type: object, *, has_head: bool) -> None:
    """Raises ModelError if a `config.json` asks for a kind of layer that is not supported."""
    kinds = _KINDS if encoder_type == TRANSFORMER else _POSTERIOR
    for key, kind in (kinds | (_CLASS_HEAD_KINDS if has_head else {})).items():
        found = values.get(key, kind)
        _demand(found == kind, f"{key} is {_show(found)}; only {kind!r} is supported")
    patchify = values.get("bottleneck_patchify_mode")
    _demand(
        patchify in (None, "off"), f"bottleneck_patchify_mode is {_show(patchify)}; {UNKNOWN_ORDER}"
    )


def to_json(config: DinacAEConfig) -> dict[str, Any]:
    """Returns the content of a `config.json`. From this content, `from_json` restores `config`."""
    kinds = dict(_KINDS if config.encoder_type == TRANSFORMER else _POSTERIOR)
    kinds |= {} if config.class_head is None else _CLASS_HEAD_KINDS
    values = {key: value for key, value in asdict(config).items() if value is not None}
    return {k: value for k, value in values.items() if _RARE.get(k) != value} | kinds


def format_json(config: DinacAEConfig, settings: Mapping[str, object] | None = None) -> bytes:
    """Returns the bytes of a `config.json`. `settings` are additional keys."""
    values = {**(settings or {}), **to_json(config)}
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()


def _checked(name: str, config: DinacAEConfig) -> int | float:
    value = getattr(config, name)
    is_size = name in _INTEGER_RANGES
    low, high = _INTEGER_RANGES[name] if is_size else _REAL_RANGES[name]
    kind = "an integer" if is_size else "a number"
    _demand(
        (is_int if is_size else is_finite)(value) and low <= value <= high,
        f"{name} is {_show(value)}; it must be {kind} from {low:g} to {high:g}",
    )
    return int(value) if is_size else float(value)


def _show(value: object) -> str:
    # `repr` fails on a list or dict that is nested too deeply.
    simple = value is None or isinstance(value, (bool, int, float, str))
    return f"{value!r:.40}" if simple else f"a {type(value).__name__}"


def _demand(holds: bool, problem: str) -> None:
    if not holds:
        raise ModelError(f"the configuration's {problem}")


def _demand_one_of(name: str, value: object, known: tuple[object, ...]) -> None:
    wanted = " or ".join(map(repr, known))
    _demand(value in known, f"{name} is {_show(value)}; it must be {wanted}")


def _demand_multiple(name: str, value: int, divisor: int) -> None:
    _demand(value % divisor == 0, f"{name} is {value}; it must be divisible by {divisor}")


def _demand_whole(name: str, dim: int, ratio: float) -> None:
    _demand(
        abs(dim * ratio - round(dim * ratio)) <= 1e-6,
        f"{name} is {ratio}; its product with the width {dim} must be an integer",
    )


def _demand_no_absent_head_key(absent: list[str]) -> None:
    if absent:
        raise ModelError(
            f"the configuration has some class_head_* keys but lacks {', '.join(absent)}; "
            "add them, or remove all class_head_* keys"
        )


RELEASED = {
    "d2": DinacAEConfig(),
    "dinac-ae": DinacAEConfig(encoder_depth=6),
    "semdisdiffae": DinacAEConfig(encoder_type=FCDM, encoder_depth=4).without_class_head(),
    "semdisdiffae-p32": DinacAEConfig(
        encoder_type=FCDM, encoder_depth=8, patch_size=32, model_dim=1024, bottleneck_dim=384
    ).without_class_head(),
}
"""The configurations of the published networks. The keys are aliases."""
