"""Locks on a folder and on a file. Only one process can hold a lock at a time."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from dinac_cli.errors import OutputError
from dinac_cli.storage.atomic import describe_write_error

if sys.platform != "win32":
    import fcntl


@contextlib.contextmanager
def hold_folder(folder: str, refusal: str) -> Iterator[bool]:
    """Locks the folder against other processes during the `with` block.

    Yields False if the folder cannot be locked: on Windows, and on file systems without such locks.

    Creates the folder if it does not exist. If this function created the folder and the folder is
    still empty at the end, removes the folder. The system releases the lock of a process that dies.
    Raises OutputError if the folder is not writable. If another process holds the lock, the message
    of the OutputError is `refusal`.
    """
    is_new = not os.path.lexists(folder)
    try:
        descriptor = _lock_folder(folder)
    except BlockingIOError as exc:
        raise OutputError(refusal) from exc
    except OSError as exc:
        raise describe_write_error(exc, folder) from exc
    try:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"{folder}: cannot write there; choose another folder")
        yield descriptor is not None
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # the folder is not empty
                os.rmdir(folder)
        if descriptor is not None:
            os.close(descriptor)


def _lock_folder(folder: str) -> int | None:
    """Returns the descriptor that holds the lock, or None if the folder cannot be locked."""
    while True:
        os.makedirs(folder, exist_ok=True)
        if sys.platform == "win32":
            return None
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise
        except FileNotFoundError:  # another process removed the folder before this one locked it
            pass
        except OSError:  # this file system has no locks, or cannot lock folders
            os.close(descriptor)
            return None
        os.close(descriptor)


@contextlib.contextmanager
def hold_content(path: str) -> Iterator[bytes]:
    """Yields the content of a file that the caller replaces during the `with` block.

    Other callers wait, and then get the new content, so that no change is lost. On Windows, and on
    file systems without locks, they do not wait. Raises OSError if the file cannot be read.
    """
    while True:
        with open(path, "rb") as file:
            _wait_for_lock(file.fileno())
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                content = file.read()
                if sys.platform == "win32":  # an open file cannot be replaced
                    file.close()
                yield content
                return


def _wait_for_lock(descriptor: int) -> None:
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # this file system has no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
