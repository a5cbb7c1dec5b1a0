"""Writes a file so that it is either complete or absent.

The data goes to a temporary file beside the target, which is then renamed to the target. The
temporary's name identifies its process, and it is locked while it is in use. This tells the
leftovers of a killed run from the files of a live one, even on a shared file system.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import functools
import hashlib
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable

from dinac_cli.errors import OutputError, UnwritableDiskError

if sys.platform != "win32":
    import fcntl

TEMPORARY_PREFIX = ".dinac-tmp-"
_FATAL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})

_SETTLING_SECONDS = 60.0

_live: set[str] = set()
_live_lock = threading.Lock()


def write_atomically(
    target: str,
    data: bytes,
    *,
    replace: bool,
    is_ours: Callable[[str], bool],
    fsync: bool = False,
) -> None:
    """Writes `data` to `target` through a temporary file beside it.

    Without `replace`, an existing `target` is replaced only if `is_ours` says that dinac wrote it.
    Raises UnwritableDiskError if the disk is full or read-only, OutputError for other failures.
    """
    folder = os.path.dirname(target) or "."
    temporary = os.path.join(folder, _name_temporary())
    with _live_lock:
        _live.add(temporary)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _lock(descriptor)
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(data)
            # A network file system may report a full disk only on close. Closing a duplicate
            # raises that error and keeps the lock.
            os.close(os.dup(descriptor))
            if fsync:
                os.fsync(descriptor)
            _publish(temporary, target, replace=replace, is_ours=is_ours)
        finally:
            os.close(descriptor)
        if fsync:
            _sync_folder(folder)
    except OSError as exc:
        raise describe_write_error(exc, target) from exc
    finally:
        _discard(temporary)


def describe_write_error(exc: OSError, target: str) -> OutputError:
    """Returns the OutputError for a failed write.

    A full or read-only disk stops the run (UnwritableDiskError); other errors fail only the file.
    """
    if exc.errno in _FATAL_ERRNOS:
        return UnwritableDiskError(
            f"{target}: {exc.strerror}; free some space and run the same command again"
        )
    if exc.errno == errno.EROFS:
        return UnwritableDiskError(f"{target}: {exc.strerror}; choose another place")
    if exc.errno == errno.ENAMETOOLONG:
        return OutputError(f"{target}: the output's name is too long for this file system")
    return OutputError(f"{target}: cannot write: {exc.strerror or exc}; choose another place")


def discard_live_temporaries() -> None:
    """Removes the temporary files of this process, just before it exits."""
    with _live_lock:
        leftovers = tuple(_live)
    for path in leftovers:
        _discard(path)


def remove_dead_temporaries(folder: str) -> int:
    """Removes the temporaries of dead processes of this host; returns their number."""
    removed = 0
    try:
        names = [name for name in os.listdir(folder) if name.startswith(TEMPORARY_PREFIX)]
    except OSError:
        return 0
    for name in names:
        path = os.path.join(folder, name)
        if path not in _live and _is_dead(path, name):
            _discard(path)
            removed += 1
    return removed


@functools.cache
def _identify_host() -> tuple[str, str, str]:
    """Returns (host, boot, pid namespace). Processes with equal values see each other's pids."""
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    boot = _read_text("/proc/sys/kernel/random/boot_id").replace("-", "")[:8] or "0"
    try:
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        namespace = "0"
    return host, boot, namespace


def _name_temporary() -> str:
    return TEMPORARY_PREFIX + "-".join((*_identify_host(), str(os.getpid()), secrets.token_hex(4)))


def _is_dead(path: str, name: str) -> bool:
    parts = name.removeprefix(TEMPORARY_PREFIX).split("-")
    host, boot, namespace = _identify_host()
    if len(parts) != 5 or parts[0] != host or not parts[3].isdigit():
        return False
    if (parts[1], parts[2]) == (boot, namespace) and not _is_running(int(parts[3])):
        return True
    # A running pid may have been reused (in containers nearly all are 1), and a pid of another
    # container or an earlier boot has no meaning here. The lock decides, but only for older files:
    # a new one may not be locked yet.
    return _is_older_than(path, _SETTLING_SECONDS) and _is_unlocked(path)


def _is_older_than(path: str, seconds: float) -> bool:
    try:
        return time.time() - os.stat(path).st_mtime > seconds
    except OSError:
        return False


if sys.platform != "win32":

    def _is_running(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except OSError:  # it runs under another user
            return True
        return True

    def _lock(descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            # Without locks in the file system, only the pid in the name identifies a live file.
            if exc.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL):
                raise

    def _is_unlocked(path: str) -> bool:
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

else:

    def _is_running(pid: int) -> bool:
        """Always True: signal 0 is Ctrl-C on Windows. Only the age of the file decides."""
        return True

    def _lock(descriptor: int) -> None:
        """Does nothing, because Windows does not remove an open file."""

    def _is_unlocked(path: str) -> bool:
        return True


def _publish(temporary: str, target: str, *, replace: bool, is_ours: Callable[[str], bool]) -> None:
    """Renames `temporary` to `target`; without `replace`, never over a foreign file."""
    if not replace:
        try:
            os.link(temporary, target)  # unlike a rename, this fails if the target exists
            return
        except OSError as exc:
            # Either the target exists, or this file system has no hard links.
            if os.path.lexists(target) and not is_ours(target):
                if _are_equal(temporary, target):
                    return  # another run wrote it first; some formats cannot hold a stamp
                raise refuse_foreign(target) from exc
    os.replace(temporary, target)


def _are_equal(one: str, other: str) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def refuse_foreign(target: str) -> OutputError:
    """Returns the OutputError for a foreign file in the place of an output."""
    return OutputError(
        f"{target}: exists and was not written by dinac; "
        "choose another output folder or add --overwrite"
    )


def _discard(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
    with _live_lock:
        _live.discard(path)


def _sync_folder(folder: str) -> None:
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
