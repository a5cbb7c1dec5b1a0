"""Starts a Python program of dinac that holds one end of a connection with this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import IO, Any

from dinac_cli.jobs.executor.environment import make_environment


def start_program(
    module: str,
    theirs: Connection[Any, Any],
    variables: dict[str, str] | None = None,
    stderr: IO[bytes] | None = None,
    **options: Any,
) -> subprocess.Popen[bytes]:
    """Starts `python -m module` with its end of a connection as the only argument.

    `variables` are added to its environment. Without `stderr`, it writes errors where this process
    does. Further options go to Popen. Raises OSError.
    """
    descriptor, lent = _lend(theirs)
    with _signals_blocked():
        return subprocess.Popen(
            [sys.executable, "-m", module, str(descriptor)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=make_environment() | (variables or {}),
            **lent,
            **options,
        )


def end_process() -> None:
    """Ends this process at once, also while another thread waits for something."""
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def open_connection(descriptor: int) -> Connection[Any, Any]:
    """Returns the connection of a program, from its only argument."""
    if sys.platform == "win32":
        from multiprocessing.connection import PipeConnection

        return PipeConnection(descriptor)
    return Connection(descriptor)


def _lend(connection: Connection[Any, Any]) -> tuple[int, dict[str, Any]]:
    """Returns the descriptor (on Windows: handle) of a connection in a child process, and the
    arguments of Popen that pass it on."""
    if sys.platform == "win32":
        # Not a duplicate: the parent would hold it, and never see the end of a dead worker.
        handle = connection.fileno()
        os.set_handle_inheritable(handle, True)
        info = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]})
        flags = subprocess.CREATE_NEW_PROCESS_GROUP  # Ctrl-C goes to the parent only
        return handle, {"startupinfo": info, "creationflags": flags}
    descriptor = connection.fileno()
    return descriptor, {"pass_fds": (descriptor,)}


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Blocks Ctrl-C and SIGTERM. A process that is started inside inherits this for its life.

    A terminal sends Ctrl-C to the parent and to the workers; only the parent must act on it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
