"""`dinac encode --engine ray --address local`: the bytes, messages and exit code of a local run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from .conftest import read_files
from .processes import run_process

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray")


def test_a_run_on_ray_equals_a_local_run(own: Path) -> None:
    (own / "photos/notes.png").write_bytes(b"no image")
    shards = ("photos", "--shard-size", "2", "--threads", "1")
    here = run_process("encode", *shards, "--out", "here", cwd=own)
    # Real processes: torch sets its threads at its start, and Ray starts programs of its own.
    ray = run_process(
        "encode", *shards, "--out", "ray", "--engine", "ray", "--address", "local", cwd=own
    )
    assert (ray.code, here.code) == (3, 3)
    assert [line for line in ray.err.splitlines() if " images/s" not in line] == [
        line for line in here.err.splitlines() if " images/s" not in line
    ]
    assert ray.out.partition(";")[0] == here.out.partition(";")[0]
    expected = read_files(own / "here")
    assert len(expected) > 8
    assert read_files(own / "ray") == expected
