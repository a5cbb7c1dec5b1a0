"""Real processes of the program: started, piped, put on a terminal, and looked into."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from types import MappingProxyType
from typing import Any

DINAC = (sys.executable, "-m", "dinac_cli")
DEADLINE_SECONDS = 150.0

_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_SIZES = re.compile(r"[\d.]+ k?M?B → [\d.]+ k?M?B( \([\d.]+x\))?")
_PROGRESS = re.compile(r"^dinac: [a-z]+ \d+(/\d+)?, .*\n", re.MULTILINE)
_DURATION = re.compile(r"in (\d+\.\d s|\d+:\d\d)$", re.MULTILINE)

# Runs the program and notes, at the very end, which of some packages it has imported.
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
    """How a process ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> str:
        """Standard output without what differs between machines: sizes and times."""
        return _DURATION.sub("in TIME", _SIZES.sub("SIZES", self.out))

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Standard output as JSON lines."""
        return parse_lines(self.out)


def parse_lines(text: str) -> list[dict[str, Any]]:
    """JSON lines, each an object by itself."""
    return [json.loads(line) for line in text.splitlines()]


def make_environment(
    changes: Mapping[str, str | None] = MappingProxyType({}),
) -> dict[str, str]:
    """The environment of a process: a fixed screen, this test run's caches, and `changes`.

    A variable that is changed to None is not there.
    """
    kept = ("PATH", "HOME", "DINAC_CACHE", "HF_HOME", "HF_HUB_OFFLINE", "OMP_WAIT_POLICY")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"COLUMNS": "80", "TERM": "dumb", "LANG": "C.UTF-8", "PYTHONUTF8": "1"}
    environment["PYTHONWARNINGS"] = "error"  # as in the tests themselves
    for name, value in changes.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    return environment


def run(
    *arguments: str | bytes | Path,
    stdin: bytes = b"",
    cwd: Path | None = None,
    program: Sequence[str] = DINAC,
    environment: Mapping[str, str | None] = MappingProxyType({}),
) -> Finished:
    """Run one command line to its end; `environment` says what is different in it.

    Without its lines of progress, but where `program` is another one than the usual.
    """
    done = subprocess.run(
        [*program, *arguments],
        input=stdin,
        capture_output=True,
        cwd=cwd,
        env=make_environment(environment),
        timeout=DEADLINE_SECONDS,
    )
    said = done.stderr.decode()
    said = drop_progress(said) if program is DINAC else said
    return Finished(done.returncode, done.stdout.decode(), said)


def run_together(*command_lines: Sequence[str | Path], cwd: Path | None = None) -> list[Finished]:
    """Run command lines that have nothing to do with each other, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda arguments: run(*arguments, cwd=cwd), command_lines))


def start(
    *arguments: str | bytes | Path,
    stdin: Any = subprocess.DEVNULL,
    stdout: Any = subprocess.PIPE,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start one command line, which Ctrl-C reaches; standard error is piped."""
    return subprocess.Popen(
        [*DINAC, *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=make_environment(),
        preexec_fn=_heed_interrupts if os.name == "posix" else None,
    )


def _heed_interrupts() -> None:
    """What a shell starts in the background ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen[bytes]) -> Finished:
    """Wait for a started process."""
    out, err = process.communicate(timeout=DEADLINE_SECONDS)
    return Finished(process.returncode, (out or b"").decode(), drop_progress(err.decode()))


def drop_progress(text: str) -> str:
    """What a process said without its lines of progress, which a busy machine may bring about."""
    return _PROGRESS.sub("", text)


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait until `holds()`, or fail."""
    end = monotonic() + DEADLINE_SECONDS
    while not holds():
        assert monotonic() < end, "waited in vain"
        sleep(0.01)


def run_noting_imports(
    note: Path,
    packages: Sequence[str],
    *arguments: str,
    environment: Mapping[str, str | None] = MappingProxyType({}),
) -> tuple[Finished, str]:
    """Run one command line; also tells which of `packages` it imported."""
    probe = ",".join((str(note), *packages))
    program = (sys.executable, "-c", _IMPORTS_PROBE, probe)
    done = run(*arguments, program=program, environment=environment)
    return done, note.read_text()


def run_on_terminal(
    *arguments: str | Path,
    on_start: Callable[[subprocess.Popen[bytes]], None] | None = None,
    environment: Mapping[str, str | None] = MappingProxyType({}),
) -> tuple[int, str]:
    """Run one command line on a terminal of 100 columns; its exit code and all it wrote there."""
    import fcntl
    import pty
    import struct
    import termios

    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        [*DINAC, *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=make_environment({"TERM": "xterm-256color", "COLUMNS": None, **environment}),
    )
    os.close(terminal)
    with ThreadPoolExecutor(1) as pool:  # beside the reading: a full terminal blocks its writer
        meanwhile = pool.submit(on_start or (lambda _: None), process)
        written = _read_screen(screen, process)
        meanwhile.result()
    os.close(screen)
    return process.wait(DEADLINE_SECONDS), written.decode()


def _read_screen(screen: int, process: subprocess.Popen[bytes]) -> bytes:
    pieces = []
    end = monotonic() + DEADLINE_SECONDS
    while monotonic() < end:
        if select.select([screen], [], [], 0.1)[0]:
            try:
                piece = os.read(screen, 1 << 16)
            except OSError:  # nobody writes there any more
                break
            if not piece:
                break
            pieces.append(piece)
        elif process.poll() is not None:
            break
    return b"".join(pieces)


def strip_escapes(text: str) -> str:
    """Text of a terminal without colours and cursor movements."""
    return _ESCAPE_SEQUENCE.sub("", text)
