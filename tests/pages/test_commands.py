"""Every command of the pages runs, in its order, on small images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from .commands import COMMANDS, SUBSTITUTIONS, UNRUN, Command, blur, is_unrun, list_commands
from .pages import ROOT, Page
from .sandbox import STAND_INS, STUBS, Sandbox, check_options, copy_sandbox

SECTIONS = list(dict.fromkeys((command.page, command.section) for command in COMMANDS))

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """Images, latents and decoded images; tests work on copies."""
    sandbox = Sandbox(tmp_path_factory.mktemp("pages") / "filled")
    sandbox.fill()
    return sandbox


@pytest.mark.parametrize(("page", "section"), SECTIONS)
def test_commands_of_a_section_run_in_order(
    page: str, section: str, filled: Sandbox, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    commands = [one for one in COMMANDS if (one.page, one.section) == (page, section)]
    shows_output = any(one.output is not None for one in commands)
    sandbox = copy_sandbox(filled, tmp_path / "own", with_outputs=not shows_output)
    if any("s3://" in command.text for command in commands):
        sandbox.add_bucket(request.getfixturevalue("faulty_s3"))
    for command in commands:
        if is_unrun(command.text):
            check_options(command.text)
            continue
        output = sandbox.check(command.text)
        if command.output is not None:
            assert blur(output) == blur(command.output), command.text


def test_list_commands_finds_sh_and_console_blocks() -> None:
    page = Page(
        "a.md",
        "# a\n\n```sh\none  # x\n```\n\n## b\n\n```sh\ntwo \\\n  more\nthree\n```\n\n"
        "```python\nx\n```\n\n"
        "```\nno command\n```\n\n```console\n$ four\nits output\n$ five\n```\n",
    )
    assert list(list_commands(page)) == [
        Command("a.md", "a", "one  # x"),
        Command("a.md", "b", "two    more"),
        Command("a.md", "b", "three"),
        Command("a.md", "b", "four", "its output\n"),
        Command("a.md", "b", "five", ""),
    ]


def test_output_is_compared_without_what_varies() -> None:
    shown = "294 encoded; 21.5 MB → 35.4 MB (1.65x) in 1:10\n  dB  35.83\n"
    assert blur(shown) == blur("3 encoded; 9 B → 35.4 kB (2x) in 0.2 s\n dB 7\n").replace(" s", "")
    assert blur("3 encoded") != blur("3 failed")


def test_unknown_options_are_noticed() -> None:
    for text in ("dinac bench --bogus", "dinac train --steps x", "python -m tests.cli.kills --x"):
        with pytest.raises((Exception, SystemExit)):
            check_options(text)


@pytest.mark.parametrize("part", [*(one.part for one in SUBSTITUTIONS), *UNRUN])
def test_every_exception_is_on_a_page(part: str) -> None:
    assert any(part in command.text for command in COMMANDS)


@pytest.mark.parametrize("path", UNRUN.values())
def test_every_command_that_is_not_run_has_its_own_test(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("name", [*STUBS, *STAND_INS])
def test_every_replaced_program_is_on_a_page(name: str) -> None:
    assert any(f"{name} " in command.text for command in COMMANDS)


def test_stand_ins_do_what_the_programs_do(filled: Sandbox, tmp_path: Path) -> None:
    sandbox = copy_sandbox(filled, tmp_path / "own")
    for name, program in STAND_INS.items():
        sandbox.add_stand_in(name, program)
    mean = sandbox.check("dinac psnr photos decoded --json | tee all.json | jq .mean")
    assert float(mean) == json.loads((sandbox.folder / "all.json").read_text())["mean"]
    sandbox.check("zstd -dc latents/a.jpg.dinac >a.safetensors")
    content = (sandbox.folder / "a.safetensors").read_bytes()
    assert b'"__metadata__"' in content[8 : 8 + int.from_bytes(content[:8], "little")]
