"""What a person sees of a run: a bar on a terminal, plain lines elsewhere, nothing if quiet."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dinac_cli.commands.screen import console

from .processes import get_python, run, run_on_terminal, run_process, strip_escapes, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals")

# The program, with no pause between two progress lines.
EAGER = (
    "import dinac_cli.commands.screen.console as c; c.PLAIN_INTERVAL_SECONDS = 0.0; "
    "from dinac_cli.cli import main; main()"
)


def test_progress_lines_without_a_terminal(work: Path, tmp_path: Path) -> None:
    program = (get_python(), "-c", EAGER)
    done = run_process(
        *("encode", "photos", tmp_path / "out"),
        cwd=work,
        program=program,
        environment={"DINAC_NO_PROGRESS": None},
    )
    assert done.code == 0
    assert re.fullmatch(r"(dinac: encode [1-4]/4, .*\n){4}", done.err), done.err
    assert re.search(
        r"^dinac: encode 4/4, [\d.]+ images/s  ETA 0\.0 s  [\d.]+ MP/s  .+ → .+ \(.+x\)  "
        r"bottleneck: (read|model|write)  workers \d+% busy$",
        done.err,
        re.MULTILINE,
    ), done.err


@pytest.mark.parametrize(
    ("option", "variable", "has_lines"),
    [([], None, True), (["--no-progress"], None, False), ([], "1", False)],
)
def test_progress_lines_are_an_option_of_every_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: list[str],
    variable: str | None,
    has_lines: bool,
) -> None:
    """Demo runs encode, decode and psnr."""
    monkeypatch.setattr(console, "PLAIN_INTERVAL_SECONDS", 0.0)
    environment = {"DINAC_NO_PROGRESS": variable}
    done = run("demo", "try", *option, cwd=tmp_path, environment=environment)
    assert done.code == 0
    lines = re.findall(r"^dinac: (encode|decode|psnr) \d/5, ", done.err, re.MULTILINE)
    assert set(lines) == ({"encode", "decode", "psnr"} if has_lines else set())
    assert len(done.err.splitlines()) == len(lines)


def test_a_bar_on_a_terminal(work: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow.png"
    os.mkfifo(slow)

    def feed(process: subprocess.Popen[bytes], read_screen: Callable[[], str]) -> None:
        wait_until(lambda: "/5" in read_screen(), process)
        slow.write_bytes((work / "photos/b.png").read_bytes())

    images = [work / "photos", slow]
    code, screen = run_on_terminal("encode", *images, tmp_path / "out", on_start=feed)
    assert code == 0
    shown = strip_escapes(screen)
    assert re.search(r"encode [━╸╺ ]+ [0-4]/5", shown)
    assert re.search(r"encode ━+ 5/5\r\n.*images/s", shown)
    assert "\x1b[38;5;" in screen  # colours
    assert screen.index("\x1b[?25l") < screen.rindex("\x1b[?25h")
    assert re.search(r"5 encoded with nano \(default on a CPU\), .+; .+ in .+ s\r\n\Z", screen)


def test_bench_shows_what_it_measures(work: Path) -> None:
    line = "bench --model nano --device cpu --only network --resolution 32 --batch 2 --seconds 0.1"
    code, screen = run_on_terminal(*line.split())
    text = strip_escapes(screen)
    assert code == 0
    for phase in ("loading torch", "loading the models", "checking the error of the fast model"):
        assert phase in text
    assert "2/3" in text
    assert "timing the models: decode, 32 px, batch 2, 4 steps" in text
    assert "dinac: timing the models" not in text  # the line for logs
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l")


@pytest.mark.parametrize("command", ["encode photos latents", "plan photos latents --quick"])
def test_no_progress_on_a_terminal(
    work: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    code, screen = run_on_terminal(*command.split(), "--no-progress")
    assert code == 0
    assert "\x1b" not in screen


@pytest.mark.parametrize(
    ("changes", "has_bar"), [({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, False)]
)
def test_no_color_and_dumb_terminals_are_respected(
    work: Path, changes: dict[str, str], has_bar: bool
) -> None:
    code, screen = run_on_terminal("encode", work / "photos", work / "latents", environment=changes)
    assert code == 0
    assert not re.search(r"\x1b\[[0-9;]*(3|4|9|10)[0-9][0-9;]*m", screen)
    assert ("4/4" in screen) is has_bar
    if not has_bar:
        assert screen == "0 encoded with nano, 4 already done, 1 other file skipped\r\n"


def test_quiet_leaves_errors_and_json(work: Path) -> None:
    done = ("encode", work / "photos", work / "latents", "--quiet")
    assert run_on_terminal(*done) == (0, "")
    asked = run(*done, "--json")
    assert (asked.code, asked.err) == (0, "")
    assert asked.objects[-1]["done"] == 4
    bad = run("encode", work / "photos/notes.txt", work / "photos/b.png", work / "latents", "-q")
    assert (bad.code, bad.out) == (3, "")
    assert (
        bad.err == f"dinac: {work}/photos/notes.txt: not an image (no known image format); "
        "see 'dinac man images'\n"
    )


def test_file_names_above_the_bar_are_not_markup(tmp_path: Path) -> None:
    name = "[bold red]x[green].png"
    (tmp_path / name).write_text("not a picture")
    (tmp_path / "other.png").write_text("not a picture")
    code, screen = run_on_terminal("encode", tmp_path, tmp_path / "out")
    assert code == 3
    said = f"dinac: {tmp_path}/{name}: not an image (no known image format); see 'dinac man images'"
    assert f"{said}\r\n" in screen  # the terminal wraps it
    code, screen = run_on_terminal("psnr", tmp_path / "none[red]", tmp_path)
    said = f"dinac: {tmp_path}/none[red]: no such file or folder; check the path"
    assert (code, screen) == (2, f"{said}\r\n")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_symbols_become_ascii_if_need_be(work: Path, encoding: str) -> None:
    done = run_process(
        *("encode", work / "photos", work / "latents", "--verbose"),
        environment={"PYTHONIOENCODING": encoding, "PYTHONUTF8": None},
    )
    assert done.code == 0
    assert f"dinac: {work}/photos/b.png -> {work}/latents/b.png.dinac (done)\n" in done.err
