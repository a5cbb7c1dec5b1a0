"""Help and completion start fast, import little, and work in every shell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from dinac_cli.commands.completions import SCRIPTS, write_scripts
from dinac_cli.commands.examples import EXAMPLES

from .processes import (
    DEADLINE_SECONDS,
    DINAC,
    Finished,
    make_environment,
    run,
    run_noting_imports,
    run_process,
)

COMPLETIONS = Path(__file__).parent.parent.parent / "completions"
HEAVY = ("torch", "numpy", "PIL", "huggingface_hub", "zstandard")
COMMANDS = sorted({path.split()[1] for path in EXAMPLES if " " in path})


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("psnr", "--help"),
        ("verify", "--help"),
        ("encode", "--help"),
        ("--version",),
        ("-V",),
        ("help",),
        ("man", "nano"),
    ],
)
def test_help_imports_nothing_heavy(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done, imported = run_noting_imports(tmp_path / "imports", HEAVY, *arguments)
    assert (done.code, done.err, imported) == (0, "", "")


def test_help_starts_fast() -> None:
    """It takes little longer than Python and Typer alone, on however slow a machine."""

    def measure(*arguments: str, program: Sequence[str] = DINAC) -> float:
        """Returns CPU seconds, which depend less on other processes than the time does."""
        before = os.times()
        assert run_process(*arguments, program=program).code == 0
        after = os.times()
        return after.children_user + after.children_system - sum(before[2:4])

    least = (sys.executable, "-c", "import typer, rich.table")
    shares = (measure("--help") / measure(program=least) for _ in range(5))
    assert any(share <= 3 for share in shares)


def test_help_names_every_command_and_fits_80_columns() -> None:
    done = run("--help")
    assert done.err == ""
    assert sorted(re.findall(r"^│ (\w+)  +[A-Z]", done.out, re.MULTILINE)) == COMMANDS
    bare = run()
    assert (bare.code, bare.out, bare.err) == (2, done.out.removesuffix("\n"), "")
    for command in ([], ["encode"], ["decode"], ["psnr"], ["verify"], ["demo"]):
        shown = run(*command, "-h")
        assert (shown.code, shown.err) == (0, "")
        assert max(map(len, shown.out.splitlines())) <= 80


def complete(shell: str, words: Sequence[str]) -> Finished:
    """Asks for completions of the last word as the script of `shell` does."""
    line = " ".join(("dinac", *words))
    variables = {
        "bash": {"COMP_WORDS": line.replace(" ", "\n"), "COMP_CWORD": str(len(words))},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        "powershell": {
            "_TYPER_COMPLETE_ARGS": line,
            "_TYPER_COMPLETE_WORD_TO_COMPLETE": words[-1],
        },
    }
    return run(environment={"_DINAC_COMPLETE": f"complete_{shell}", **variables[shell]})


def read_words(shell: str, text: str) -> list[str]:
    """Extracts the candidates from the format that `shell` expects."""
    if shell == "zsh":
        return sorted(re.findall(r'^(?:_arguments \'\*: :\(\()?"([^"]*)"', text, re.MULTILINE))
    separator = {"bash": "\n", "fish": "\t", "powershell": ":::"}[shell]
    return sorted(line.split(separator)[0] for line in text.splitlines() if line)


SEMDIS = ["semdisdiffae", "semdisdiffae-p32"]


@pytest.mark.parametrize("shell", list(SCRIPTS))
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["encode", "--pre"], ["--precision"]),
        (["decode", "--sampler", "d"], ["ddim", "dpmpp-2m"]),
    ],
)
def test_options_and_values_are_completed_in_every_shell(
    shell: str, words: list[str], offered: list[str]
) -> None:
    done = complete(shell, words)
    assert (done.code, done.err) == (0, "")
    assert read_words(shell, done.out) == offered


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ([""], COMMANDS),
        (["encode", "--precision", "q"], ["q3", "q4", "q5", "q6", "q7", "q8"]),
        (["encode", "--model", ""], ["auto", "d2", "dinac-ae", "flux2", "nano", *SEMDIS]),
        (["encode", "--device", "c"], ["cpu", "cuda"]),
        (["decode", "--device", "a"], ["all", "auto"]),
        (["features", "--device", "a"], ["auto"]),
        (["decode", "--schedule", ""], ["cosine", "linear"]),
        (["decode", "-f", ""], ["avif", "bmp", "jpg", "png", "ppm", "tiff", "webp"]),
        (["completions", "z"], ["zsh"]),
        (["help", "f"], ["features", "figures", "format"]),
        (["psnr", "--metrics", ""], ["lpips", "ms-ssim", "psnr", "rfid", "ssim"]),
        (["psnr", "--metrics", "psnr,s"], ["psnr,ssim"]),
        (
            ["psnr", "--metrics", "ssim,"],
            [f"ssim,{m}" for m in ("lpips", "ms-ssim", "psnr", "rfid")],
        ),
        (["man", "m"], ["metrics", "models"]),
        (["models", ""], ["list", "pull", "rm", "show"]),
        (["models", "show", ""], ["d2", "dinac-ae", "flux2", "nano", *SEMDIS]),
        (["encode", ""], []),  # the shell completes file names
    ],
)
def test_completions_of_commands_and_values(words: list[str], offered: list[str]) -> None:
    done = complete("bash", words)
    assert (done.code, done.err) == (0, "")
    assert read_words("bash", done.out) == offered


def test_completion_imports_nothing_heavy(tmp_path: Path) -> None:
    done, imported = run_noting_imports(
        tmp_path / "imports",
        HEAVY,
        environment={
            "_DINAC_COMPLETE": "complete_bash",
            "COMP_WORDS": "dinac\nencode\n--model\n",
            "COMP_CWORD": "3",
        },
    )
    assert (done.code, imported) == (0, "")


def test_shipped_completion_scripts_are_up_to_date(tmp_path: Path) -> None:
    """If not, run `python -m dinac_cli.artifacts completions completions`."""
    write_scripts(tmp_path)
    assert sorted(path.name for path in COMPLETIONS.iterdir()) == sorted(SCRIPTS.values())
    for name in SCRIPTS.values():
        assert (COMPLETIONS / name).read_bytes() == (tmp_path / name).read_bytes(), name


def _put_on_path(folder: Path) -> str:
    """Writes a program `dinac` to a folder; returns a PATH that finds it."""
    program = folder / "dinac"
    program.write_text("#!/bin/sh\nexec " + " ".join(f"'{part}'" for part in DINAC) + ' "$@"\n')
    program.chmod(0o755)
    return f"{folder}:{make_environment()['PATH']}"


BASH = """
source "$1"
COMP_WORDS=(dinac encode --precision q) COMP_CWORD=3
_dinac_completion dinac
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("shell", "arguments"),
    [
        ("bash", ["--norc", "-c", BASH, "bash", str(COMPLETIONS / "dinac.bash")]),
        (
            "fish",
            [
                "-N",
                "-c",
                f"source {COMPLETIONS / 'dinac.fish'}; complete -C 'dinac encode --precision q'",
            ],
        ),
    ],
)
def test_completion_script_works_in_its_shell(
    tmp_path: Path, shell: str, arguments: list[str]
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    environment = make_environment({"PATH": _put_on_path(tmp_path), "HOME": str(tmp_path)})
    done = subprocess.run(
        [shell, *arguments], capture_output=True, env=environment, timeout=DEADLINE_SECONDS
    )
    assert done.stderr.decode() == ""
    assert sorted(done.stdout.decode().split()) == ["q3", "q4", "q5", "q6", "q7", "q8"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_script_answers_the_first_tab(tmp_path: Path) -> None:
    """It completes if run from fpath under its own name; if sourced, it only defines."""
    script = """
    compdef() { : }
    _arguments() { print -r -- "$1" }
    words=(dinac encode --precision q) CURRENT=4
    fpath=($1 $fpath)
    autoload -Uz _dinac
    _dinac
    """
    environment = make_environment({"PATH": _put_on_path(tmp_path), "HOME": str(tmp_path)})
    done = subprocess.run(
        ["zsh", "-f", "-c", script, "zsh", COMPLETIONS],
        capture_output=True,
        env=environment,
        timeout=DEADLINE_SECONDS,
    )
    assert (done.returncode, done.stderr.decode()) == (0, "")
    assert re.findall(r'"(q\d)"', done.stdout.decode()) == ["q8", "q7", "q6", "q5", "q4", "q3"]


def test_installed_program_runs_the_module() -> None:
    program = Path(sys.executable).with_name("dinac")
    if not program.exists():
        pytest.skip("the package is not installed")
    assert run_process("--version", program=[str(program)]) == run("--version") == run("-V")
