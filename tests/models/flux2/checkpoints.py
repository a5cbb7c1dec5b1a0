"""Small FLUX.2 VAEs with random weights, made without the diffusers library."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

WIDTHS = (32, 32, 64, 64)
"""The widths of a small VAE whose latents have the grid of FLUX.2: 128 channels at 1/16."""

CONFIG: dict[str, Any] = {
    "_class_name": "AutoencoderKLFlux2",
    "_diffusers_version": "0.38.0",
    "act_fn": "silu",
    "batch_norm_eps": 0.0001,
    "batch_norm_momentum": 0.1,
    "block_out_channels": list(WIDTHS),
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 32,
    "layers_per_block": 2,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "out_channels": 3,
    "patch_size": [2, 2],
    "sample_size": 1024,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}
"""The keys of a published config.json, with small widths."""

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def list_vae_shapes(
    widths: tuple[int, ...] = WIDTHS,
    decoder_widths: tuple[int, ...] | None = None,
    latents: int = 32,
    layers: int = 2,
) -> dict[str, tuple[int, ...]]:
    """Returns the name and shape of every tensor, written down from the published architecture."""
    out = decoder_widths or widths
    shapes: dict[str, tuple[int, ...]] = dict(_conv("encoder.conv_in", 3, widths[0]))
    before = widths[0]
    for level, width in enumerate(widths):
        block = f"encoder.down_blocks.{level}"
        for layer in range(layers):
            shapes |= dict(_residual(f"{block}.resnets.{layer}", before, width))
            before = width
        if level < len(widths) - 1:
            shapes |= dict(_conv(f"{block}.downsamplers.0.conv", width, width))
    shapes |= dict(_middle("encoder.mid_block", before))
    shapes |= dict(_norm("encoder.conv_norm_out", before))
    shapes |= dict(_conv("encoder.conv_out", before, 2 * latents))
    before = out[-1]
    shapes |= dict(_conv("decoder.conv_in", latents, before))
    shapes |= dict(_middle("decoder.mid_block", before))
    for level, width in enumerate(reversed(out)):
        block = f"decoder.up_blocks.{level}"
        for layer in range(layers + 1):
            shapes |= dict(_residual(f"{block}.resnets.{layer}", before, width))
            before = width
        if level < len(out) - 1:
            shapes |= dict(_conv(f"{block}.upsamplers.0.conv", width, width))
    shapes |= dict(_norm("decoder.conv_norm_out", before))
    shapes |= dict(_conv("decoder.conv_out", before, 3))
    shapes |= dict(_conv("quant_conv", 2 * latents, 2 * latents, 1))
    shapes |= dict(_conv("post_quant_conv", latents, latents, 1))
    return shapes | {"bn.running_mean": (4 * latents,), "bn.running_var": (4 * latents,)}


def make_vae(
    folder: Path,
    *,
    seed: int = 0,
    decoder_widths: tuple[int, ...] | None = None,
    dtype: torch.dtype = torch.float32,
    name: str = "diffusion_pytorch_model.safetensors",
    **changes: Any,
) -> Path:
    """Writes a checkpoint with random weights and returns its folder.

    `changes` are keys of config.json. The encoder depends on the seed only, not on the decoder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, **changes}
    if decoder_widths is not None:
        config["decoder_block_out_channels"] = list(decoder_widths)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    tensors = draw_tensors(list_vae_shapes(decoder_widths=decoder_widths), seed)
    cast = {name: x if name.startswith("bn.") else x.to(dtype) for name, x in tensors.items()}
    save_file({**cast, "bn.num_batches_tracked": torch.tensor(7)}, folder / name)
    return folder


def draw_tensors(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Draws weights that keep activations near 1, so that pixels and latents vary as real ones."""
    return {name: _draw(name, shape, seed) for name, shape in shapes.items()}


def _draw(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode(), seed))
    noise = torch.randn(shape, generator=generator)
    if name == "bn.running_var":
        return 0.05 + 0.2 * noise.abs()
    if "norm" in name and name.endswith("weight"):
        return 1 + 0.1 * noise
    if len(shape) == 1:
        return 0.1 * noise
    return noise / math.sqrt(math.prod(shape[1:]))


def _conv(name: str, before: int, after: int, side: int = 3) -> Shapes:
    yield f"{name}.weight", (after, before, side, side)
    yield f"{name}.bias", (after,)


def _norm(name: str, width: int) -> Shapes:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _residual(name: str, before: int, after: int) -> Shapes:
    yield from _norm(f"{name}.norm1", before)
    yield from _conv(f"{name}.conv1", before, after)
    yield from _norm(f"{name}.norm2", after)
    yield from _conv(f"{name}.conv2", after, after)
    if before != after:
        yield from _conv(f"{name}.conv_shortcut", before, after, 1)


def _middle(name: str, width: int) -> Shapes:
    yield from _residual(f"{name}.resnets.0", width, width)
    yield from _norm(f"{name}.attentions.0.group_norm", width)
    for matrix in ("to_q", "to_k", "to_v", "to_out.0"):
        yield f"{name}.attentions.0.{matrix}.weight", (width, width)
        yield f"{name}.attentions.0.{matrix}.bias", (width,)
    yield from _residual(f"{name}.resnets.1", width, width)
