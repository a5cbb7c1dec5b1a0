"""Features of many images in one safetensors file. Free of torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from dinac_cli.errors import OutputError

FEATURES_SUFFIX = ".safetensors"

NAMES_AT_MOST = 2**20
"""Bytes that the names may take in the file's header; more of them make a tensor of their own."""

_KIND_KEY, _KIND = "dinac", "features"
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class ImageFeatures:
    """What is predicted of one image.

    `class_token` is float32 [D], `patch_tokens` float32 [h·w, D] or None where only the class
    token is wanted; `grid` is (h, w). `path` is the record's own file, None for one of a stream.
    """

    name: str
    path: str | None
    grid: tuple[int, int]
    class_token: npt.NDArray[np.float32]
    patch_tokens: npt.NDArray[np.float32] | None = None


def pack_features(rows: Sequence[ImageFeatures], facts: Mapping[str, str]) -> bytes:
    """The file of at least one image's features; `facts` join its metadata.

    `class_tokens` is F32 [N, D]. With patch tokens, `spatial_tokens.<index>` are F32 [h·w, D] and
    `grids`, I32 [N, 2], says h and w of each. The names are a JSON list under the metadata key
    `names` or, where that were more than NAMES_AT_MOST, the U8 tensor `names`, one a line.
    Raises OutputError where memory is lacking.
    """
    try:
        tensors: dict[str, npt.NDArray[np.generic]] = {
            "class_tokens": np.stack([row.class_token for row in rows])
        }
        for index, row in enumerate(rows):
            if row.patch_tokens is not None:
                tensors[f"spatial_tokens.{index}"] = row.patch_tokens
        if len(tensors) > 1:
            tensors["grids"] = np.array([row.grid for row in rows], np.int32)
        metadata = {**facts, _KIND_KEY: _KIND}
        names = json.dumps([row.name for row in rows])
        if len(names) <= NAMES_AT_MOST:
            metadata["names"] = names
        else:
            lines = "\n".join(row.name for row in rows)
            tensors["names"] = np.frombuffer(lines.encode(), np.uint8)
        return save(tensors, metadata)
    except MemoryError as exc:
        raise OutputError(
            "not enough memory for the features of all these images: write several files, "
            "with --shard or --limit"
        ) from exc


def is_feature_file(path: str) -> bool:
    """True for a file that `pack_features` made; told by its header alone."""
    try:
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size)) if size <= _MAX_HEADER_BYTES else {}
        return bool(header["__metadata__"][_KIND_KEY] == _KIND)
    except (OSError, struct.error, ValueError, KeyError, TypeError, RecursionError):
        return False
