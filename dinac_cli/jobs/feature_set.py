"""Collects the features of many images, packs them into one file, and ranks similar images."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from dinac_cli.errors import OutputError

FEATURES_SUFFIX = ".safetensors"

NAMES_AT_MOST = 2**20
"""The limit, in bytes, for a list of names in the file's header. A longer list is a tensor."""

_KIND_KEY, _KIND = "dinac", "features"
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format


@dataclass(frozen=True)
class ImageFeatures:
    """The features of one image.

    `class_token` is float32 [D]. `patch_tokens` is float32 [h·w, D], or None if only the class
    token is requested. `grid` is (h, w). `path` is the record's file, or None if the record was
    read from a stream.
    """

    name: str
    path: str | None
    grid: tuple[int, int]
    class_token: npt.NDArray[np.float32]
    patch_tokens: npt.NDArray[np.float32] | None = None


def pack_features(rows: Sequence[ImageFeatures], facts: Mapping[str, str]) -> bytes:
    """Packs the features of images into a safetensors file, with `facts` as metadata.

    `class_tokens` is F32 [N, D]. If there are patch tokens, the tensor
    `spatial_tokens.<index>`, F32 [h·w, D], holds those of one image, and the tensor `grids`,
    I32 [N, 2], holds h and w of each image.
    The names are a JSON list in the metadata, under the key `names`. If the list is longer than
    NAMES_AT_MOST, the names are the U8 tensor `names`, with one name per line. Raises OutputError
    if there is too little memory.
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
            "not enough memory for the features of all these images; write several files, "
            "with --shard or --limit"
        ) from exc


def is_feature_file(path: str) -> bool:
    """True for a file that `pack_features` made. Reads only the file's header."""
    try:
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size)) if size <= _MAX_HEADER_BYTES else {}
        return bool(header["__metadata__"][_KIND_KEY] == _KIND)
    except (OSError, struct.error, ValueError, KeyError, TypeError, RecursionError):
        return False


@dataclass
class FeatureSet:
    """The features of a run, in memory. `rows` maps the position of a record to its features.

    `query` is the image with which all others are compared. `computes` holds the devices and dtypes
    that predicted the features. `size_bytes` is the size of the output file.
    """

    rows: dict[int, ImageFeatures] = field(default_factory=dict)
    query: ImageFeatures | None = None
    computes: set[str] = field(default_factory=set)
    size_bytes: int = 0

    def list_rows(self) -> list[ImageFeatures]:
        """Returns the features in the order of the inputs."""
        return [self.rows[number] for number in sorted(self.rows)]


@dataclass(frozen=True)
class Neighbour:
    """An image similar to the query.

    `similarity` is the cosine; rank 1 is the most similar image. `path` is the record's file, or
    None if the record was read from a stream.
    """

    rank: int
    similarity: float
    name: str
    path: str | None


def rank_similar(features: FeatureSet, top: int) -> list[Neighbour]:
    """Compares class tokens, and returns the `top` images that are most similar to the query."""
    query = features.query
    if query is None:
        return []
    itself = None if query.path is None else os.path.realpath(query.path)
    rows = [
        row
        for row in features.list_rows()
        if row.path is None or os.path.realpath(row.path) != itself
    ]
    similarities = np.array([_measure_cosine(row.class_token, query.class_token) for row in rows])
    nearest = np.argsort(-similarities, kind="stable")[:top]
    return [
        Neighbour(rank, float(similarities[i]), rows[i].name, rows[i].path)
        for rank, i in enumerate(nearest, start=1)
    ]


def _measure_cosine(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(x @ y / max(float(np.linalg.norm(x) * np.linalg.norm(y)), 1e-30))
