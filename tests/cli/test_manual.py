"""`dinac man` and `dinac completions` print the shipped files."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from dinac_cli import __version__
from dinac_cli.cli import app
from dinac_cli.commands.completions import SCRIPTS
from dinac_cli.commands.man import MANUAL, make_manual

from .processes import run, run_on_terminal, strip_escapes

COMPLETIONS = Path(__file__).parent.parent.parent / "completions"


def test_the_manual_matches_the_command_tree() -> None:
    """If not, run `python -m dinac_cli.artifacts man`."""
    assert MANUAL.read_text(encoding="utf-8") == make_manual(get_command(app), __version__)


def test_the_manual_lists_the_variable_of_every_option() -> None:
    commands = get_command(app).commands.values()  # type: ignore[attr-defined]
    variables = {parameter.envvar for command in commands for parameter in command.params}
    assert variables - {None} == {
        "DINAC_MODEL", "DINAC_DEVICE", "DINAC_WORKERS", "DINAC_NO_PROGRESS"
    }  # fmt: skip
    for variable in variables - {None}:
        assert f"\\fB{variable}\\fR" in MANUAL.read_text(encoding="utf-8")


def test_the_manual_in_a_pipe_is_its_source() -> None:
    done = run("man")
    assert (done.code, done.out, done.err) == (0, MANUAL.read_text(encoding="utf-8"), "")


@pytest.mark.skipif(shutil.which("man") is None, reason="needs man")
def test_the_manual_on_a_terminal_is_a_page() -> None:
    code, screen = run_on_terminal("man", environment={"MANPAGER": "cat", "PAGER": "cat"})
    assert code == 0
    plain = re.sub(".\b", "", strip_escapes(screen))  # bold is a character, back, and again
    assert "dinac encode [options] IMG... OUT" in plain
    assert "dinac features [options] LATENTS... [OUT.safetensors]" in plain
    assert "dinac report [options] A B... OUT.html" in plain
    assert "dinac demo [options] [DIR]" in plain
    assert "Example: dinac encode photos/ latents/" in plain
    assert re.search(r"^ +P +bits/pixel +dB lost\r?\n +f32 +14\.5 +0\r?\n", plain, re.MULTILINE)


@pytest.mark.skipif(shutil.which("man") is None, reason="needs man")
def test_man_finds_no_mistakes() -> None:
    line = ["man", "--warnings=all", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(MANUAL)]
    done = subprocess.run(line, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shell", list(SCRIPTS))
def test_completions_prints_the_script(shell: str) -> None:
    done = run("completions", shell)
    script = (COMPLETIONS / SCRIPTS[shell]).read_text(encoding="utf-8")
    assert (done.code, done.out, done.err) == (0, script, "")


def test_unknown_shell_is_refused() -> None:
    done = run("completions", "tcsh")
    line = "dinac: SHELL tcsh: choose one of bash, zsh, fish, powershell\n"
    assert (done.code, done.out, done.err) == (2, "", line)
