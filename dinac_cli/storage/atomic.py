"""Writing a file so that it is either there and whole, or not there.

Data goes to a temporary file beside the target, is flushed, and then takes the target's name.
The temporary's name says who made it, and it is locked while it is in use: what a killed run
left behind is told apart from what a live one is writing, also over a shared file system.
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
    """Write `data` to `target` by way of a temporary file beside it.

    Without `replace`, a file that came to stand at `target` in the meantime is replaced only if
    `is_ours` says that dinac wrote it. Raises OutputError; UnwritableDiskError where no more fits.
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
            # A file system on the network may say only on closing that nothing more fits. Closing
            # a copy makes it speak, and leaves the lock.
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
    """The OutputError for a failed write.

    A disk that takes no more, or nothing at all, stops a run; all else only its file.
    """
    if exc.errno in _FATAL_ERRNOS:
        return UnwritableDiskError(
            f"{target}: {exc.strerror}: free some space and run the same command again"
        )
    if exc.errno == errno.EROFS:
        return UnwritableDiskError(f"{target}: {exc.strerror}: name another place")
    if exc.errno == errno.ENAMETOOLONG:
        return OutputError(f"{target}: the output's name is too long for this file system")
    return OutputError(f"{target}: cannot write: {exc.strerror or exc}: name another place")


def discard_live_temporaries() -> None:
    """Remove the temporary files of this process; for the moment before it is ended."""
    with _live_lock:
        leftovers = tuple(_live)
    for path in leftovers:
        _discard(path)


def remove_dead_temporaries(folder: str) -> int:
    """Remove temporaries in `folder` that a dead process of this host left; returns how many."""
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
    """(host, boot, pid namespace): two processes with equal ones can see each other's pids."""
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
    # A pid that runs may be another process by now (in containers nearly all are 1), and one of
    # another container or an earlier boot says nothing here. The lock does; but a file that is a
    # moment old may be about to be locked.
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
        except OSError:  # it runs, as somebody else's
            return True
        return True

    def _lock(descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            # File systems without locks: the pid in the name must do.
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
        """Nothing asks here without harm: signal 0 is Ctrl-C. The age of the file must do."""
        return True

    def _lock(descriptor: int) -> None:
        """An open file cannot be removed here, which is lock enough."""

    def _is_unlocked(path: str) -> bool:
        return True


def _publish(temporary: str, target: str, *, replace: bool, is_ours: Callable[[str], bool]) -> None:
    """Give the temporary its final name; without `replace` never over somebody else's file."""
    if not replace:
        try:
            os.link(temporary, target)  # unlike a rename, fails where a file is there
            return
        except OSError as exc:
            # Either a file is there, or this file system has no hard links.
            if os.path.lexists(target) and not is_ours(target):
                if _are_equal(temporary, target):
                    return  # another run was faster; not every format says who wrote a file
                raise refuse_foreign(target) from exc
    os.replace(temporary, target)


def _are_equal(one: str, other: str) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def refuse_foreign(target: str) -> OutputError:
    """The OutputError for a file that stands where an output should go."""
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
