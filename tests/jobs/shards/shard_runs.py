"""Runs of `encode` into shards in this process, on tiny images, and what they leave in OUT."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from dinac_cli.jobs.encode import EncodeChoice, EncodeRequest
from dinac_cli.jobs.executor.control import StopRequest
from dinac_cli.jobs.model_choice import ModelChoice
from dinac_cli.jobs.request import InputRequest
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.local import LocalStore
from dinac_cli.storage.tars import TarWriter

from ..hand_made import draw

NANO = ModelChoice(model="nano", device="cpu", dtype="f32")

SIZES = [(16, 16), (17, 9), (32, 16)]
"""(width, height) of the images, in turn: some batches hold images of two sizes."""


def locate(out: Path, name: str = "") -> str:
    """Returns the path of a file in OUT as messages show it."""
    return LocalStore(str(out)).locate(name)


def make_photo(seed: int, format: str = "PNG") -> bytes:
    """Returns a small image file, different for each seed."""
    width, height = SIZES[seed % len(SIZES)]
    file = io.BytesIO()
    Image.fromarray(draw(seed, height, width)).save(file, format)
    return file.getvalue()


def write_photos(folder: Path, names: Iterable[str], first: int = 0) -> Path:
    """Writes an image for each name, whose times do not depend on the clock."""
    for seed, name in enumerate(names, start=first):
        write_file(folder / name, make_photo(seed), 1_000_000_000 + seed)
    return folder


def write_file(path: Path, data: bytes, seconds: int = 1_000_000_000) -> Path:
    """Writes a file with a time of change."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (seconds, seconds))
    return path


def make_tar(files: Mapping[str, bytes]) -> bytes:
    """Returns a tar of these files."""
    pieces: list[bytes] = []
    writer = TarWriter(pieces.append)
    for name, data in files.items():
        writer.add(name, data)
    writer.finish()
    return b"".join(pieces)


def make_request(
    inputs: Path | str | Iterable[Path | str],
    out: Path | str,
    choice: EncodeChoice | None = None,
    *,
    shard: str | None = None,
    limit: int | None = None,
    **fields: Any,
) -> EncodeRequest:
    """Returns a request; `choice` are the options of records, and `fields` those of the request."""
    paths = [inputs] if isinstance(inputs, (str, Path)) else inputs
    return EncodeRequest(
        inputs=InputRequest(paths=tuple(map(str, paths)), shard=shard, limit=limit),
        out=str(out),
        options=choice or EncodeChoice(),
        model=fields.pop("model", NANO),
        processes=fields.pop("processes", 1),
        **fields,
    )


def run(request: EncodeRequest, stop: StopRequest | None = None) -> list[FileResult]:
    """Runs a request as the command does, and returns its results."""
    opened = request.open()
    opened.count()
    return list(opened.start(request.make_control(stop)))


def encode(inputs: Any, out: Path | str, *args: Any, **fields: Any) -> list[FileResult]:
    """Makes a request and runs it."""
    return run(make_request(inputs, out, *args, **fields))


def count(results: Iterable[FileResult]) -> dict[Status, int]:
    """Returns the number of images of each status."""
    counts: dict[Status, int] = {}
    for result in results:
        counts[result.status] = counts.get(result.status, 0) + result.images
    return {status: number for status, number in counts.items() if number}


def read_members(tar: bytes | Path) -> dict[str, bytes]:
    """Returns name → content of a tar, as tarfile reads it, and checks the facts of all members."""
    data = tar if isinstance(tar, bytes) else tar.read_bytes()
    members = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        for info in file:
            facts = (info.mtime, info.mode, info.uid, info.gid, info.uname, info.gname)
            assert facts == (0, 0o644, 0, 0, "", ""), info.name
            assert info.name not in members
            opened = file.extractfile(info)
            assert opened is not None
            members[info.name] = opened.read()
    return members


def read_shards(tree: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
    """Returns the members of all tars of an OUT."""
    return {name: read_members(data) for name, data in tree.items() if name.endswith(".tar")}


def read_markers(tree: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Returns the markers of an OUT by the names of their shards."""
    markers = {}
    for name, data in tree.items():
        if name.startswith("_dinac/shards/"):
            marker = json.loads(data)
            assert marker["shard"] not in markers, "two markers of one shard"
            markers[marker["shard"]] = marker
    return markers


def read_index(tree: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Returns the entries of the index of an OUT by their paths."""
    return {entry["url"]: entry for entry in json.loads(tree["index.json"])["shardlist"]}
