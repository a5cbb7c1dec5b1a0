"""What a person sees of a run: a bar on a terminal, plain lines elsewhere, nothing if asked."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from .processes import run, run_on_terminal, strip_escapes

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals")

# The program with the seconds between two plain lines set to none.
EAGER = (
    sys.executable,
    "-c",
    "import dinac_cli.commands.screen.console as c; c.PLAIN_INTERVAL_SECONDS = 0.0; "
    "from dinac_cli.cli import main; main()",
)
SUMMARY = r"4 encoded with nano, 1 other file passed over; .+ in .+ s\r\n"


def test_plain_lines_where_there_is_no_terminal(work: Path, tmp_path: Path) -> None:
    done = run("encode", "photos", tmp_path / "out", cwd=work, program=EAGER)
    assert done.code == 0
    assert re.fullmatch(r"(dinac: encode [1-4]/4, .*\n){4}", done.err), done.err
    assert re.search(
        r"^dinac: encode 4/4, [\d.]+ images/s  ETA 0\.0 s  [\d.]+ MP/s  .+ → .+ \(.+x\)  "
        r"limit: (read|model|write)$",
        done.err,
        re.MULTILINE,
    ), done.err


def test_a_bar_on_a_terminal(work: Path, tmp_path: Path) -> None:
    code, screen = run_on_terminal("encode", work / "photos", tmp_path / "out")
    assert code == 0
    shown = strip_escapes(screen)
    assert re.search(r"encode [━╸╺ ]+ 0/4", shown)
    assert re.search(r"encode ━+ 4/4\r\n.*images/s", shown)
    assert "\x1b[38;5;" in screen  # colours
    assert screen.index("\x1b[?25l") < screen.rindex("\x1b[?25h")
    assert re.search(SUMMARY + r"\Z", screen)


@pytest.mark.parametrize(
    ("changes", "has_bar"), [({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, False)]
)
def test_no_colour_and_no_cursor_movements(
    work: Path, changes: dict[str, str], has_bar: bool
) -> None:
    code, screen = run_on_terminal("encode", work / "photos", work / "latents", environment=changes)
    assert code == 0
    assert not re.search(r"\x1b\[[0-9;]*(3|4|9|10)[0-9][0-9;]*m", screen)
    assert ("4/4" in screen) is has_bar
    if not has_bar:
        assert screen == "0 encoded with nano, 4 already done, 1 other file passed over\r\n"


def test_quiet_is_silent_but_for_errors_and_asked_for_data(work: Path) -> None:
    done = ("encode", work / "photos", work / "latents", "--quiet")
    assert run_on_terminal(*done) == (0, "")
    asked = run(*done, "--json")
    assert (asked.code, asked.err) == (0, "")
    assert asked.objects[-1]["done"] == 4
    bad = run("encode", work / "photos/notes.txt", work / "photos/b.png", work / "latents", "-q")
    assert (bad.code, bad.out) == (3, "")
    assert bad.err == f"dinac: {work}/photos/notes.txt: not an image (no known image format)\n"


def test_file_names_above_the_bar_are_no_markup(tmp_path: Path) -> None:
    name = "[bold red]x[green].png"
    (tmp_path / name).write_text("not a picture")
    (tmp_path / "other.png").write_text("not a picture")
    code, screen = run_on_terminal("encode", tmp_path, tmp_path / "out")
    assert code == 3
    said = f"dinac: {tmp_path}/{name}: not an image (no known image format)"
    assert said in screen.replace("\r\n", " ")  # which goes on at a space where it is long
    code, screen = run_on_terminal("psnr", tmp_path / "none[red]", tmp_path)
    said = f"dinac: {tmp_path}/none[red]: no such file or folder "
    assert (code, screen.replace("\r\n", " ")) == (2, said)


def test_a_narrow_character_set_is_no_failure(work: Path) -> None:
    done = run(
        *("encode", work / "photos", work / "latents", "--verbose"),
        environment={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": None},
    )
    assert done.code == 0
    assert f"dinac: {work}/photos/b.png \\u2192 {work}/latents/b.png.dinac (done)\n" in done.err
