"""The names of a network's tensors, and what follows from a name. Does not import torch."""

from __future__ import annotations

import re
from pathlib import Path

from dinac_cli.models.interface import CLASS_HEAD, DECODER, ENCODER
from dinac_cli.models.tensor_file import TensorTable, read_tensor_table

_ALIASES = re.compile(
    r"(encoder\.blocks\.\d+|dino_token_alignment_head\.block)\.(qkv|proj_out)\.weight"
    r"|dino_token_alignment_head\.class_readout\.(kv_proj|out_proj)\.weight"
)

_FLOAT32_NAMES = re.compile(
    r"(.*\.)?[^.]*norm[^.]*(\..*)?"  # a component of the name contains "norm"
    r"|.*\.grn\.(gamma|beta)"
    r"|.*\.layer_scale"
    r"|decoder\.path_drop_mask_feature"
    r"|decoder\.out_proj\.(weight|bias)"
    r"|.*\.(periods|freqs)"  # buffers
)

_BUFFERS = re.compile(r".*\.(periods|freqs)|latent_norm_running_(mean|var)")
_PARTS = {"encoder": ENCODER, "decoder": DECODER, "dino_token_alignment_head": CLASS_HEAD}

STATISTICS = RUNNING_MEAN, RUNNING_VAR = ("latent_norm_running_mean", "latent_norm_running_var")
"""The statistics that whiten the latents, each [C]."""

LATENT_SPACE_TENSORS = re.compile(r"encoder\..*|latent_norm_running_(mean|var)")
"""The tensors that define the latent space."""

ALL_TENSORS = re.compile(r"(?s).*")
"""The same for a network without an encoder."""


def canonical_name(name: str) -> str:
    """Returns the canonical name of a tensor. Attention tensors may be stored under an alias.

    `encoder.blocks.3.qkv.weight` is an alias of `encoder.blocks.3.attn_core.qkv.weight`.
    """
    if not _ALIASES.fullmatch(name):
        return name
    owner, matrix, weight = name.rsplit(".", 2)
    return f"{owner}.attn_core.{matrix}.{weight}"


def keeps_float32(name: str) -> bool:
    """Whether the tensor with this canonical name stays float32 in a bfloat16 network."""
    return _FLOAT32_NAMES.fullmatch(name) is not None


def find_part(name: str) -> str | None:
    """Returns the part of the network that a parameter belongs to; None for a buffer."""
    return None if _BUFFERS.fullmatch(name) else _PARTS.get(name.partition(".")[0], ENCODER)


def read_table(path: Path) -> TensorTable:
    """Reads the tensor table of a checkpoint; see `read_tensor_table`. Raises ModelError."""
    return read_tensor_table(path, canonical_name)
