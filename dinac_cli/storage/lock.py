"""A folder held by one process at a time."""

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
    """Within the block, no other process holds the folder, which is made if need be.

    It goes again where nothing came into it. The end of a process, of whatever kind, ends its hold.
    Where a file system knows no locks, as on Windows, nothing is refused. Raises OutputError: with
    `refusal` where another process holds the folder, or where nothing can be written there.
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
            raise OutputError(f"{folder}: cannot write there: choose another folder")
        yield
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # something is in it
                os.rmdir(folder)
        if descriptor is not None:
            os.close(descriptor)


if sys.platform != "win32":

    def _lock_folder(folder: str) -> int | None:
        while True:
            os.makedirs(folder, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(descriptor, folder):
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                raise
            except OSError:  # a file system without locks, or none for folders
                return descriptor
            os.close(descriptor)

    def _is_at(descriptor: int, folder: str) -> bool:
        """False where who held the folder has removed it before it was locked here."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(folder))
        except FileNotFoundError:
            return False

else:

    def _lock_folder(folder: str) -> int | None:
        os.makedirs(folder, exist_ok=True)
        return None
