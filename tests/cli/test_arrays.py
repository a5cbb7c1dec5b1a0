"""The recipes for Slurm and Kubernetes, run as the page shows them, with plain processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dinac_cli.jobs import shards

from .conftest import read_files, save
from .processes import DEADLINE_SECONDS, get_client, make_environment

PAGE = Path(shards.__file__).parents[1] / "RUNNING.md"
TASKS = 3

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs bash")


def read_block(language: str) -> str:
    """Returns a block of the page's section, for as many tasks as the test has."""
    [section] = re.findall(r"(?ms)^## Slurm and Kubernetes.*?(?=^## )", PAGE.read_text("utf-8"))
    block: str
    [block] = re.findall(rf"(?ms)^```{language}$(.*?)^```$", section)
    places = {"s3://b/photos/": "photos", "s3://b/latents/": "latents", "/8": f"/{TASKS}"}
    for place, instead in places.items():
        assert place in block
        block = block.replace(place, instead)
    return block.strip() + "\n"


def run_tasks(command_lines: list[list[str]], variable: str, folder: Path) -> None:
    """Runs tasks at the same time; `variable` holds the number of each."""
    tools = f"{Path(get_client()[0]).parent}{os.pathsep}{os.environ['PATH']}"
    processes = [
        subprocess.Popen(
            line,
            cwd=folder,
            env=make_environment({"PATH": tools, variable: str(number)}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for number, line in enumerate(command_lines)
    ]
    for process in processes:
        out, _ = process.communicate(timeout=DEADLINE_SECONDS)
        assert process.returncode == 0, out.decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photographs, and OUT of one run with seven shards."""
    for number in range(14):
        save(tmp_path / f"photos/{number:02}.png", 32, 32, number)
    command = ["dinac", "encode", "photos", "expected", "--shard-size", "2"]
    run_tasks([command], "NUMBER", tmp_path)
    return tmp_path


def test_an_array_of_slurm_leaves_the_bytes_of_one_run(folder: Path) -> None:
    script = read_block("text")
    assert script.startswith("#!/bin/bash\n#SBATCH --array=0-7\n")
    (folder / "job.sh").write_text(script.replace("--shard ", "--shard-size 2 --shard "))
    run_tasks([["bash", "job.sh"]] * TASKS, "SLURM_ARRAY_TASK_ID", folder)
    assert read_files(folder / "latents") == read_files(folder / "expected")


def test_an_indexed_job_of_kubernetes_leaves_the_bytes_of_one_run(folder: Path) -> None:
    block = read_block("yaml")
    [text] = re.findall(r"command: \[(.*)\]", block)
    words = [word.strip('"') for word in text.split(", ")]
    assert words[:2] == ["dinac", "encode"]
    assert "completions: 8\n  parallelism: 8\n" in block
    lines = [
        [word.replace("$(JOB_COMPLETION_INDEX)", str(number)) for word in words]
        + ["--shard-size", "2"]
        for number in range(TASKS)
    ]
    run_tasks(lines, "JOB_COMPLETION_INDEX", folder)
    assert read_files(folder / "latents") == read_files(folder / "expected")
