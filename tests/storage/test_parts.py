"""Each name belongs to exactly one shard, the same on every machine."""

from __future__ import annotations

import os
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinac_cli.errors import UsageError
from dinac_cli.storage.parts import Shard, parse_shard


@given(st.integers(1, 9), st.lists(st.text(max_size=20)))
def test_shards_are_a_partition(count: int, names: list[str]) -> None:
    names = [name.encode(errors="replace").decode() for name in names]
    shards = [Shard(index, count) for index in range(count)]
    for name in names:
        assert sum(shard.holds(name) for shard in shards) == 1


def test_shard_is_the_crc_of_the_name() -> None:
    assert Shard(zlib.crc32(b"trip/a.jpg") % 7, 7).holds("trip/a.jpg")


def test_name_that_is_not_utf8_has_a_shard() -> None:
    name = os.fsdecode(b"\xff.jpg")
    assert Shard(zlib.crc32(b"\xff.jpg") % 3, 3).holds(name)


def test_index_and_count_are_parsed() -> None:
    assert parse_shard("0/1", {}) == Shard(0, 1)
    assert parse_shard("7/8", {"RANK": "1", "WORLD_SIZE": "2"}) == Shard(7, 8)


@pytest.mark.parametrize(
    "text",
    ["", "1", "/", "1/", "/2", "a/b", "-1/2", "1/-2", "1/2/3", "²/3", "1.0/2", " 1/2", "+1/2"],
)
def test_malformed_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected I/N \(for example 0/8\) or auto$"):
        parse_shard(text, {})


@pytest.mark.parametrize("text", ["0/0", "1/1", "8/8", "9/8"])
def test_index_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="I must be 0 to N-1"):
        parse_shard(text, {})


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4"}
SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "8"}
ARRAY = {
    "SLURM_ARRAY_TASK_ID": "12",
    "SLURM_ARRAY_TASK_COUNT": "5",
    "SLURM_ARRAY_TASK_MIN": "10",
    "SLURM_ARRAY_TASK_MAX": "14",
    "SLURM_ARRAY_TASK_STEP": "1",
}
STEPPED = ARRAY | {"SLURM_ARRAY_TASK_ID": "30", "SLURM_ARRAY_TASK_STEP": "10"}


class TestAuto:
    @pytest.mark.parametrize(
        ("environment", "shard"),
        [
            (TORCHRUN, Shard(3, 4)),
            (SLURM, Shard(1, 8)),
            (TORCHRUN | SLURM, Shard(3, 4)),
            (ARRAY, Shard(2, 5)),
            (STEPPED, Shard(2, 5)),
            # In an array job, the batch script is process 0 of 1; the array still decides.
            (ARRAY | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, Shard(2, 5)),
            (ARRAY | SLURM, Shard(2 * 8 + 1, 5 * 8)),
            (ARRAY | TORCHRUN, Shard(2 * 4 + 3, 5 * 4)),
        ],
    )
    def test_variables_of_launchers_are_combined(
        self, environment: dict[str, str], shard: Shard
    ) -> None:
        assert parse_shard("auto", environment) == shard

    def test_processes_of_all_array_tasks_are_a_partition(self) -> None:
        parts = {
            parse_shard(
                "auto",
                ARRAY | {"SLURM_ARRAY_TASK_ID": str(task)} | {"RANK": str(rank), "WORLD_SIZE": "3"},
            )
            for task in range(10, 15)
            for rank in range(3)
        }
        assert parts == {Shard(index, 15) for index in range(15)}

    def test_irregular_task_id_is_an_error(self) -> None:
        with pytest.raises(UsageError, match="I must be 0 to N-1"):
            parse_shard("auto", ARRAY | {"SLURM_ARRAY_TASK_ID": "99"})

    @pytest.mark.parametrize(
        "environment", [{}, {"RANK": "1"}, {"RANK": "x", "WORLD_SIZE": "2"}, {"SLURM_JOB_ID": "5"}]
    )
    def test_missing_variables_are_an_error(self, environment: dict[str, str]) -> None:
        with pytest.raises(UsageError, match=r"--shard auto: none of RANK/WORLD_SIZE \(torchrun\)"):
            parse_shard("auto", environment)
