"""The sizes and constants of a FLUX.2 VAE. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dinac_cli.errors import ModelError
from dinac_cli.models.interface import DECODER, ENCODER, ModelTraits, is_finite, is_int

CLASS_NAME = "AutoencoderKLFlux2"
"""The value of `_class_name` in the config.json of a FLUX.2 VAE."""

UNSHUFFLE = 2
"""The side of the square of positions that whitened latents gather into their channels."""

_FIXED: Mapping[str, object] = {
    "in_channels": 3,
    "out_channels": 3,
    "act_fn": "silu",
    "mid_block_add_attention": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "patch_size": [UNSHUFFLE, UNSHUFFLE],
}
"""The keys whose other values no published VAE has."""

# The upper bounds are far above the sizes of trained networks. Without them, a hostile file could
# fill the memory.
_LEVELS = (2, 6)
_INTEGER_RANGES = {
    "latent_channels": (1, 256),
    "layers_per_block": (1, 16),
    "norm_num_groups": (1, 1024),
}
_WIDTHS = (1, 4096)
_EPS = (1e-12, 1.0)

# A convolution computes with copies of its input and output, while its block keeps what it adds at
# its end. So there are five activations, beside the input of the level.
_ACTIVATIONS = 5


@dataclass(frozen=True)
class Flux2Config:
    """The sizes and constants of a VAE. The defaults are the values of FLUX.2.

    A level halves the resolution of the level before it. `block_out_channels` holds the width of
    each level of the encoder, from the pixels down; `decoder_block_out_channels` that of the
    decoder, or None if it is the same. Raises ModelError if a value has the wrong type or is out of
    range.
    """

    latent_channels: int = 32
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    decoder_block_out_channels: tuple[int, ...] | None = None
    layers_per_block: int = 2
    norm_num_groups: int = 32
    batch_norm_eps: float = 1e-4

    def __post_init__(self) -> None:
        for name, (low, high) in _INTEGER_RANGES.items():
            value = getattr(self, name)
            _demand(
                is_int(value) and low <= value <= high,
                f"{name} is {_show(value)}; it must be an integer from {low} to {high}",
            )
        eps, (low_eps, high_eps) = self.batch_norm_eps, _EPS
        _demand(
            is_finite(eps) and low_eps <= eps <= high_eps,
            f"batch_norm_eps is {_show(eps)}; it must be a number from {low_eps:g} to {high_eps:g}",
        )
        object.__setattr__(self, "batch_norm_eps", float(eps))
        self._check_widths("block_out_channels")
        if self.decoder_block_out_channels is not None:
            self._check_widths("decoder_block_out_channels")
            _demand(
                len(self.decoder_block_out_channels) == len(self.block_out_channels),
                "decoder_block_out_channels and block_out_channels differ in length",
            )

    def _check_widths(self, name: str) -> None:
        widths, (low, high) = getattr(self, name), _WIDTHS
        _demand(
            isinstance(widths, (tuple, list)) and _LEVELS[0] <= len(widths) <= _LEVELS[1],
            f"{name} is {_show(widths)}; it must be a list of {_LEVELS[0]} to {_LEVELS[1]} widths",
        )
        object.__setattr__(self, name, tuple(widths))
        for width in widths:
            _demand(
                is_int(width) and low <= width <= high and width % self.norm_num_groups == 0,
                f"{name} holds {_show(width)}; a width must be an integer from {low} to {high}, "
                f"divisible by norm_num_groups {self.norm_num_groups}",
            )

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """The width of each level of the decoder, from the pixels down."""
        return self.decoder_block_out_channels or self.block_out_channels

    @property
    def patch(self) -> int:
        """The side in pixels of the square that one position of the whitened latents covers."""
        return UNSHUFFLE << (len(self.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        """The number of channels of the whitened latents."""
        return UNSHUFFLE**2 * self.latent_channels

    @property
    def traits(self) -> ModelTraits:
        """What a VAE of this configuration is and can do.

        The posterior is a Gaussian with a variance of its own for each value. It is not variance
        preserving, so no log-SNR describes it.

        The memory per latent position is that of the activations of the most expensive level, and
        of four copies of the pixels, all in float32. The attention in the middle takes less.
        """
        encoder, decoder = self.block_out_channels, self.decoder_widths
        floats = 4 * 3 + max(
            _count_floats(encoder, (encoder[0], *encoder[:-1])),
            _count_floats(decoder, (*decoder[1:], decoder[-1])),
        )
        return ModelTraits(
            patch=self.patch,
            channels=self.channels,
            parts=frozenset({ENCODER, DECODER}),
            has_posterior=False,
            has_steps=False,
            feature_dim=None,
            can_compile=False,
            token_bytes=int(4 * self.patch**2 * floats),
        )

    def to_arguments(self) -> dict[str, Any]:
        """Returns the arguments of diffusers' class."""
        levels = len(self.block_out_channels)
        return {
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "block_out_channels": self.block_out_channels,
            "decoder_block_out_channels": self.decoder_block_out_channels,
            "layers_per_block": self.layers_per_block,
            "latent_channels": self.latent_channels,
            "norm_num_groups": self.norm_num_groups,
            "batch_norm_eps": self.batch_norm_eps,
        }


def _count_floats(widths: tuple[int, ...], entered: tuple[int, ...]) -> float:
    """Returns the floats per pixel that the most expensive level keeps.

    `entered` holds the width of the input of each level. A level is 4 times smaller than the one
    before it.
    """
    counts = (
        max(before + _ACTIVATIONS * width, _ACTIVATIONS * before) / float(4**level)
        for level, (width, before) in enumerate(zip(widths, entered, strict=True))
    )
    return max(counts)


def from_json(values: object) -> Flux2Config:
    """Reads the content of a `config.json`; ignores unknown keys.

    Raises ModelError if the content describes another model, a size is missing, or a value is
    invalid.
    """
    if not isinstance(values, Mapping) or values.get("_class_name") != CLASS_NAME:
        raise ModelError(f"the configuration has no _class_name {CLASS_NAME}")
    for key, fixed in _FIXED.items():
        found = values.get(key, fixed)
        _demand(found == fixed, f"{key} is {_show(found)}; only {_show(fixed)} is supported")
    sizes = {key: values[key] for key in Flux2Config.__dataclass_fields__ if key in values}
    for key in ("block_out_channels", "latent_channels"):
        _demand(key in sizes, f"{key} is missing; download the checkpoint again")
    config = Flux2Config(**sizes)
    for key in ("down_block_types", "up_block_types"):
        wanted = list(config.to_arguments()[key])
        found = values.get(key, wanted)
        _demand(found == wanted, f"{key} must be {len(wanted)} times {wanted[0]!r}")
    return config


def infer_config(shapes: Mapping[str, tuple[int, ...]]) -> Flux2Config:
    """Infers the sizes of a VAE from the names and the shapes of its tensors.

    The constants get the values of FLUX.2. Raises ModelError if a tensor is missing or has the
    wrong rank. The shapes of the other tensors are not checked here.
    """
    levels = 0
    while f"encoder.down_blocks.{levels}.resnets.0.conv1.weight" in shapes:
        levels += 1
    layers = 0
    while f"encoder.down_blocks.0.resnets.{layers}.conv1.weight" in shapes:
        layers += 1
    encoder = tuple(
        _measure(shapes, f"encoder.down_blocks.{level}.resnets.0.conv1.weight")
        for level in range(max(1, levels))
    )
    decoder = tuple(
        _measure(shapes, f"decoder.up_blocks.{levels - 1 - level}.resnets.0.conv1.weight")
        for level in range(levels)
    )
    return Flux2Config(
        latent_channels=_measure(shapes, "post_quant_conv.weight"),
        block_out_channels=encoder,
        decoder_block_out_channels=None if decoder == encoder else decoder,
        layers_per_block=layers,
    )


def _measure(shapes: Mapping[str, tuple[int, ...]], name: str) -> int:
    shape = shapes.get(name)
    if shape is None or len(shape) != 4:
        found = "is missing" if shape is None else f"has shape {list(shape)}"
        raise ModelError(
            f"the sizes of the VAE cannot be inferred: tensor {name} {found}; "
            "put its config.json beside it"
        )
    return shape[0]


def _show(value: object) -> str:
    # `repr` fails on a list or dict that is nested too deeply.
    if isinstance(value, (list, tuple)) and all(map(_is_simple, value)):
        return f"{list(value)!r:.60}"
    return f"{value!r:.40}" if _is_simple(value) else f"a {type(value).__name__}"


def _is_simple(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _demand(holds: bool, problem: str) -> None:
    if not holds:
        raise ModelError(f"the configuration's {problem}")
