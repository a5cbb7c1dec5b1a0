"""Every command of the README runs, in its order, on small images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from .commands import SUBSTITUTIONS, Command, list_commands, substitute
from .sandbox import STAND_INS, STUBS, Sandbox, copy_sandbox

COMMANDS = list(list_commands())
SECTIONS = list(dict.fromkeys(command.section for command in COMMANDS))

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """Images, and what the main job makes of them; to be copied."""
    sandbox = Sandbox(tmp_path_factory.mktemp("readme") / "filled")
    sandbox.fill()
    return sandbox


@pytest.mark.parametrize("section", SECTIONS)
def test_commands_of_a_section_run_one_after_the_other(
    section: str, filled: Sandbox, tmp_path: Path
) -> None:
    sandbox = copy_sandbox(filled, tmp_path / "own")
    shortened: set[str] = set()
    for command in COMMANDS:
        if command.section != section:
            continue
        text = substitute(command.text).partition("  #")[0].rstrip()
        if text in shortened:  # another long command was shortened to the same one
            continue
        if not command.text.startswith(text):
            shortened.add(text)
        sandbox.check(command)


def test_blocks_are_found() -> None:
    page = (
        "# a\n\n    one  # x\n\n## b\n\n    two \\\n      more\n    three\n\ntext\n    no block\n\n"
        "```python\nx = 1\n\ny = 2\n```\n\n```\nno command\n```\n\n```sh\nfour\n```\n"
    )
    assert list(list_commands(page)) == [
        Command("", "one  # x"),
        Command("b", "two    more"),
        Command("b", "three"),
        Command("b", "x = 1\n\ny = 2", is_python=True),
        Command("b", "four"),
    ]


@pytest.mark.parametrize("part", [one.part for one in SUBSTITUTIONS])
def test_what_is_substituted_is_in_the_readme(part: str) -> None:
    assert any(part in command.text for command in COMMANDS)


@pytest.mark.parametrize("name", [*STUBS, *STAND_INS])
def test_what_is_replaced_on_the_path_is_called(name: str) -> None:
    assert any(f"{name} " in command.text for command in COMMANDS)


def test_stand_ins_do_what_the_programs_do(filled: Sandbox, tmp_path: Path) -> None:
    sandbox = copy_sandbox(filled, tmp_path / "own")
    for name, program in STAND_INS.items():
        sandbox.add_stand_in(name, program)
    mean = sandbox.check(Command("", "dinac psnr photos decoded --json | tee all.json | jq .mean"))
    assert float(mean) == json.loads((sandbox.folder / "all.json").read_text())["mean"]
    sandbox.check(Command("", "zstd -dc a.dinac >a.safetensors"))
    content = (sandbox.folder / "a.safetensors").read_bytes()
    assert b'"__metadata__"' in content[8 : 8 + int.from_bytes(content[:8], "little")]
