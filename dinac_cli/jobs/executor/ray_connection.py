"""Joins a Ray cluster, or starts one on this machine."""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from dinac_cli.codec.machine import count_processors
from dinac_cli.errors import ClusterError, quote_error
from dinac_cli.jobs.executor.cluster import LOCAL

_CONNECT_SECONDS = 10.0
_STORE_BYTES = 100 * 2**20  # results are small
_LONGEST_FOLDER = 38  # the names of sockets are 64 characters longer, and have at most 103


@contextmanager
def connect(address: str) -> Iterator[Any]:
    """Joins a cluster, or starts one on this machine, and yields the module `ray`.

    At the end, leaves or stops the cluster. Raises ClusterError.
    """
    try:
        import ray
    except ImportError as exc:
        advice = "pip install --force-reinstall 'dinac-cli[cluster]'"
        raise ClusterError(f"Ray cannot be imported; {advice}", [quote_error(exc)]) from exc
    with ExitStack() as stack:
        options: dict[str, Any] = {"address": address}
        if address == LOCAL:
            folder = stack.enter_context(_make_folder())
            options |= {
                "num_cpus": count_processors(),
                "include_dashboard": False,
                "object_store_memory": _STORE_BYTES,
                "_temp_dir": folder,
            }
        else:
            _require_answer(address)
        stack.callback(ray.shutdown)
        _let_terminate()
        try:
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as exc:
            raise ClusterError(_explain(address), [quote_error(exc)]) from exc
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent ends this process
        yield ray


def _explain(address: str) -> str:
    if address == LOCAL:
        return "Ray cannot start a cluster on this machine; see --verbose"
    if address == "auto":
        return (
            "this machine runs no Ray that dinac can join; start it with `ray start`, with the "
            "same versions of Ray and Python, and with the cluster's token (RAY_AUTH_MODE=token)"
        )
    return (
        f"cannot join the Ray cluster at {address}; run dinac on one of its nodes, with the same "
        "versions of Ray and Python, and with its token (RAY_AUTH_MODE=token)"
    )


@contextmanager
def _make_folder() -> Iterator[str]:
    """Makes the folder of a cluster of this run, with a short name. Its files are logs."""
    parent = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(os.path.join(parent, "dinac-ray-12345678")) > _LONGEST_FOLDER and os.name == "posix":
        parent = "/tmp"
    with tempfile.TemporaryDirectory(
        prefix="dinac-ray-", dir=parent, ignore_cleanup_errors=True
    ) as folder:
        yield folder


def _require_answer(address: str) -> None:
    """Raises ClusterError soon if nothing answers at HOST:PORT; Ray would try for a long time."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError as exc:
        raise ClusterError(
            f"no Ray cluster answers at {address}; start it with `ray start --head`, or check the "
            "address",
            [quote_error(exc)],
        ) from exc


def _let_terminate() -> None:
    """Lets the processes of Ray receive SIGTERM: they inherit what this process blocks."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
