"""A lock on a folder, which only one process holds at a time."""

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
def hold_folder(folder: str, refusal: str) -> Iterator[None]:
    """Locks the folder against other processes during the block; creates it if needed.

    A folder that was created here is removed if it is still empty at the end. If a process dies,
    its lock is released. On Windows, and on file systems without locks, nothing is locked. Raises
    OutputError if the folder is not writable, or with the message `refusal` if it is locked.
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
        yield
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty
                os.rmdir(folder)
        if descriptor is not None:
            os.close(descriptor)


def _lock_folder(folder: str) -> int | None:
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
        except FileNotFoundError:  # the previous holder removed the folder before this lock
            pass
        except OSError:  # this file system has no locks, or none for folders
            return descriptor
        os.close(descriptor)
