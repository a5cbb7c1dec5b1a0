"""Shards that tests write, with their index."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from dinac_cli.storage.shard_layout import IndexEntry, ShardIndex


def make_tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def make_entry(name: str, count: int, data: bytes) -> IndexEntry:
    return IndexEntry(name, count, len(data), sha256(data).hexdigest())


def write_files(folder: Path, files: Mapping[str, bytes]) -> str:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(folder)


def write_shard(folder: Path, files: Mapping[str, bytes], count: int | None = None) -> str:
    """Writes an OUT of one shard; the index says that it holds `count` records."""
    data = make_tar(files)
    records = sum(name.endswith(".dinac") for name in files)
    entry = make_entry("a.tar", records if count is None else count, data)
    return write_files(folder, {"a.tar": data, "index.json": ShardIndex((entry,)).to_bytes()})
