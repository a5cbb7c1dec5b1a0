"""Writes a file so that it is either complete or absent.

The data is written to a temporary file in the folder of the target. Then the temporary file is
renamed to the target. The name of the temporary file identifies the process that writes the file,
and this process locks the file. The name and the lock show whether a temporary file belongs to a
live run or was left by a killed run, even on a shared file system.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import itertools
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dinac_cli.errors import OutputError, UnwritableDiskError

if sys.platform != "win32":
    import fcntl

TEMPORARY_PREFIX = ".dinac-tmp-"

_AT_FDCWD, _RENAME_NOREPLACE = -100, 1  # from fcntl.h and linux/fs.h

# A process that reuses the pid of a killed one starts at another number.
_numbers = itertools.count(secrets.randbits(32))

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
    """Writes `data` to a temporary file in the folder of `target`, then renames it to `target`.

    If `replace` is false, an existing `target` is replaced only if dinac wrote it
    (`is_ours(target)` is true). Raises UnwritableDiskError if the disk is full or read-only, and
    OutputError for other failures.
    """
    folder = os.path.dirname(target) or "."
    try:
        with _create_temporary(folder) as (temporary, descriptor):
            _write_all(descriptor, data)
            _require_written(descriptor)
            if fsync:
                os.fsync(descriptor)
            _publish(temporary, target, replace=replace, is_ours=is_ours)
        if fsync:
            _sync_folder(folder)
    except OSError as exc:
        raise describe_write_error(exc, target) from exc


@dataclass
class Rewrite:
    """The next content of a file. The file itself does not change before `publish`.

    `what` names the file in errors. All methods raise OutputError.
    """

    target: str
    what: str
    _temporary: str
    _descriptor: int

    def write(self, data: bytes) -> None:
        """Appends to the next content."""
        try:
            _write_all(self._descriptor, data)
        except OSError as exc:
            raise describe_write_error(exc, self.what) from exc

    def complete(self) -> str:
        """Returns the path of the temporary file, which has all of the next content."""
        try:
            _require_written(self._descriptor)
        except OSError as exc:
            raise describe_write_error(exc, self.what) from exc
        return self._temporary

    def publish(self, *, fsync: bool = False, is_ours: Callable[[str], bool] | None = None) -> None:
        """Replaces the file. After a kill at any moment, it has its old or its next content.

        If `is_ours` is given, an existing file is replaced only if `is_ours(target)` is true.
        """
        try:
            _require_written(self._descriptor)
            if fsync:
                os.fsync(self._descriptor)
            if is_ours is None:
                os.replace(self._temporary, self.target)
            else:
                _publish(self._temporary, self.target, replace=False, is_ours=is_ours)
            if fsync:
                _sync_folder(os.path.dirname(self.target))
        except OSError as exc:
            raise describe_write_error(exc, self.what) from exc


@contextlib.contextmanager
def rewrite_file(path: str, what: str) -> Iterator[Rewrite]:
    """Starts the next content of the file that `path` names, through links too.

    Without `publish`, the file stays as it is. Raises OutputError.
    """
    target = os.path.realpath(path)
    remove_dead_temporaries(os.path.dirname(target))
    with start_file(target, what) as rewrite:
        yield rewrite


@contextlib.contextmanager
def start_file(target: str, what: str, *, mode: int = 0o666) -> Iterator[Rewrite]:
    """Starts the content of `target`, which need not exist. A link of this name is replaced.

    `mode` are the permissions, which the umask reduces.

    Without `publish`, nothing changes. Raises OutputError.
    """
    folder = os.path.dirname(target) or "."
    with contextlib.ExitStack() as stack:
        try:
            temporary = stack.enter_context(_create_temporary(folder, mode))
        except OSError as exc:
            raise describe_write_error(exc, what) from exc
        yield Rewrite(target, what, *temporary)


@contextlib.contextmanager
def _create_temporary(folder: str, mode: int = 0o666) -> Iterator[tuple[str, int]]:
    """Yields the path and the descriptor of a new, locked file. Removes the path at the end."""
    temporary = os.path.join(folder, _name_temporary())
    with _live_lock:
        _live.add(temporary)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            _lock(descriptor)
            yield temporary, descriptor
        finally:
            os.close(descriptor)
    finally:
        if temporary in _live:
            _discard(temporary)


def move_atomically(source: str, target: str) -> bool:
    """Gives a file another name on the same file system. Never replaces a file.

    Returns False if `target` exists. If `target` already is this file, because an earlier move was
    killed, completes that move. Raises FileNotFoundError if `source` is gone, OutputError for other
    failures.
    """
    try:
        try:
            os.link(source, target)  # unlike a rename, this fails if the target exists
        except OSError:
            status = os.lstat(source)
            if not os.path.lexists(target):  # this file system does not support hard links
                os.rename(source, target)
                return True
            if not os.path.samestat(status, os.lstat(target)):
                return False
        os.unlink(source)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise describe_write_error(exc, source) from exc
    return True


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _require_written(descriptor: int) -> None:
    """Raises OSError if the disk could not take all data.

    A network file system may report a full disk only when the file is closed. Closing a duplicate
    of the descriptor raises that error, but keeps the lock.
    """
    os.close(os.dup(descriptor))


def describe_write_error(exc: OSError, target: str) -> OutputError:
    """Returns the OutputError for a failed write.

    If the disk is full or read-only, the error is an UnwritableDiskError, which stops the run.
    After any other error, only this file fails.
    """
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return UnwritableDiskError(
            f"{target}: {exc.strerror}; free some space and run the same command again"
        )
    if exc.errno == errno.EROFS:
        return UnwritableDiskError(f"{target}: {exc.strerror}; choose another place")
    if exc.errno == errno.ENAMETOOLONG:
        return OutputError(f"{target}: the name is too long for this file system; rename the input")
    return OutputError(f"{target}: cannot write: {exc.strerror or exc}; choose another place")


def discard_live_temporaries() -> None:
    """Removes the temporary files of this process, which is about to exit."""
    with _live_lock:
        leftovers = tuple(_live)
    for path in leftovers:
        _discard(path)


def remove_dead_temporaries(folder: str) -> int:
    """Removes temporary files that dead processes of this host left. Returns their number."""
    try:
        names = [name for name in os.listdir(folder) if name.startswith(TEMPORARY_PREFIX)]
    except OSError:
        return 0
    paths = [os.path.join(folder, name) for name in names]
    dead = [path for path in paths if path not in _live and _is_dead(path)]
    for path in dead:
        _discard(path)
    return len(dead)


@functools.cache
def _identify_host() -> tuple[str, str, str]:
    """Returns (host, boot, pid namespace). If these are equal, processes see the same pids."""
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    boot = namespace = "0"
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip().replace("-", "")[:8] or "0"
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    return host, boot, namespace


def _name_temporary() -> str:
    number = next(_numbers) % 2**32
    return TEMPORARY_PREFIX + "-".join((*_identify_host(), str(os.getpid()), f"{number:08x}"))


def _is_dead(path: str) -> bool:
    parts = os.path.basename(path).removeprefix(TEMPORARY_PREFIX).split("-")
    host, boot, namespace = _identify_host()
    if len(parts) != 5 or parts[0] != host or not parts[3].isdigit():
        return False
    if (parts[1], parts[2]) == (boot, namespace) and not _is_running(int(parts[3])):
        return True
    # Here, the pid does not show whether the file is in use. Another process may have the same pid
    # now (in containers, nearly all pids are 1), and a pid from another container or an earlier
    # boot has no meaning. Therefore the lock decides, but only if the file is older than one
    # minute, because a new file may not be locked yet.
    with contextlib.suppress(OSError):
        return time.time() - os.stat(path).st_mtime > 60 and _is_unlocked(path)
    return False


def _is_running(pid: int) -> bool:
    if sys.platform == "win32":  # on Windows, signal 0 is Ctrl-C, so only the file's age decides
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # the process belongs to another user
        return True
    return True


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":  # no lock is needed: Windows does not remove an open file
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        # If the file system has no locks, only the pid in the name identifies a live file.
        if exc.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL):
            raise


def _is_unlocked(path: str) -> bool:
    """True if no process holds the file's lock. Raises OSError if the file cannot be opened."""
    if sys.platform == "win32":
        return True
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _publish(temporary: str, target: str, *, replace: bool, is_ours: Callable[[str], bool]) -> None:
    """Renames `temporary` to `target`.

    Raises OutputError if `replace` is false and `target` is a file of another program.
    """
    if not replace:
        if _rename_to_free(temporary, target):
            _forget(temporary)
            return
        try:
            os.link(temporary, target)  # unlike a rename, this fails if the target exists
            return
        except OSError as exc:
            # Either the target exists, or this file system does not support hard links.
            if os.path.lexists(target) and not is_ours(target):
                raise refuse_foreign(target) from exc
    os.replace(temporary, target)
    _forget(temporary)


def _rename_to_free(temporary: str, target: str) -> bool:
    """Renames a file if no file has the new name. Returns False if it was not renamed.

    Only Linux can do this, and not on every file system. It is faster than a link.
    """
    rename = _find_renameat2()
    if rename is None:
        return False
    paths = os.fsencode(temporary), os.fsencode(target)
    return rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_NOREPLACE) == 0


@functools.cache
def _find_renameat2() -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    with contextlib.suppress(OSError, AttributeError):  # the C library may be old
        function: Callable[..., int] = ctypes.CDLL(None).renameat2
        return function
    return None


def refuse_foreign(target: str) -> OutputError:
    """Returns the OutputError for an existing file that dinac did not write."""
    return OutputError(
        f"{target}: exists and was not written by dinac; "
        "choose another output folder or add --overwrite"
    )


def _discard(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
    _forget(path)


def _forget(path: str) -> None:
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
