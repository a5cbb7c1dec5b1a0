"""Recognises and locates the files of a FLUX.2 VAE; does not import torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dinac_cli.errors import ModelError
from dinac_cli.models.checkpoint_files import CONFIG_NAME, CheckpointFiles, find_weights
from dinac_cli.models.flux2.vae_config import CLASS_NAME, Flux2Config, from_json, infer_config
from dinac_cli.models.interface import DECODER, ENCODER
from dinac_cli.models.json_file import read_json
from dinac_cli.models.tensor_file import TensorTable, read_tensor_table, refuse_pickle

VAE_WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
"""The weights file in a folder of diffusers."""

STATISTICS = ("bn.running_mean", "bn.running_var")
"""The whitening statistics, float32 [C]."""

COUNTER = "bn.num_batches_tracked"
"""A tensor that only training uses. It may be missing."""

_PIPELINE_FOLDER = "vae"
_PARTS = {
    "encoder": ENCODER,
    "quant_conv": ENCODER,
    "decoder": DECODER,
    "post_quant_conv": DECODER,
}
_OWN_MARKS = {"quant_conv.weight", "post_quant_conv.weight", STATISTICS[0]}
# The names in the files of Black Forest Labs themselves, such as ae.safetensors.
_ORIGINAL_MARKS = {"encoder.conv_in.weight", "decoder.conv_in.weight", STATISTICS[0]}
_ORIGINAL_NAME = re.compile(r"(encoder|decoder)\.mid\.block_1\..*")
_REMEDY = "name a folder with a FLUX.2 VAE or its .safetensors file"


def is_vae(path: Path) -> bool:
    """Whether a folder or a .safetensors file is a FLUX.2 VAE, or looks like one.

    Reads a small JSON file at most, and the header of the weights if no JSON file decides. Raises
    no error. A pipeline with such a VAE, and a file with the original names, count too: the errors
    of this family say what to name instead.
    """
    with suppress(ModelError, OSError):
        if not path.is_dir():
            return path.suffix.lower() == ".safetensors" and path.is_file() and _names_vae(path)
        if (path / CONFIG_NAME).is_file():
            return _is_config(path / CONFIG_NAME)
        if _is_config(path / _PIPELINE_FOLDER / CONFIG_NAME):
            return True
        return _names_vae(find_weights(path, VAE_WEIGHTS_NAME, _REMEDY))
    return False


def locate_vae(path: Path) -> CheckpointFiles:
    """Finds the files of a VAE; `path` is a folder or a .safetensors file.

    The `config.json` beside a file is used only if it describes a VAE of FLUX.2. Raises ModelError
    if there is no checkpoint.
    """
    if not path.exists():
        raise ModelError(f"{path} does not exist; {_REMEDY}")
    if not path.is_dir():
        refuse_pickle(path)
        beside = path.with_name(CONFIG_NAME)
        return CheckpointFiles(path, beside if _is_config(beside) else None)
    config = path / CONFIG_NAME
    inner = path / _PIPELINE_FOLDER
    if not config.is_file() and _is_config(inner / CONFIG_NAME):
        raise ModelError(f"{path} holds a whole pipeline; name its VAE: {inner}")
    return CheckpointFiles(
        find_weights(path, VAE_WEIGHTS_NAME, _REMEDY), config if config.is_file() else None
    )


def read_vae_config(files: CheckpointFiles) -> Flux2Config:
    """Reads `config.json`; if the file is missing, infers the configuration from the tensors.

    Raises ModelError if the configuration is damaged or the VAE is not supported.
    """
    try:
        if files.config is not None:
            return from_json(read_json(files.config))
        return infer_config(read_vae_table(files.weights).canonical_shapes)
    except ModelError as exc:
        place = files.config or files.weights
        if str(exc).startswith(str(place)):
            raise
        raise ModelError(f"{place}: {exc}") from exc


def read_vae_table(path: Path) -> TensorTable:
    """Reads the tensor table of a VAE, without `COUNTER`.

    Raises ModelError if the file cannot be read, or has the original names.
    """
    table = read_tensor_table(path)
    if _has_original_names(table.entries):
        raise ModelError(
            f"{path} has the tensor names of Black Forest Labs' own code; use the file "
            f"{VAE_WEIGHTS_NAME} of diffusers, such as that of --model flux2"
        )
    kept = {name: entry for name, entry in table.entries.items() if name != COUNTER}
    return replace(table, entries=kept)


def find_vae_part(tensor: str) -> str | None:
    """Returns the part of the VAE that a parameter belongs to; None for a buffer."""
    return _PARTS.get(tensor.partition(".")[0])


def keeps_vae_float32(tensor: str) -> bool:
    """Whether the tensor stays float32 in a bfloat16 VAE: only the whitening statistics do."""
    return tensor in STATISTICS


def _names_vae(path: Path) -> bool:
    names = read_tensor_table(path).entries.keys()
    return names >= _OWN_MARKS or _has_original_names(names)


def _has_original_names(names: Iterable[str]) -> bool:
    known = set(names)
    return known >= _ORIGINAL_MARKS and any(map(_ORIGINAL_NAME.fullmatch, known))


def _is_config(path: Path) -> bool:
    if not path.is_file():
        return False
    with suppress(ModelError):
        values = read_json(path)
        return isinstance(values, dict) and values.get("_class_name") == CLASS_NAME
    return False
