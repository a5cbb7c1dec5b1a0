"""Every command of the README runs, in its order, on small images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from .commands import ROOT, SUBSTITUTIONS, UNRUN, Command, is_unrun, list_commands
from .sandbox import STAND_INS, STUBS, Sandbox, check_options, copy_sandbox

COMMANDS = list(list_commands())
SECTIONS = list(dict.fromkeys(command.section for command in COMMANDS))

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """Images, latents and decoded images; tests work on copies."""
    sandbox = Sandbox(tmp_path_factory.mktemp("readme") / "filled")
    sandbox.fill()
    return sandbox


@pytest.mark.parametrize("section", SECTIONS)
def test_commands_of_a_section_run_in_order(section: str, filled: Sandbox, tmp_path: Path) -> None:
    sandbox = copy_sandbox(filled, tmp_path / "own")
    for command in COMMANDS:
        if command.section == section:
            (check_options if is_unrun(command.text) else sandbox.check)(command.text)


def test_list_commands_finds_indented_and_sh_blocks() -> None:
    page = (
        "# a\n\n    one  # x\n\n## b\n\n    two \\\n      more\n    three\n\ntext\n    no block\n\n"
        "```python\nx = 1\n\ny = 2\n```\n\n```\nno command\n```\n\n```sh\nfour\n```\n"
    )
    assert list(list_commands(page)) == [
        Command("", "one  # x"),
        Command("b", "two    more"),
        Command("b", "three"),
        Command("b", "four"),
    ]


def test_unknown_options_are_noticed() -> None:
    for text in ("dinac bench --bogus", "dinac train --steps x", "python -m tests.cli.kills --x"):
        with pytest.raises((Exception, SystemExit)):
            check_options(text)


@pytest.mark.parametrize("part", [*(one.part for one in SUBSTITUTIONS), *UNRUN])
def test_every_exception_is_in_the_readme(part: str) -> None:
    assert any(part in command.text for command in COMMANDS)


@pytest.mark.parametrize("path", UNRUN.values())
def test_every_command_that_is_not_run_has_its_own_test(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("name", [*STUBS, *STAND_INS])
def test_every_replaced_program_is_in_the_readme(name: str) -> None:
    assert any(f"{name} " in command.text for command in COMMANDS)


def test_stand_ins_do_what_the_programs_do(filled: Sandbox, tmp_path: Path) -> None:
    sandbox = copy_sandbox(filled, tmp_path / "own")
    for name, program in STAND_INS.items():
        sandbox.add_stand_in(name, program)
    mean = sandbox.check("dinac psnr photos decoded --json | tee all.json | jq .mean")
    assert float(mean) == json.loads((sandbox.folder / "all.json").read_text())["mean"]
    sandbox.check("zstd -dc a.dinac >a.safetensors")
    content = (sandbox.folder / "a.safetensors").read_bytes()
    assert b'"__metadata__"' in content[8 : 8 + int.from_bytes(content[:8], "little")]
