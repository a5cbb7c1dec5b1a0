"""A lock on a folder. Only one process can hold the lock at a time."""

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
