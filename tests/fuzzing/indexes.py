"""Mutants of the index of shards, and the checks on reading one."""

from __future__ import annotations

import json
import os
import random
from copy import deepcopy
from typing import Any

from dinac_cli.errors import InputError
from dinac_cli.storage.shard_layout import IndexEntry, ShardIndex, parse_index
from tests.fuzzing.mutation import mutate_bytes

_NAMES = ("../a.tar", "/a.tar", "a/../../b.tar", "C:\\a.tar", "C:a.tar", "a\\..\\b.tar", ".tar", "",
          "a//b.tar", "NUL.tar", "a\0.tar", "x" * 5000 + ".tar", "x/" * 3000 + "a.tar", "./a.tar",
          "s3://bucket/a.tar", "file:///etc/passwd", "a.tar/", "a.TAR", "a.tar.gz", "\u202e.tar",
          "\ud800.tar", "é" * 200 + ".tar", "\n.tar", "-rf.tar", "000/00000.tar")  # fmt: skip
_VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 2**31, 2**44, 2**44 + 1, 2**63, 10**30, 1.5, 1e300, float("nan"), True, None),
    *("", "7", [], {}, [[]], {"url": "a.tar"}, "0" * 64, "F" * 64, "f" * 64),
)
_KEYS = ("url", "nsamples", "filesize", "sha256", "missed", "fingerprint")


def list_seeds() -> list[bytes]:
    """Returns valid indexes."""
    entries = [
        IndexEntry(f"{number:03}/{number:05}.tar", number, 2**20, f"{number:064x}")
        for number in range(8)
    ]
    return [ShardIndex(tuple(entries[:count])).to_bytes() for count in range(len(entries))]


def mutate_index(rng: random.Random, data: bytes, other: bytes) -> tuple[bytes, bool]:
    """Returns a mutant of an index, and whether it is valid JSON with other values."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, data, other), False
    try:
        index = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_bytes(rng, data, other), False
    if not isinstance(index, dict):
        return mutate_bytes(rng, data, other), False
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change_value(rng, index)
    text = json.dumps(index)
    if rng.random() < 0.1:
        text = text.replace("[", "[" * rng.choice((2, 100, 100_000)), 1)
    return text.encode("utf-8", "surrogatepass"), True


def check_index(data: bytes) -> str:
    """Parses a mutant; returns "accepted" or the end of the error, which is without its values.

    Any exception but InputError, and any path outside the place, is a bug in the reader.
    """
    try:
        index = parse_index(data)
    except InputError as exc:
        message = str(exc)
        assert len(message.splitlines()) == 1
        assert len(message) < 5000
        return message.rpartition(": ")[2][:40]
    assert index.total <= len(index.shards) * 2**34
    for entry in index.shards:
        place = os.path.normpath(os.path.join("/out", *entry.url.split("/")))
        assert place.startswith("/out/")
        assert place.endswith(".tar")
        assert "\\" not in entry.url
        assert entry.nsamples >= 0
    assert parse_index(index.to_bytes()) == index
    return "accepted"


def _change_value(rng: random.Random, index: dict[str, Any]) -> None:
    shards = index.get("shardlist")
    kind = rng.random()
    if kind < 0.1 or not isinstance(shards, list):
        index[rng.choice(("__kind__", "shardlist", "wids_version", "x"))] = deepcopy(
            rng.choice(_VALUES)
        )
    elif kind < 0.2:
        shards.append(deepcopy(rng.choice((*_VALUES, *shards[:1]))))
    elif shards and isinstance(entry := rng.choice(shards), dict):
        key = rng.choice(_KEYS)
        entry[key] = deepcopy(rng.choice(_NAMES if key == "url" else _VALUES))
        if rng.random() < 0.1:
            del entry[key]
