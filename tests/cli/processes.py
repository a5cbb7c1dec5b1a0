"""Command lines: run in this process, in a real one, or in a fork on pipes or a terminal."""

from __future__ import annotations

import atexit
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from io import TextIOWrapper
from pathlib import Path
from time import monotonic, sleep
from types import MappingProxyType
from typing import IO, Any
from unittest.mock import patch

from huggingface_hub import constants

from dinac_cli import cli

from .forks import ForkServer

DINAC = (sys.executable, "-m", "dinac_cli")
DEADLINE_SECONDS = 600.0  # of one command, on a machine that is busy with other work

_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_SIZES = re.compile(r"[\d.]+ k?M?B → [\d.]+ k?M?B( \([\d.]+x\))?")
_DURATION = re.compile(r"in (\d+\.\d s|\d+:\d\d)$", re.MULTILINE)

# Runs the program and, at its end, writes down which of some packages it has imported.
_IMPORTS_PROBE = """
import atexit, sys
path, *packages = sys.argv.pop(1).split(",")
def note():
    with open(path, "w") as file:
        file.write(" ".join(name for name in packages if name in sys.modules))
atexit.register(note)
from dinac_cli.cli import main
main()
"""


@dataclass(frozen=True)
class Finished:
    """Exit code and output of a command line."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> str:
        """Standard output without sizes and times, which differ between machines."""
        return _DURATION.sub("in TIME", _SIZES.sub("SIZES", self.out))

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Standard output as JSON lines."""
        return parse_lines(self.out)


def parse_lines(text: str) -> list[dict[str, Any]]:
    """Parses JSON lines of one object each."""
    return [json.loads(line) for line in text.splitlines()]


def make_environment(
    changes: Mapping[str, str | None] = MappingProxyType({}),
) -> dict[str, str]:
    """Returns an environment with a fixed screen, this test run's caches, and `changes`.

    None removes a variable. No progress is shown unless `changes` removes DINAC_NO_PROGRESS.
    """
    kept = ("PATH", "HOME", "DINAC_CACHE", "HF_HOME", "HF_HUB_OFFLINE", "OMP_WAIT_POLICY")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"COLUMNS": "80", "TERM": "dumb", "LANG": "C.UTF-8", "PYTHONUTF8": "1"}
    environment["PYTHONWARNINGS"] = "error"  # as in the tests themselves
    environment["DINAC_NO_PROGRESS"] = "1"
    for name, value in changes.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    return environment


def run(
    *arguments: str | bytes | Path,
    stdin: bytes = b"",
    cwd: Path | None = None,
    environment: Mapping[str, str | None] = MappingProxyType({}),
) -> Finished:
    """Runs one command line in this process, which saves a start and all imports.

    Signals, limits, users, imports, pipes and terminals need a process of their own.
    `environment` holds changes to `make_environment()`.
    """
    with ExitStack() as stack:
        source, out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        source.write(stdin)
        source.seek(0)
        streams = {
            "stdin": TextIOWrapper(source, "utf-8"),
            "stdout": TextIOWrapper(out, "utf-8", "surrogateescape"),
            "stderr": TextIOWrapper(err, "utf-8", "backslashreplace"),
        }
        for name, stream in streams.items():
            stack.enter_context(patch.object(sys, name, stream))
        # Triton, which diffusers imports, reads its variable once, also for the tests that follow.
        kept = {"TRITON_INTERPRET": os.environ["TRITON_INTERPRET"]}
        changed = kept | make_environment(environment)
        stack.enter_context(patch.dict(os.environ, changed, clear=True))
        if "HF_HOME" in environment:  # the Hub's client has read it, on import
            hub = f"{environment['HF_HOME']}/hub"
            stack.enter_context(patch.object(constants, "HF_HUB_CACHE", hub))
        if cwd is not None:
            stack.callback(os.chdir, os.getcwd())
            os.chdir(cwd)
        code = _run_command_line([os.fsdecode(argument) for argument in arguments])
        for stream in streams.values():
            stream.flush()
        return Finished(code, _read(out), _read(err))


def _run_command_line(arguments: list[str]) -> int:
    try:
        return cli.run(arguments)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 0


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def run_together(*command_lines: Sequence[str | Path], cwd: Path | None = None) -> list[Finished]:
    """Runs independent command lines."""
    return [run(*arguments, cwd=cwd) for arguments in command_lines]


def run_process(
    *arguments: str | bytes | Path,
    stdin: bytes = b"",
    cwd: Path | None = None,
    program: Sequence[str] = DINAC,
    environment: Mapping[str, str | None] = MappingProxyType({}),
) -> Finished:
    """Runs one command line in a process of its own.

    `environment` holds changes to `make_environment()`.
    """
    done = subprocess.run(
        [*program, *arguments],
        input=stdin,
        capture_output=True,
        cwd=cwd,
        env=make_environment(environment),
        timeout=DEADLINE_SECONDS,
    )
    return Finished(done.returncode, done.stdout.decode(), done.stderr.decode())


@cache
def get_fork_server() -> ForkServer:
    """Starts the server of this test process at the first call."""
    folder = Path(tempfile.mkdtemp(prefix="dinac-forks-"))
    atexit.register(shutil.rmtree, folder)
    server = ForkServer(folder, make_environment())
    atexit.register(server.close)
    return server


def get_client() -> tuple[str, ...]:
    """The program that runs a command line as a fork, or as a process if a system has no forks."""
    return (str(get_fork_server().dinac),) if hasattr(os, "fork") else DINAC


def get_python() -> str:
    """The Python that runs `-m` and `-c` as a fork, or as a process if a system has no forks."""
    return str(get_fork_server().python) if hasattr(os, "fork") else sys.executable


def start(
    *arguments: str | bytes | Path,
    stdin: Any = subprocess.DEVNULL,
    stdout: Any = subprocess.PIPE,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Starts one command line as a fork; standard error is piped."""
    return subprocess.Popen(
        [*get_client(), *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=make_environment(),
    )


def feed(process: subprocess.Popen[bytes], data: bytes) -> None:
    """Writes to standard input, and waits until the process has read it and waits for more."""
    import fcntl
    import termios

    pipe = process.stdin
    assert pipe is not None
    pipe.write(data)
    pipe.flush()
    unread = array("i", [1])

    def is_read() -> bool:
        fcntl.ioctl(pipe, termios.FIONREAD, unread)
        return unread[0] == 0

    wait_until(is_read, process)


def finish(process: subprocess.Popen[bytes]) -> Finished:
    """Waits for a started process."""
    out, err = process.communicate(timeout=DEADLINE_SECONDS)
    return Finished(process.returncode, (out or b"").decode(), err.decode())


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    """Waits until `holds()`. Fails if `process` ends before, or after the deadline."""
    end = monotonic() + DEADLINE_SECONDS
    while not holds():
        assert process is None or process.poll() is None, "the process has ended"
        assert monotonic() < end, f"waited {DEADLINE_SECONDS:.0f} s in vain"
        sleep(0.01)


def run_noting_imports(
    note: Path,
    packages: Sequence[str],
    *arguments: str,
    environment: Mapping[str, str | None] = MappingProxyType({}),
) -> tuple[Finished, str]:
    """Runs one command line in a process; also returns which of `packages` it imported."""
    probe = ",".join((str(note), *packages))
    program = (sys.executable, "-c", _IMPORTS_PROBE, probe)
    done = run_process(*arguments, program=program, environment=environment)
    return done, note.read_text()


def run_on_terminal(
    *arguments: str | Path,
    on_start: Callable[[subprocess.Popen[bytes], Callable[[], str]], None] | None = None,
    typed: bytes = b"",
    environment: Mapping[str, str | None] = MappingProxyType({}),
) -> tuple[int, str]:
    """Runs one command line on a terminal of 100 columns; returns its exit code and its output.

    Meanwhile calls `on_start` with the process, and a function that returns the output so far.
    `typed` waits in the terminal until the process reads it.
    """
    import fcntl
    import pty
    import struct
    import termios

    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    os.write(screen, typed)
    process = subprocess.Popen(
        [*get_client(), *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=make_environment(
            {
                "TERM": "xterm-256color",
                "COLUMNS": None,
                "DINAC_NO_PROGRESS": None,
                **environment,
            }
        ),
    )
    os.close(terminal)
    written = bytearray()
    with ThreadPoolExecutor(1) as pool:  # reads meanwhile: a full terminal blocks its writer
        reading = pool.submit(_read_screen, screen, process, written)
        if on_start is not None:
            on_start(process, lambda: written.decode(errors="replace"))
        reading.result()
    os.close(screen)
    return process.wait(DEADLINE_SECONDS), written.decode()


def _read_screen(screen: int, process: subprocess.Popen[bytes], written: bytearray) -> None:
    """Reads until the process ends, and appends to `written`."""
    end = monotonic() + DEADLINE_SECONDS
    while monotonic() < end:
        if select.select([screen], [], [], 0.1)[0]:
            try:
                piece = os.read(screen, 1 << 16)
            except OSError:  # all writers have closed it
                break
            if not piece:
                break
            written += piece
        elif process.poll() is not None:
            break


def strip_escapes(text: str) -> str:
    """Removes colours and cursor movements from a terminal's text."""
    return _ESCAPE_SEQUENCE.sub("", text)
