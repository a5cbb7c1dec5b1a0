"""Ctrl-C and SIGTERM: during a run, twice, and while a command waits for input."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from .conftest import list_files, read_files, save
from .processes import DEADLINE_SECONDS, feed, finish, run, run_on_terminal, start, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")

STOPPING = "dinac: finishing the work in flight; press again to stop at once\n"
STOPPED = "dinac: stopped before the end; run the same command again to continue\n"
BEFORE = [f"{number:02}.png" for number in range(5)]
BLOCKING = "10.png"
AFTER = [f"{number:02}.png" for number in range(20, 40)]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder whose 6th image is a named pipe: reading it blocks until the test writes there."""
    folder = tmp_path / "images"
    for number, name in enumerate([*BEFORE, *AFTER]):
        save(folder / name, 32, 32, number)
    os.mkfifo(folder / BLOCKING)
    return folder


def start_and_block(images: Path, out: Path) -> subprocess.Popen[bytes]:
    """Starts to encode, and waits until everything before the named pipe is done."""
    names = [images / name for name in [*BEFORE, BLOCKING, *AFTER]]
    process = start("encode", *names, out, "--workers", "1", "--batch-size", "4")
    wait_until((out / f"{BEFORE[-1]}.dinac").exists, process)
    return process


def hear(process: subprocess.Popen[bytes], line: str) -> None:
    """Reads one line of standard error, which must be `line`."""
    assert process.stderr is not None
    assert process.stderr.readline().decode() == line


def replace_blocking(images: Path) -> None:
    os.unlink(images / BLOCKING)
    save(images / BLOCKING, 32, 32, 99)


def name_outputs(names: Sequence[str]) -> list[str]:
    return [f"{name}.dinac" for name in names]


def test_the_first_signal_finishes_the_work_in_flight(images: Path, tmp_path: Path) -> None:
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
    assert 6 <= len(written) < 12  # some are read ahead; no temporary files
    assert done.summary == f"{len(written)} encoded with nano (default on a CPU); SIZES in TIME\n"
    replace_blocking(images)
    again = run("encode", images, out)
    assert (again.code, again.err) == (0, "")
    assert again.summary == (
        f"{26 - len(written)} encoded with nano, {len(written)} already done; SIZES in TIME\n"
    )
    assert run("encode", images, tmp_path / "uninterrupted").code == 0
    assert read_files(out) == read_files(tmp_path / "uninterrupted")


def test_the_second_signal_stops_at_once_and_restores_the_cursor(
    images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def interrupt(process: subprocess.Popen[bytes], read_screen: Callable[[], str]) -> None:
        wait_until((out / f"{BEFORE[-1]}.dinac").exists, process)
        process.send_signal(signal.SIGINT)
        wait_until(lambda: STOPPING.removeprefix("dinac: ").rstrip() in read_screen(), process)
        process.send_signal(signal.SIGINT)
        process.wait(DEADLINE_SECONDS)

    names = [images / name for name in [*BEFORE, BLOCKING, *AFTER]]
    code, screen = run_on_terminal("encode", *names, out, "--workers", "1", on_start=interrupt)
    assert code == 130
    assert "finishing the work in flight; press again to stop at once" in screen
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l")
    assert "Traceback" not in screen
    assert list_files(out) == name_outputs(BEFORE)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_waiting_for_standard_input(
    work: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    encode = start("encode", "-", tmp_path / "latents", stdin=subprocess.PIPE)
    decode = start("decode", "-", tmp_path / "decoded", stdin=subprocess.PIPE)
    feed(encode, (work / "photos/b.png").read_bytes()[:100])
    feed(decode, (work / "latents/b.png.dinac").read_bytes()[:100])
    wait_until((tmp_path / "latents").exists, encode)  # made when signals are handled
    wait_until((tmp_path / "decoded").exists, decode)
    for process, summary in (
        (encode, "0 encoded with nano (default on a CPU)\n"),
        (decode, "0 decoded\n"),
    ):
        process.send_signal(number)
        process.wait(DEADLINE_SECONDS)  # before standard input is closed
        done = finish(process)
        assert (done.code, done.summary, done.err) == (code, summary, STOPPING + STOPPED)


def test_a_signal_ends_waiting_for_a_list(tmp_path: Path) -> None:
    process = start("encode", "--files-from", "-", tmp_path / "out", stdin=subprocess.PIPE)
    feed(process, b"a.png")
    process.send_signal(signal.SIGINT)
    process.wait(DEADLINE_SECONDS)  # before standard input is closed
    done = finish(process)
    assert (done.code, done.out, done.err) == (130, "", "")


def test_stopped_psnr_says_so(images: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other.png", 32, 32, 99)
    process = start("psnr", images / BLOCKING, other)
    with (images / BLOCKING).open("wb") as pipe:  # opens when psnr does
        process.send_signal(signal.SIGTERM)
        hear(process, STOPPING)
        pipe.write(other.read_bytes())
    done = finish(process)
    assert done.code == 143
    assert (
        done.err
        == "dinac: stopped before the end; these are the figures of the pairs measured so far\n"
    )
    assert done.out.splitlines()[1].split()[-2:] == ["1", "1"]
