"""Runs the steps of `probe.py` in a process of their own, which may crash or hang."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from dinac_cli.doctor.finding import Facts
from dinac_cli.jobs.executor.environment import make_environment

_PROBE = "dinac_cli.doctor.probe"
_LINES_KEPT = 30
_END_SECONDS = 1.0
_KILL = 9


@dataclass(frozen=True)
class Answer:
    """The facts of a step, or the `problem` that prevented them.

    Both are missing if the step does not apply to the device. `remedy` is what to do, if the error
    says it. `is_late` is true if the step took too long. `details` are the last lines
    that the process wrote on standard error.
    """

    step: str
    facts: Facts | None = None
    problem: str = ""
    remedy: str = ""
    is_late: bool = False
    details: tuple[str, ...] = ()


def inquire(steps: Sequence[str], device: str, seconds: float) -> Iterator[Answer | str]:
    """Yields the name of each step when it begins, then its answer.

    If a step fails, crashes or takes more than `seconds`, another process runs the steps after it:
    a device may be unusable after a failure. Raises OSError if no process can be started.
    """
    waiting = list(steps)
    while waiting:
        for answer in _inquire_once(waiting, device, seconds):
            if isinstance(answer, Answer):
                waiting.remove(answer.step)
            yield answer


def _inquire_once(steps: Sequence[str], device: str, seconds: float) -> Iterator[Answer | str]:
    """Runs steps in one process, up to the first one that fails."""
    order = json.dumps({"steps": list(steps), "device": device, "seconds": seconds})
    with _Process([*make_command(), order]) as process:
        waiting = deque(steps)
        for line in process.read(seconds):
            if "facts" in line:
                yield Answer(waiting.popleft(), line["facts"])
            elif "error" in line:
                yield Answer(waiting[0], problem=line["error"], remedy=line["remedy"])
                return
            else:
                yield waiting[0]
            if not waiting:
                return
        problem = process.describe_end(seconds)
        yield Answer(waiting[0], problem=problem, is_late=process.is_late, details=process.details)


def make_command() -> list[str]:
    """Returns the command line of the probe, without its request."""
    return [sys.executable, "-m", _PROBE]


class _Process:
    """A process that writes lines of JSON. At the end of the `with` block, it is gone."""

    def __init__(self, command: Sequence[str]) -> None:
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._errors: deque[str] = deque(maxlen=_LINES_KEPT)
        self.is_late = False
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=make_environment(),
        )
        out, err = self._process.stdout, self._process.stderr
        assert out is not None
        assert err is not None
        self._streams = (out, err)
        self._threads = (
            threading.Thread(target=self._forward, args=(out,), daemon=True),
            threading.Thread(target=self._errors.extend, args=(err,), daemon=True),
        )

    def __enter__(self) -> _Process:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for thread, stream in zip(self._threads, self._streams, strict=True):
            thread.join(_END_SECONDS)
            if not thread.is_alive():  # a program that the process started may hold the stream
                stream.close()

    def _forward(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put(None)

    def read(self, seconds: float) -> Iterator[Any]:
        """Yields the lines, parsed, until the process ends or writes none for some seconds."""
        while True:
            try:
                line = self._lines.get(timeout=seconds)
            except queue.Empty:
                self.is_late = True
                return
            if line is None or not line.endswith("\n"):  # the end of the process cut the line
                return
            yield json.loads(line)

    def describe_end(self, seconds: float) -> str:
        """Says how the process ended. Ends it if it still runs."""
        if self.is_late:
            self._process.kill()
        code = self._process.wait()
        self._threads[1].join(_END_SECONDS)
        if self.is_late:
            return f"no answer within {seconds:g} s"
        if code == -_KILL:
            return "the system killed the process (SIGKILL); perhaps memory ran out"
        if code >= 0:
            return f"the process ended with exit code {code}"
        with suppress(ValueError):
            return f"the process crashed ({signal.Signals(-code).name})"
        return f"the process crashed (signal {-code})"

    @property
    def details(self) -> tuple[str, ...]:
        """The last lines on standard error so far."""
        return tuple(line.rstrip() for line in list(self._errors) if line.strip())
