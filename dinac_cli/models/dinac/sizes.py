"""Infers the sizes of a network from the names and shapes of its tensors; does not import torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from dinac_cli.errors import ModelError
from dinac_cli.models.dinac.config import (
    CLASS_HEAD_SIZES,
    FCDM,
    NO_ENCODER,
    TRANSFORMER,
    UNKNOWN_ORDER,
    DinacAEConfig,
)
from dinac_cli.models.dinac.tensor_names import STATISTICS


def infer_config(shapes: Mapping[str, tuple[int, ...]]) -> DinacAEConfig:
    """Infers the sizes of a network from the canonical names and the shapes of its tensors.

    The constants get the values of the published models. Raises ModelError if a required tensor is
    missing or has the wrong rank.
    """
    measure, encoder_type = _Shapes(shapes), find_encoder_type(shapes)
    owner = "decoder" if encoder_type == NO_ENCODER else "encoder"
    model_dim, in_channels, patch_size, _ = measure(f"{owner}.patchify.proj.weight", rank=4)
    depths = {part: measure.count(f"decoder.{part}_blocks") for part in ("start", "middle", "end")}
    head = _infer_class_head(measure) if measure.count("dino_token_alignment_head", r"\w+") else {}
    return DinacAEConfig(
        in_channels=in_channels,
        patch_size=patch_size,
        model_dim=model_dim,
        encoder_depth=measure.count("encoder.blocks"),
        decoder_depth=sum(depths.values()),
        decoder_start_blocks=depths["start"],
        decoder_end_blocks=depths["end"],
        bottleneck_dim=_infer_channels(measure, encoder_type),
        mlp_ratio=_infer_mlp_dim(measure, encoder_type) / max(1, model_dim),
        depthwise_kernel_size=measure("decoder.start_blocks.0.dwconv.weight", rank=4)[-1],
        adaln_low_rank_rank=measure("decoder.adaln_deltas.0.down.weight", rank=2)[0],
        encoder_type=encoder_type,
        has_latent_statistics=encoder_type != NO_ENCODER
        or any(name in shapes for name in STATISTICS),
        **{**dict.fromkeys(CLASS_HEAD_SIZES), **head},
    )


def find_encoder_type(names: Collection[str]) -> str:
    """Returns the type of the encoder that tensors with these canonical names have."""
    if "encoder.blocks.0.dwconv.weight" in names:
        return FCDM
    is_decoder = "decoder.patchify.proj.weight" in names
    has_encoder = any(name.startswith("encoder.") for name in names)
    return NO_ENCODER if is_decoder and not has_encoder else TRANSFORMER


def _infer_channels(measure: _Shapes, encoder_type: str) -> int:
    """Infers the number of latent channels; refuses latents that are folded into the channels."""
    if encoder_type == TRANSFORMER:
        return measure(STATISTICS[0], rank=1)[0]
    channels = measure("decoder.latent_up.weight", rank=4)[1]
    if measure.get(STATISTICS[0]) == (4 * channels,):
        raise ModelError(
            f"the statistics have {4 * channels} channels, so bottleneck_patchify_mode is "
            f"'patch_2x2'; {UNKNOWN_ORDER}"
        )
    return channels


def _infer_mlp_dim(measure: _Shapes, encoder_type: str) -> int:
    if encoder_type == TRANSFORMER:
        return measure("encoder.blocks.0.mlp.up.weight", rank=2)[0]
    owner = "encoder.blocks" if encoder_type == FCDM else "decoder.start_blocks"
    return measure(f"{owner}.0.pwconv1.weight", rank=4)[0]


def _infer_class_head(measure: _Shapes) -> dict[str, Any]:
    head = "dino_token_alignment_head"
    registers, dim = measure(f"{head}.register_tokens", rank=2)
    return {
        "class_head_feature_dim": dim,
        "class_head_model_dim": dim,
        "class_head_head_dim": measure(f"{head}.block.attn_core.q_norm._impl.weight", rank=1)[0],
        "class_head_mlp_ratio": measure(f"{head}.block.mlp.up.weight", rank=2)[0] / max(1, dim),
        "class_head_register_token_count": registers,
    }


class _Shapes(dict[str, tuple[int, ...]]):
    """The shapes of the tensors in a file; the keys are tensor names."""

    def __call__(self, name: str, rank: int) -> tuple[int, ...]:
        shape = self.get(name)
        if shape is None or len(shape) != rank:
            found = "is missing" if shape is None else f"has shape {list(shape)}"
            raise ModelError(
                f"the network's sizes cannot be inferred: tensor {name} {found}; "
                "is this a DINAC-AE checkpoint?"
            )
        return shape

    def count(self, prefix: str, member: str = r"\d+") -> int:
        pattern = re.compile(rf"{re.escape(prefix)}\.({member})\.")
        return len({match[1] for name in self if (match := pattern.match(name))})
