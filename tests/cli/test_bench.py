"""`dinac bench` as its user sees it."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import pytest

from dinac_cli.bench import benchmark, cost, host, processes, shard_costs, stages
from tests.bench.fake_python import replace_python

from .conftest import save
from .processes import run

QUICK = ("bench", "--model", "nano", "--device", "cpu", "--seconds", "0.1", "--resolution", "32")
NETWORK = (*QUICK, "--only", "network")


@pytest.fixture(autouse=True)
def quick_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "measure_matmul", lambda device, dtype: 1e11)
    monkeypatch.setattr(processes, "REPEATS", 1)
    monkeypatch.setattr(stages, "ROUNDS", 1)
    monkeypatch.setattr(host, "_BATCH_TOKENS", 64)  # the first result waits for a whole batch


def test_network_alone_as_json() -> None:
    finished = run(*NETWORK, "--json", "--batch", "2")
    assert (finished.code, finished.err) == (0, "")
    report = json.loads(finished.out)
    assert list(report) == ["machine", "network", "accuracy"]
    assert report["machine"]["model"] == "nano"
    assert report["machine"]["matmul_tflops"] == 0.1
    assert [(row["task"], row["network"], row["batch"]) for row in report["network"]] == [
        (task, network, 2)
        for task in ("encode", "decode", "decode")
        for network in ("plain", "fast")
    ]
    assert all(check["holds"] for check in report["accuracy"])


@pytest.mark.skipif(os.name != "posix", reason="needs scripts with an interpreter line")
def test_commands_alone_as_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_python(tmp_path, monkeypatch)
    image = save(tmp_path / "a.jpg", 40, 30)
    commands = (*QUICK, str(image), "--only", "commands", "--files", "2", "--files", "4")
    finished = run(*commands, environment={"DINAC_NO_PROGRESS": None})
    assert finished.code == 0
    assert finished.err == "dinac: timing the commands\ndinac: timing the stages\n"
    words = [line.split() for line in finished.out.splitlines()]
    assert words[0][0] == "nano;"
    assert words[1] == ["command", "files", "seconds", "first", "file", "MiB"]
    assert [row[:2] for row in words[2:6]] == [
        ["encode", "2"], ["decode", "2"], ["encode", "4"], ["decode", "4"],
    ]  # fmt: skip
    assert sum("ms per file" in line for line in finished.out.splitlines()) == 2
    assert words[-4] == [
        "command", "files", "read", "model", "write", "whole", "whole/slowest",
        "overlapped", "whole/overlapped",
    ]  # fmt: skip
    assert all(len(line) <= 80 for line in finished.out.splitlines()[1:])
    quiet = run(*commands, "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_network_tables_fit_80_columns() -> None:
    finished = run(*NETWORK, environment={"DINAC_NO_PROGRESS": None})
    assert (finished.code, finished.err) == (0, "dinac: timing the models\n")
    assert all(len(line) <= 80 for line in finished.out.splitlines()[1:])
    assert "error of encode, fast: " in finished.out


def test_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "count_processors", lambda: 1)
    arguments = (*QUICK, "--only", "host", "--model-rate", "100")
    finished = run(*arguments, "--json")
    assert (finished.code, finished.err) == (0, "")
    report = json.loads(finished.out)
    assert list(report) == ["machine", "host"]
    tasks = ["encode", "decode to png", "decode to jpg", "decode to webp"]
    assert [row["task"] for row in report["host"]] == tasks
    assert {row["model"] for row in report["host"]} == {100.0}
    assert [one["processes"] for one in report["host"][0]["whole"]] == [1]
    table = run(*arguments)
    assert table.code == 0
    lines = table.out.splitlines()
    assert all(len(line) <= 80 for line in lines[1:])
    assert lines[1].split() == ["one", "thread,", "images/s", "read", "pack", "write", "model"]
    assert [line.split("  ")[0] for line in lines[-5:-1]] == tasks


def test_shards_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "count_processors", lambda: 1)
    monkeypatch.setattr(shard_costs, "SHARD_IMAGES", 5)
    monkeypatch.setattr(shard_costs, "SIDES", ((64, None), (1024, 64)))
    finished = run(*QUICK, "--only", "shards", "--json")
    assert (finished.code, finished.err) == (0, "")
    report = json.loads(finished.out)
    assert list(report) == ["machine", "images", "shards"]
    plain, scaled = report["images"]
    assert plain["kilobytes"] < scaled["kilobytes"]
    assert 0 < plain["read_ms"] < scaled["read_ms"]
    bf16, q8, q6 = (record["kilobytes"] for record in plain["records"])
    assert bf16 > q8 > q6 > 0
    assert all(record["pack_ms"] > 0 for row in report["images"] for record in row["records"])
    [alone] = report["shards"]
    assert alone["cpu_ms"] > alone["main_ms"] > 0
    assert alone["images_per_second"] > 0
    table = run(*QUICK, "--only", "shards")
    lines = table.out.splitlines()
    assert all(len(line) <= 80 for line in lines[1:])
    assert lines[1].split() == [
        "JPEG", "kB", "read", "ms", "bf16", "kB", "pack", "ms", "q8", "kB", "pack", "ms",
        "q6", "kB", "pack", "ms",
    ]  # fmt: skip
    assert lines[-3].split() == [
        "shards,", "processes", "images/s", "cpu", "ms", "main", "ms", "parent", "us",
    ]  # fmt: skip


def test_cost_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # Both runs count the same for the smaller images.
    monkeypatch.setattr(benchmark, "count_cost", cache(cost.count_cost))
    arguments = ("bench", "--only", "cost", "--random-weights", "d2")
    finished = run(*arguments, "--resolution", "256", "--json")
    assert (finished.code, finished.err) == (0, "")
    report = json.loads(finished.out)
    assert list(report) == ["cost"]
    assert [(row["task"], row["steps"], row["network"]) for row in report["cost"]] == [
        (task, steps, network)
        for task, steps in (("encode", 0), ("decode", 1), ("decode", 4))
        for network in ("plain", "torch", "graphs")
    ]
    for row in report["cost"]:
        assert row["batch"] == 32
        assert row["kernels"] > 60
        assert min(row["predicted_images_per_second"].values()) > 100
    table = run(*arguments, "--resolution", "256", "--resolution", "1024")
    lines = table.out.splitlines()
    assert lines[0] == "d2, random weights; bf16; images/s are predicted, not measured"
    assert lines[1].split() == [
        "task", "NFE", "network", "size", "batch", "kernels", "GFLOP", "GB",
        "A100", "H200", "4090", "5090",
    ]  # fmt: skip
    assert len(lines) == 2 + 18 + 1
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model-rate", "9"), "--model-rate needs --only host"),
        (("--files", "3"), "--files: give at least two numbers; the fitted line needs two points"),
        (
            ("--random-weights", "d2"),
            "--random-weights and --model cannot be used together; leave one out",
        ),
        (("--compare", "sd"), "--compare sd: choose one of flux2"),
        (("--only", "it"), "--only it: choose one of network, commands, host, shards, cost"),
        (("absent.png",), "absent.png: no such file"),
    ],
)
def test_invalid_request_is_refused_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    finished = run(*QUICK, *arguments)
    assert finished.code != 0
    assert finished.out == ""
    assert finished.err.startswith(f"dinac: {message}")
    assert finished.err.count("\n") == 1
