"""The results of a variant survive a kill, hold what was added, and belong to one variant."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from dinac_cli.compare.result_files import Measure, ResultFile, SourceStat
from dinac_cli.errors import OutputError

FACTS = {"digest": "0123456789abcdef", "model": "nano"}
MEASURE = Measure(
    source_sha256="ab" * 32,
    source=SourceStat(123, 456, 789),
    record_sha256="cd" * 32,
    record_bytes=77,
    height=5,
    width=7,
    psnr_db=31.25,
    ssim=0.875,
    ms_ssim=None,
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "results.jsonl")


def open_file(path: str, overwrite: bool = False, **facts: str) -> ResultFile:
    return ResultFile(path, FACTS | facts, overwrite=overwrite)


def fill(path: str, **measures: Measure) -> None:
    results = open_file(path)
    for name, measure in measures.items():
        results.add(name, measure)
    results.close()


def test_measures_are_found_again(path: str) -> None:
    others = {
        "b": replace(MEASURE, psnr_db=math.inf, ms_ssim=0.5),
        "c": replace(MEASURE, ssim=None),
    }
    fill(path, a=MEASURE, **others)
    results = open_file(path)
    assert [results.find(name) for name in "abcd"] == [MEASURE, *others.values(), None]


def test_a_line_is_plain_json(path: str) -> None:
    fill(path, **{"naïve \udce9.jpg": replace(MEASURE, psnr_db=math.inf)})
    first, second = map(json.loads, Path(path).read_text("ascii").splitlines())
    assert first == FACTS
    assert second["name"] == "naïve \udce9.jpg"
    assert (second["psnr_db"], second["ssim"], second["record_bytes"]) == (None, 0.875, 77)


@pytest.mark.parametrize("cut", [2, 20, 150])
def test_a_last_line_that_a_kill_has_cut_is_dropped(path: str, cut: int) -> None:
    fill(path, a=MEASURE, b=MEASURE)
    Path(path).write_bytes(Path(path).read_bytes()[:-cut])
    fill(path, c=MEASURE)
    results = open_file(path)
    assert [results.find(name) is not None for name in "abc"] == [True, False, True]
    lines = Path(path).read_text("ascii").splitlines()
    assert [json.loads(line).get("name") for line in lines] == [None, "a", "c"]


def test_the_last_line_of_an_image_counts_and_the_file_does_not_grow(path: str) -> None:
    newest = replace(MEASURE, psnr_db=1.0)
    for measure in (MEASURE, MEASURE, newest):
        fill(path, a=measure)
    assert open_file(path).find("a") == newest
    assert len(Path(path).read_text("ascii").splitlines()) == 2


@pytest.mark.parametrize(
    "damage",
    [
        {"psnr_db": "31"},
        {"source_sha256": "ab"},
        {"record_bytes": 2**64},
        {"height": None},
        {"ssim": True, "width": "x"},
        {"height": 0},
        {"width": -7},
        {"record_bytes": 0},
        {"ssim": -math.inf},
        {"ms_ssim": 7.5},
        {"psnr_db": -math.inf},
    ],
)
def test_damaged_lines_are_skipped(path: str, damage: dict[str, object]) -> None:
    fill(path, a=MEASURE)
    with open(path, "a", encoding="ascii") as file:
        file.write(json.dumps(MEASURE.to_json("b") | damage) + "\n[]\nnonsense\n")
        file.write(json.dumps(MEASURE.to_json("c")) + "\n")
    results = open_file(path)
    assert [results.find(name) is not None for name in "abc"] == [True, False, True]


def test_results_of_another_variant_are_not_used(path: str) -> None:
    fill(path, a=MEASURE)
    assert open_file(path, digest="f" * 16).find("a") is None


def test_overwrite_forgets_everything(path: str) -> None:
    fill(path, a=MEASURE)
    assert open_file(path, overwrite=True).find("a") is None
    assert open_file(path).find("a") is None


def test_a_file_that_is_whole_is_not_written_again(path: str) -> None:
    fill(path, a=MEASURE)
    before = Path(path).stat()
    open_file(path).close()
    assert (Path(path).stat().st_ino, Path(path).stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )


def test_a_folder_in_place_of_the_results_is_refused(path: str) -> None:
    Path(path).mkdir()
    with pytest.raises(OutputError, match=r"not a regular file; remove it$"):
        open_file(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_place_of_the_results_does_not_block(path: str) -> None:
    os.mkfifo(path)
    with pytest.raises(OutputError, match="not a regular file"):
        open_file(path)
