"""`dinac doctor`: exit codes, the screen, the JSON object, and nothing private or left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.commands.doctor import format_document, format_finding
from dinac_cli.doctor import inquiry, installation, probe
from dinac_cli.doctor.finding import note, ok
from dinac_cli.doctor.privacy import Privacy

from ..doctor.canned import CPU, CRASH, CUDA, HANG, keep_places, replace_probe
from .conftest import list_files
from .processes import (
    Finished,
    finish,
    run,
    run_noting_imports,
    run_on_terminal,
    start,
)
from .test_start_up import HEAVY

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")

KEYS = ["doctor", "failed", "notes", "checks"]
CHECK_KEYS = ["check", "level", "text", "remedy", "facts"]
PUBLIC = Privacy((), (), ())


def examine(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    plan: Mapping[str, Any],
    *options: str,
    environment: Mapping[str, str | None] | None = None,
) -> Finished:
    """Runs the command with fixed answers of the probe."""
    replace_probe(monkeypatch, keep_places(plan, folder))
    return run("doctor", folder, *options, environment=environment or {})


def check_document(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Checks the schema; returns the checks by their names."""
    assert list(document) == KEYS
    assert document["doctor"] == 1
    for one in document["checks"]:
        assert list(one) == CHECK_KEYS
        assert one["level"] in ("ok", "note", "FAIL")
        assert bool(one["remedy"]) is (one["level"] != "ok")
        assert isinstance(one["facts"], dict)
    levels = [one["level"] for one in document["checks"]]
    assert (document["failed"], document["notes"]) == (levels.count("FAIL"), levels.count("note"))
    return {one["check"]: one for one in document["checks"]}


@pytest.mark.parametrize("plan", [CPU, CUDA])
def test_a_sound_machine_exits_with_0(
    plan: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = examine(monkeypatch, tmp_path, plan)
    assert (done.code, done.err) == (0, "")
    lines, _, block = done.out.partition("\n\n")
    assert all(line[:6] in ("ok    ", "note  ") for line in lines.splitlines())
    assert all((" → " in line) is line.startswith("note") for line in lines.splitlines())
    assert "\x1b" not in done.out
    summary, invitation, text = block.split("\n\n")
    assert summary.endswith("dinac works; the notes say what is missing or slow.")
    assert invitation == "For a bug report, copy this JSON. It names neither you nor this machine."
    checks = check_document(json.loads(text))
    assert len(checks) == len(lines.splitlines())


def test_wrong_latents_exit_with_3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong = {**CPU[probe.FLOAT32], "latents_error": 0.3}
    done = examine(monkeypatch, tmp_path, {**CPU, probe.FLOAT32: wrong})
    assert (done.code, done.err) == (3, "")
    [line] = [one for one in done.out.splitlines() if one.startswith("FAIL")]
    assert line == (
        "FAIL  nano in f32     the embedded model gives WRONG results on cpu: latents differ by "
        "0.3 (limit 0.0001), decoded pixels differ by 0 of 255 levels (limit 0.2) "
        "→ do not use results of this installation; reinstall torch, and open an issue"
    )
    assert "1 failed, " in done.out
    assert "Do what the lines with FAIL say first." in done.out


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (CRASH, "torch cannot be used: the process crashed (SIGILL)"),
        (HANG, "torch cannot be used: no answer within 2 s"),
        ("OSError: libtorch.so: not found", "torch cannot be used: OSError: libtorch.so"),
    ],
)
def test_a_torch_that_crashes_or_hangs_is_a_line(
    what: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limit = ("--time-limit", "2") if what == HANG else ()
    done = examine(monkeypatch, tmp_path, {**CPU, probe.DEVICE: what}, "--json", *limit)
    assert (done.code, done.err) == (3, "")
    torch = check_document(json.loads(done.out))["torch"]
    assert torch["level"] == "FAIL"
    assert torch["text"].startswith(words)
    if what == CRASH:
        assert torch["facts"]["details"] == ["Fatal error in a kernel"]


@pytest.mark.usefixtures("forks")
def test_the_real_probe_on_this_machine_tells_nothing_private(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Caches and outputs are inside the home folder; the disk that is named is not."""
    home = tmp_path / "homes/wanda-wu"
    outputs = tmp_path / "disk-of-wanda-wu/on-altair7"
    for folder in (home, outputs):
        folder.mkdir(parents=True)
    monkeypatch.setattr(socket, "gethostname", lambda: "altair7.example.org")
    environment = {
        "HOME": str(home),
        "USER": "wanda-wu",
        "LOGNAME": "wanda-wu",
        "HOSTNAME": "altair7",
        "SHELL": "/bin/bash",
        "DINAC_CACHE": str(home / ".cache/dinac"),
        "HF_HOME": str(home / "hub"),
    }
    done = run("doctor", outputs, "--json", "--device", "cpu", environment=environment)
    assert (done.code, done.err) == (0, "")
    checks = check_document(json.loads(done.out))
    assert checks["cache"]["text"].startswith("~/.cache/dinac: ")
    assert checks["disk"]["facts"]["folder"].endswith("/disk-of-USER/on-HOST")
    for private in ("wanda", "altair7", str(home)):
        assert private not in done.out
    assert checks["nano in f32"]["level"] == "ok"
    assert list_files(tmp_path) == []
    screen = run("doctor", outputs, "--device", "cpu", environment=environment)
    assert "disk-of-wanda-wu/on-altair7" in screen.out.partition("\n\n")[0]  # your own screen
    assert str(home) not in screen.out
    for private in ("wanda", "altair7"):
        assert private not in screen.out.partition("\n\n")[2]


def test_the_parent_imports_nothing_that_can_crash(tmp_path: Path) -> None:
    arguments = ("doctor", str(tmp_path), "--json", "--device", "cuda:99")
    done, imported = run_noting_imports(tmp_path / "imports", HEAVY, *arguments)
    assert (done.code, done.err, imported) == (3, "", "")
    device = check_document(json.loads(done.out))["device"]
    assert (device["level"], device["facts"]["asked"]) == ("FAIL", "cuda:99")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("nowhere",),
            "nowhere: no such folder; name an existing folder on the disk of your outputs",
        ),
        (("--time-limit", "0"), "--time-limit 0: expected 1 second or more"),
        (("--device", "gpu"), "--device gpu: choose one of auto, cpu, cuda, cuda:N, mps"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...], message: str) -> None:
    done = run("doctor", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"dinac: {message}")
    assert done.err.count("\n") == 1


def test_without_a_second_process_it_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(inquiry, "make_command", lambda: ["/no/such/python"])
    done = run("doctor", tmp_path, "--json")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("dinac: the system refused: ")
    assert done.err.count("\n") == 1


def test_missing_packages_exit_with_3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wanted = [installation.Requirement("zstandard", "0.23", "", None)]
    monkeypatch.setattr(installation, "list_requirements", lambda: wanted)
    done = examine(monkeypatch, tmp_path, CPU, "--json")
    assert done.code == 3
    packages = check_document(json.loads(done.out))["packages"]
    assert packages["remedy"] == "pip install 'zstandard>=0.23'"


def test_the_last_lines_are_the_object_of_json(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    document = json.loads(examine(monkeypatch, tmp_path, CPU, "--json").out)
    lines = list(format_document(document))
    assert json.loads("\n".join(lines)) == document
    assert len(lines) == len(document["checks"]) + len(document) - 1 + 4
    assert max(line.count('"check"') for line in lines) == 1


def test_on_a_terminal(tmp_path: Path) -> None:
    code, screen = run_on_terminal("doctor", tmp_path, "--device", "cpu", "--no-progress")
    assert code == 0
    assert "\x1b" not in screen
    before = screen.partition("checks: ")[0]
    for name in ("dinac", "packages", "torch", "device", "nano in f32", "disk", "completions"):
        assert f"{name:<16}" in before


@pytest.mark.parametrize("width", [20, 30, 40, 59, 60, 80, 120])
def test_lines_fit_the_screen(width: int) -> None:
    finding = note("extra formats", "none is here: " + "some words " * 12, "pip install 'x[y]'", {})
    lines = list(format_finding(finding, PUBLIC, width))
    assert max(map(len, lines)) <= max(width, 23)
    assert " ".join(" ".join(lines).split()) == (
        "note extra formats " + "none is here: " + "some words " * 12 + "→ pip install 'x[y]'"
    )
    assert sum("→" in line for line in lines) == 1


def test_a_path_is_never_broken() -> None:
    path = "/" + "long-name/" * 12
    lines = list(format_finding(ok("disk", f"{path}: fast", {}), PUBLIC, 40))
    assert any(path in line for line in lines)


def test_without_a_terminal_each_check_is_one_line() -> None:
    finding = note("disk", "words " * 50 + "end", "do it", {})
    assert list(format_finding(finding, PUBLIC, None)) == [
        "note  disk            " + "words " * 50 + "end → do it"
    ]


def test_ascii_output_is_readable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment = {"LANG": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done, _ = run_noting_imports(
        tmp_path / "note", (), "doctor", str(tmp_path), "--device", "cpu", environment=environment
    )
    assert done.code == 0
    assert " -> " in done.out
    assert done.out.isascii()


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    process = start("doctor", folder, "--device", "cpu")
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"ok    dinac ")
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert (done.code, done.err) == (130, "")
    assert list_files(folder) == []
