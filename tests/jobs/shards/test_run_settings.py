"""The settings of an OUT: what is written is read, and every value is checked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.errors import StorageError, UsageError
from dinac_cli.jobs.shards.run_settings import (
    HeldRun,
    RunSettings,
    complete_settings,
    find_settings,
    read_settings,
)
from dinac_cli.storage.local import LocalStore
from dinac_cli.storage.markers import RUN_NAME

SETTINGS = RunSettings(
    model="nano",
    revision="4",
    latent_space="0" * 16,
    weights="1" * 16,
    precision="q8",
    background="#010203",
    hdr="clip",
    damaged="warn",
    anonymous=False,
    features=False,
    posterior=True,
    geometry="resize=64",
    keep=("json", "txt"),
    column="photo",
    shard_size=7,
    compute="cpu/f32",
    threads=2,
)

WRONG: dict[str, list[Any]] = {
    "model": [None, 7, "a\nb", "\u202e"],
    "revision": [None, [], "\ud800"],
    "latent_space": [None, "", "x", 0, "0" * 15],
    "weights": [None, {}, "g" * 16],
    "precision": [None, "q9", 8, ["q8"]],
    "background": [None, "red-ish", 7, "#12", {}],
    "hdr": [None, "maybe", 1],
    "damaged": [None, "ignore", {}],
    "anonymous": [None, 0, "false"],
    "features": [None, 1],
    "posterior": [None, "yes"],
    "geometry": [None, 7, "resize=", "resize=-1", "x=1", "resize=64;resize=64"],
    "keep": [None, 7, ["../txt"], [7], ["TXT"], ["a/b"], "a/b"],
    "column": [None, 7, "a\0b"],
    "shard_size": [None, 0, -1, 1.5, True, 1_000_001, "7"],
    "compute": [None, 7, "a\x1b[2J"],
    "threads": [0, -1, 1.5, True, "2", 10**6],
    "dinac": [None, 0, 2, "1"],
}
CASES = [(key, value) for key, values in WRONG.items() for value in values]


def write(folder: Path, data: bytes) -> LocalStore:
    store = LocalStore(str(folder))
    store.write(RUN_NAME, data)
    return store


def change(**values: object) -> bytes:
    return json.dumps({**json.loads(SETTINGS.to_bytes()), **values}).encode()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_settings(LocalStore(str(tmp_path))) is None
    store = write(tmp_path, SETTINGS.to_bytes())
    assert read_settings(store) == SETTINGS
    assert store.read(RUN_NAME) == SETTINGS.to_bytes()


def test_a_run_follows_the_settings_as_if_a_record_held_them() -> None:
    held = HeldRun.of("out/_dinac/run.json", SETTINGS)
    assert (held.background, held.hdr, held.damaged) == ((1, 2, 3), "clip", "warn")
    assert held.geometry.resize == 64
    assert held.header.precision == "q8"
    assert not held.header.is_anonymous


@pytest.mark.parametrize(("key", "value"), CASES)
def test_a_wrong_value_is_refused_in_one_line(tmp_path: Path, key: str, value: object) -> None:
    store = write(tmp_path, change(**{key: value}))
    with pytest.raises(UsageError) as caught:
        read_settings(store)
    assert str(caught.value) == (
        f"{store.locate(RUN_NAME)}: not the settings of a run; restore it, or choose another OUT"
    )


@pytest.mark.parametrize("key", json.loads(SETTINGS.to_bytes()))
def test_a_missing_value_is_refused(tmp_path: Path, key: str) -> None:
    content = json.loads(SETTINGS.to_bytes())
    del content[key]
    with pytest.raises(UsageError, match="not the settings of a run"):
        read_settings(write(tmp_path, json.dumps(content).encode()))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"null",
        b"[" * 200_000,
        b"x" * 2**20 + b"x",
        SETTINGS.to_bytes().replace(b'"shard_size": 7', b'"shard_size": ' + b"9" * 5000),
    ],
)
def test_damaged_settings_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UsageError, match="not the settings of a run"):
        read_settings(write(tmp_path, data))


def test_the_digest_changes_with_what_changes_records() -> None:
    other: dict[str, Any] = {
        "latent_space": "2" * 16,
        "weights": "2" * 16,
        "precision": "bf16",
        "background": "#ffffff",
        "hdr": "refuse",
        "damaged": "fail",
        "anonymous": True,
        "posterior": False,
        "geometry": "",
        "keep": (),
        "column": "image",
    }
    digests = {replace(SETTINGS, **{key: value}).digest for key, value in other.items()}
    assert len(digests | {SETTINGS.digest}) == len(other) + 1
    same: dict[str, Any] = {
        "model": "other",
        "revision": "",
        "shard_size": 8,
        "compute": "",
        "threads": None,
    }
    for key, value in same.items():
        assert replace(SETTINGS, **{key: value}).digest == SETTINGS.digest, key


def test_threads_count_on_a_cpu_only() -> None:
    assert complete_settings(SETTINGS, "cpu/f32").threads == 1
    on_gpu = complete_settings(SETTINGS, "cuda/bf16")
    assert (on_gpu.compute, on_gpu.threads) == ("cuda/bf16", None)
    assert SETTINGS.find_conflict(on_gpu) is None


def test_settings_that_cannot_be_read_now_are_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--overwrite would take them for those of another run, and remove its shards."""
    store = write(tmp_path, SETTINGS.to_bytes())

    def refuse(self: LocalStore, *args: object) -> bytes:
        raise StorageError("the place is busy")

    monkeypatch.setattr(LocalStore, "read", refuse)
    for read in (read_settings, find_settings):
        with pytest.raises(StorageError, match="the place is busy"):
            read(store)
