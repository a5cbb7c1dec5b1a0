"""`dinac bench` as its user sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import save
from .processes import run

QUICK = ("bench", "--model", "nano", "--device", "cpu", "--seconds", "0.1", "--resolution", "32")


def test_network_alone_as_json() -> None:
    finished = run(*QUICK, "--only", "network", "--json", "--batch", "2")
    assert (finished.code, finished.err) == (0, "dinac: timing the networks\n")
    report = json.loads(finished.out)
    assert list(report) == ["machine", "network", "accuracy"]
    assert report["machine"]["model"] == "nano"
    assert [(row["task"], row["network"], row["batch"]) for row in report["network"]] == [
        (task, network, 2)
        for task in ("encode", "decode", "decode")
        for network in ("plain", "fast")
    ]
    assert all(check["holds"] for check in report["accuracy"])


def test_commands_alone_as_tables(tmp_path: Path) -> None:
    image = save(tmp_path / "a.jpg", 40, 30)
    finished = run(*QUICK, str(image), "--only", "commands", "--files", "2", "--files", "4")
    assert finished.code == 0
    words = [line.split() for line in finished.out.splitlines()]
    assert words[0][0] == "nano;"
    assert words[1] == ["command", "files", "seconds", "first", "file", "MiB"]
    assert [row[:2] for row in words[2:6]] == [
        ["encode", "2"], ["decode", "2"], ["encode", "4"], ["decode", "4"],
    ]  # fmt: skip
    assert sum("ms a file" in line for line in finished.out.splitlines()) == 2
    assert words[-4] == [
        "command", "files", "read", "model", "write", "whole", "whole/slowest",
        "overlapped", "whole/overlapped",
    ]  # fmt: skip
    assert all(len(line) <= 80 for line in finished.out.splitlines()[1:])


def test_tables_of_the_network_fit_80_columns() -> None:
    finished = run(*QUICK, "--only", "network", "--resolution", "48", "--quiet")
    assert (finished.code, finished.out) == (0, "")
    finished = run(*QUICK, "--only", "network")
    assert all(len(line) <= 80 for line in finished.out.splitlines()[1:])
    assert "error of encode, fast: " in finished.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--files", "3"), "--files: name two numbers or more; a line takes two points"),
        (
            ("--random-weights", "d2"),
            "--random-weights stands instead of --model: leave one of them out",
        ),
        (("--compare", "sd"), "--compare sd: choose one of flux2"),
        (("--only", "it"), "--only it: choose one of network, commands"),
        (("absent.png",), "absent.png: no such file"),
    ],
)
def test_what_cannot_be_timed_is_refused_in_one_line(
    arguments: tuple[str, ...], message: str
) -> None:
    finished = run(*QUICK, *arguments)
    assert finished.code != 0
    assert finished.out == ""
    assert finished.err.startswith(f"dinac: {message}")
    assert finished.err.count("\n") == 1
