"""Ctrl-C and SIGTERM: in the middle of a run, twice, and while nothing arrives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

import pytest

from .conftest import list_files, read_files, save
from .processes import finish, run, run_on_terminal, start, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")

STOPPING = "dinac: finishing what is in flight; once more stops at once\n"
STOPPED = "dinac: stopped before the end; run the same command again to go on\n"
BEFORE = [f"{number:02}.png" for number in range(5)]
BLOCKING = "10.png"
AFTER = [f"{number:02}.png" for number in range(20, 40)]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder whose 6th image is a named pipe: reading it lasts until somebody writes there."""
    folder = tmp_path / "images"
    for number, name in enumerate([*BEFORE, *AFTER]):
        save(folder / name, 32, 32, number)
    os.mkfifo(folder / BLOCKING)
    return folder


def start_and_block(images: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start an encode run, and wait until it has done all before the named pipe."""
    names = [images / name for name in [*BEFORE, BLOCKING, *AFTER]]
    process = start("encode", *names, out, "--workers", "1", "--batch-size", "4")
    wait_until(lambda: (out / f"{BEFORE[-1]}.dinac").exists())
    return process


def hear(process: subprocess.Popen[bytes], line: str) -> None:
    """Read one line of standard error, which must be `line`."""
    assert process.stderr is not None
    assert process.stderr.readline().decode() == line


def replace_blocking(images: Path) -> None:
    os.unlink(images / BLOCKING)
    save(images / BLOCKING, 32, 32, 99)


def name_outputs(names: Sequence[str]) -> list[str]:
    return [f"{name}.dinac" for name in names]


def test_the_first_signal_finishes_what_is_in_flight(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start_and_block(images, out)
    process.send_signal(signal.SIGINT)
    hear(process, STOPPING)
    content = save(tmp_path / "content.png", 32, 32, 99).read_bytes()
    (images / BLOCKING).write_bytes(content)
    done = finish(process)
    assert (done.code, done.err) == (130, STOPPED)
    written = list_files(out)
    assert written[:6] == name_outputs([*BEFORE, BLOCKING])
    assert 6 <= len(written) < 12  # and what was read ahead; no temporary among them
    assert done.summary == f"{len(written)} encoded with nano; SIZES in TIME\n"
    replace_blocking(images)
    again = run("encode", images, out)
    assert (again.code, again.err) == (0, "")
    assert again.summary == (
        f"{26 - len(written)} encoded with nano, {len(written)} already done; SIZES in TIME\n"
    )
    assert run("encode", images, tmp_path / "uninterrupted").code == 0
    assert read_files(out) == read_files(tmp_path / "uninterrupted")


def test_the_second_signal_stops_at_once_and_gives_the_cursor_back(
    images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def interrupt(process: subprocess.Popen[bytes]) -> None:
        wait_until(lambda: (out / f"{BEFORE[-1]}.dinac").exists())
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)  # in which the bar is redrawn four times
        process.send_signal(signal.SIGINT)
        process.wait(5)

    names = [images / name for name in [*BEFORE, BLOCKING, *AFTER]]
    code, screen = run_on_terminal("encode", *names, out, "--workers", "1", on_start=interrupt)
    assert code == 130
    assert "finishing what is in flight; once more stops at once" in screen
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l")
    assert "Traceback" not in screen
    assert list_files(out) == name_outputs(BEFORE)


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        ("encode", signal.SIGINT, 130),
        ("decode", signal.SIGINT, 130),
        ("encode", signal.SIGTERM, 143),
        ("decode", signal.SIGTERM, 143),
    ],
)
def test_a_signal_ends_waiting_for_standard_input(
    tmp_path: Path, command: str, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "out"
    process = start(command, "-", out, stdin=subprocess.PIPE)
    wait_until(out.exists)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)  # it waits
    began = monotonic()
    process.send_signal(number)
    process.wait(10)
    assert monotonic() - began < 5
    done = finish(process)
    assert (done.code, done.err) == (code, STOPPING + STOPPED)
    assert done.out == {"encode": "0 encoded with nano\n", "decode": "0 decoded\n"}[command]


def test_a_signal_ends_waiting_for_a_list(tmp_path: Path) -> None:
    process = start("encode", "--files-from", "-", tmp_path / "out", stdin=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.0)  # it waits
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert (done.code, done.out, done.err) == (130, "", "")


def test_a_measurement_that_was_stopped_says_so(images: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other.png", 32, 32, 99)
    process = start("psnr", images / BLOCKING, other)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.0)  # it waits
    process.send_signal(signal.SIGTERM)
    hear(process, STOPPING)
    (images / BLOCKING).write_bytes(other.read_bytes())
    done = finish(process)
    assert done.code == 143
    assert done.err == "dinac: stopped before the end; these are the figures of what was measured\n"
    assert done.out.splitlines()[1].split()[-2:] == ["1", "1"]
