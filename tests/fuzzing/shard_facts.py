"""Mutants of what a sharded OUT keeps beside its tars: markers, settings and parts of the plan.

A mutant begins with a letter that says which of them it is.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import zstandard

from dinac_cli.errors import InputError, UsageError
from dinac_cli.jobs.shards.loose_plan import LoosePlan, name_part
from dinac_cli.jobs.shards.run_settings import HeldRun, RunSettings, read_settings
from dinac_cli.jobs.shards.shard import LooseFile
from dinac_cli.storage.local import LocalStore
from dinac_cli.storage.markers import RUN_NAME, Failure, Marker, parse_marker
from tests.fuzzing.mutation import mutate_bytes

_MARKER, _SETTINGS, _PLAN = b"m", b"s", b"p"
_PART = name_part("000/000000")
_VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 2**31, 2**44, 2**63, 10**30, 1.5, float("nan"), True, None, "", "x", [], {}),
    *([[]], [None], {"key": 1}, "0" * 64, "F" * 16, "../a", "/a", "a\0b", "\ud800", "\u202e"),
    *("x" * 5000, "a/../b", "C:\\a", "bf16", "q8", "resize=64", "resize=-1", "#ffffff", "#ff"),
    *(["txt"], ["../txt"], ["dinac", 3], ["x" * 99]),
)


def list_seeds() -> list[bytes]:
    """Returns valid facts of each kind."""
    failure = Failure("b", "in/b.png", "no image", "ImageError")
    marker = Marker(
        shard="000/000000",
        fingerprint="0" * 16,
        images=3,
        failed=1,
        skipped=0,
        size_bytes=10240,
        sha256="0" * 64,
        bytes_in=999,
        pixels=9,
        source="in.tar",
        compute="cpu/f32",
        failures=(failure,),
    )
    settings = RunSettings(
        model="nano",
        revision="4",
        latent_space="0" * 16,
        weights="0" * 16,
        precision="bf16",
        background="#ffffff",
        hdr="refuse",
        damaged="fail",
        anonymous=False,
        features=False,
        posterior=True,
        geometry="resize=64",
        keep=("json", "txt"),
        compute="cpu/f32",
        threads=2,
    )
    plans = [[["a.png", 7, "mtime-1"], ["b/ü.png", 8, "etag-2"]], [["c.png", 0, ""]] * 9]
    return [
        _MARKER + marker.to_bytes(),
        _SETTINGS + settings.to_bytes(),
        *(_PLAN + _pack(lines) for lines in plans),
    ]


def mutate_facts(rng: random.Random, data: bytes, other: bytes) -> tuple[bytes, bool]:
    """Returns a mutant, and whether it is valid JSON with other values."""
    kind = data[:1]
    if rng.random() < 0.3:
        return kind + mutate_bytes(rng, data[1:], other[1:]), False
    try:
        content = _unpack(data)
    except (ValueError, RecursionError, zstandard.ZstdError):
        return kind + mutate_bytes(rng, data[1:], other[1:]), False
    for _ in range(rng.choice((1, 1, 2, 3))):
        content = _change(rng, content)
    if kind == _PLAN:
        lines = content if isinstance(content, list) else [content]
        return _PLAN + _pack(lines, bomb=rng.random() < 0.05), True
    text = json.dumps(content)
    if rng.random() < 0.1:
        text = text.replace("[", "[" * rng.choice((2, 100, 100_000)), 1)
    return kind + text.encode("utf-8", "surrogatepass"), True


def check_facts(data: bytes) -> str:
    """Reads a mutant; returns "accepted" or the end of the error, which is without its values.

    Any exception but the reader's own, and any file outside OUT, is a bug in the reader.
    """
    checks = {_MARKER: _check_marker, _SETTINGS: _check_settings, _PLAN: _check_plan}
    try:
        checks[data[:1]](data[1:])
    except (InputError, UsageError) as exc:
        message = str(exc)
        assert len(message.splitlines()) == 1
        assert len(message) < 10_000
        return message.rpartition(": ")[2].partition(", ")[0][:40]
    return "accepted"


def _check_marker(data: bytes) -> None:
    marker = parse_marker(data, "000/000000")
    assert os.path.normpath(f"/out/{marker.name}").startswith("/out/_dinac/shards/000/000000.")
    assert marker.failed == len(marker.failures)
    assert parse_marker(marker.to_bytes(), "000/000000") == marker


def _check_settings(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        store = LocalStore(place)
        store.write(RUN_NAME, data)
        settings = read_settings(store)
        assert settings is not None
        held = HeldRun.of("run.json", settings)
        assert held.background is not None
        assert held.geometry.text == settings.geometry
        assert settings.list_options()
        assert settings.find_conflict(settings) is None
        store.write(RUN_NAME, settings.to_bytes())
        assert read_settings(store) == settings


def _check_plan(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out"
        store = LocalStore(str(out))
        store.write(_PART, data)
        plan = LoosePlan(store, "settings", 2, False, lambda name, mark: False)
        plan.add([LooseFile("/in/a.png", "a.png", 7, "mtime-1")])
        plan.write()
        for name, _, shard in plan.list_all():
            assert shard is not None
            assert name.startswith("000/")
            assert all(file.name and ".." not in file.name.split("/") for file in shard.files)
        assert [path.name for path in Path(place).iterdir()] == ["out"]


def _unpack(data: bytes) -> Any:
    if data[:1] != _PLAN:
        return json.loads(data[1:])
    size = zstandard.frame_content_size(data[1:])
    if not 0 <= size < 2**20:
        raise ValueError("too long")
    return [json.loads(line) for line in zstandard.decompress(data[1:]).splitlines()]


def _pack(lines: list[Any], *, bomb: bool = False) -> bytes:
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    data = text.encode("utf-8", "surrogatepass")
    return zstandard.ZstdCompressor().compress(data + bytes(2**24 if bomb else 0))


def _change(rng: random.Random, content: Any) -> Any:
    """Changes, adds or removes a value somewhere."""
    if isinstance(content, dict) and content and rng.random() < 0.95:
        key = rng.choice(list(content))
        if rng.random() < 0.1:
            del content[key]
        else:
            content[key] = _change(rng, content[key])
        return content
    if isinstance(content, list) and content and rng.random() < 0.8:
        index = rng.randrange(len(content))
        kind = rng.random()
        if kind < 0.1:
            content.append(deepcopy(content[index]))
        elif kind < 0.2:
            del content[index]
        else:
            content[index] = _change(rng, content[index])
        return content
    return deepcopy(rng.choice(_VALUES))
