"""The sizes and constants of a network. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from dinac_cli.errors import ModelError
from dinac_cli.models.interface import is_finite, is_int

ENCODER_HEAD_DIM = 64
"""Width of one attention head of the encoder; it has no configuration key."""

TIME_FREQUENCIES = 128
"""Number of frequencies in the decoder's time embedding, which is twice as wide."""

_KINDS = {
    "encoder_mlp_type": "gelu",
    "bottleneck_posterior_kind": "diagonal_gaussian",
    "bottleneck_norm_mode": "disabled",
}
_CLASS_HEAD_KINDS = {"class_head_mlp_type": "gelu"}

CLASS_HEAD_SIZES = (
    "class_head_feature_dim",
    "class_head_model_dim",
    "class_head_head_dim",
    "class_head_mlp_ratio",
    "class_head_register_token_count",
)

_CONSTANTS = ("logsnr_min", "logsnr_max", "pixel_noise_std", "latent_running_stats_eps")
"""Values that tensor shapes do not determine: a missing one takes its released value."""

# Upper bounds far above any trained network: they refuse a hostile file before it can fill memory.
_INTEGER_RANGES = {
    "in_channels": (3, 3),
    "patch_size": (1, 64),
    "model_dim": (ENCODER_HEAD_DIM, 8192),
    "encoder_depth": (1, 128),
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
    """Sizes and constants of one network; the defaults are those of DINAC-AE-D2.

    The five `class_head_*` fields are all None for a network without a class head. Raises
    ModelError if a value has the wrong type or is out of range, or if sizes contradict each other.
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

    def __post_init__(self) -> None:
        absent = [key for key in CLASS_HEAD_SIZES if getattr(self, key) is None]
        if len(absent) < len(CLASS_HEAD_SIZES):
            _demand_no_absent_head_key(absent)
        for field in fields(self):
            if field.name not in absent:
                object.__setattr__(self, field.name, _checked(field.name, self))
        self._check_relations()

    def _check_relations(self) -> None:
        _demand_multiple("model_dim", self.model_dim, ENCODER_HEAD_DIM)
        _demand_whole("mlp_ratio", self.model_dim, self.mlp_ratio)
        if self.depthwise_kernel_size % 2 == 0:
            raise ModelError(
                f"the configuration's depthwise_kernel_size is {self.depthwise_kernel_size}; "
                "it must be odd"
            )
        if self.decoder_middle_blocks < 1:
            raise ModelError(
                f"the configuration's decoder_depth {self.decoder_depth} leaves no middle block "
                f"between {self.decoder_start_blocks} start and {self.decoder_end_blocks} end "
                "blocks"
            )
        if self.logsnr_min >= self.logsnr_max:
            raise ModelError(
                f"the configuration's logsnr_min {self.logsnr_min} is not below its logsnr_max "
                f"{self.logsnr_max}"
            )
        head = self.class_head
        if head is not None:
            head.check_relations()

    @property
    def decoder_middle_blocks(self) -> int:
        """Number of decoder blocks that path-drop skips."""
        return self.decoder_depth - self.decoder_start_blocks - self.decoder_end_blocks

    @property
    def mlp_dim(self) -> int:
        """Hidden width of the encoder's MLPs and of the decoder's blocks."""
        return round(self.model_dim * self.mlp_ratio)

    @property
    def class_head(self) -> ClassHeadConfig | None:
        """The sizes of the class head, or None if the network has none."""
        sizes = [getattr(self, key) for key in CLASS_HEAD_SIZES]
        return None if sizes[0] is None else ClassHeadConfig(*sizes)

    def without_class_head(self) -> DinacAEConfig:
        """Returns the same network without a class head."""
        absent: dict[str, Any] = dict.fromkeys(CLASS_HEAD_SIZES)
        return replace(self, **absent)


@dataclass(frozen=True)
class ClassHeadConfig:
    """Sizes of the class head: the `class_head_*` fields of a configuration."""

    feature_dim: int
    model_dim: int
    head_dim: int
    mlp_ratio: float
    register_token_count: int

    @property
    def mlp_dim(self) -> int:
        """Hidden width of the head's two MLPs."""
        return round(self.model_dim * self.mlp_ratio)

    def check_relations(self) -> None:
        """Raises ModelError if the sizes contradict each other."""
        if self.feature_dim != self.model_dim:
            raise ModelError(
                f"the configuration's class_head_feature_dim {self.feature_dim} differs from its "
                f"class_head_model_dim {self.model_dim}; they must be equal"
            )
        _demand_multiple("class_head_head_dim", self.head_dim, 4)
        _demand_multiple("class_head_model_dim", self.model_dim, self.head_dim)
        _demand_whole("class_head_mlp_ratio", self.model_dim, self.mlp_ratio)


def from_json(values: object) -> DinacAEConfig:
    """Reads the object of a `config.json`; ignores unknown keys.

    Raises ModelError if a size is missing, a value has the wrong type or is out of range, only some
    `class_head_*` keys are present, or a kind of layer was never released.
    """
    if not isinstance(values, Mapping):
        raise ModelError("the configuration is not a JSON object; is this a DINAC-AE config.json?")
    has_head = any(values.get(key) is not None for key in (*CLASS_HEAD_SIZES, *_CLASS_HEAD_KINDS))
    _demand_released_kinds(values, _KINDS | (_CLASS_HEAD_KINDS if has_head else {}))
    known = {field.name for field in fields(DinacAEConfig)}
    given = {key: values[key] for key in values if key in known}
    absent = sorted(known - given.keys() - set(_CONSTANTS) - set(CLASS_HEAD_SIZES))
    if absent:
        raise ModelError(
            f"the configuration lacks {', '.join(absent)}; is this a DINAC-AE config.json?"
        )
    head = {key: given.get(key) for key in CLASS_HEAD_SIZES}
    if has_head:
        _demand_no_absent_head_key([key for key, value in head.items() if value is None])
    return DinacAEConfig(**{**given, **head})


def to_json(config: DinacAEConfig) -> dict[str, Any]:
    """Returns the keys and values of the `config.json` that `from_json` reads as `config`."""
    if config.class_head is not None:
        return {**asdict(config), **_KINDS, **_CLASS_HEAD_KINDS}
    return {k: v for k, v in asdict(config).items() if k not in CLASS_HEAD_SIZES} | _KINDS


def is_network_config(values: object) -> bool:
    """Whether a `config.json` beside a weights file describes a DINAC-AE network."""
    return isinstance(values, Mapping) and {"model_dim", "bottleneck_dim"} <= values.keys()


def _checked(name: str, config: DinacAEConfig) -> int | float:
    value = getattr(config, name)
    if name in _INTEGER_RANGES:
        low, high = _INTEGER_RANGES[name]
        if is_int(value) and low <= value <= high:
            return int(value)
        raise ModelError(
            f"the configuration's {name} is {_show(value)}; "
            f"it must be an integer from {low} to {high}"
        )
    least, most = _REAL_RANGES[name]
    if is_finite(value) and least <= value <= most:
        return float(value)
    raise ModelError(
        f"the configuration's {name} is {_show(value)}; "
        f"it must be a number from {least:g} to {most:g}"
    )


def _show(value: object) -> str:
    # A value can be nested as deeply as its JSON, too deeply for repr.
    simple = value is None or isinstance(value, (bool, int, float, str))
    return f"{value!r:.40}" if simple else f"a {type(value).__name__}"


def _demand_no_absent_head_key(absent: list[str]) -> None:
    if absent:
        raise ModelError(
            f"the configuration has some class_head_* keys but lacks {', '.join(absent)}"
        )


def _demand_multiple(name: str, value: int, divisor: int) -> None:
    if value % divisor:
        raise ModelError(
            f"the configuration's {name} is {value}; it must be divisible by {divisor}"
        )


def _demand_whole(name: str, dim: int, ratio: float) -> None:
    if abs(dim * ratio - round(dim * ratio)) > 1e-6:
        raise ModelError(
            f"the configuration's {name} is {ratio}; times the width {dim} it must be an integer"
        )


def _demand_released_kinds(values: Mapping[str, object], released: Mapping[str, str]) -> None:
    for key, kind in released.items():
        if values.get(key, kind) != kind:
            raise ModelError(
                f"the configuration's {key} is {_show(values[key])}; only {kind!r} is supported"
            )


RELEASED = {"d2": DinacAEConfig(), "dinac-ae": DinacAEConfig(encoder_depth=6)}
"""The published networks."""
