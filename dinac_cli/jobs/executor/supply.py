"""The entries of a run, listed ahead of the processes that take them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from multiprocessing import Pipe
from typing import Generic

from dinac_cli.jobs.executor.job import E

ENTRIES_AHEAD = 1024
"""The number of entries that are listed before a worker takes them."""

LISTED_BYTES = 64 * 2**20
"""The memory, in bytes, that listed entries may occupy, such as records of a stream."""

_END_SECONDS = 2.0


class Supply(Generic[E]):
    """Lists the entries in a thread, a limited number ahead of the workers.

    So a slow stream or a large folder never delays results. `wake` becomes readable when a caller
    that found no entry may look again.
    """

    def __init__(self, entries: Iterable[E]) -> None:
        self._entries = entries
        self._listed: deque[E] = deque()
        self._held_bytes = 0
        self._ended = self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._is_starved = False
        self.wake, self._waker = Pipe(duplex=False)
        self._thread = threading.Thread(target=self._list, name="list", daemon=True)

    def __enter__(self) -> Supply[E]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(_END_SECONDS)  # it may wait for standard input

    def __len__(self) -> int:
        return len(self._listed)

    @property
    def has_ended(self) -> bool:
        """True if all entries have been taken. Raises the error that ended the listing."""
        with self._changed:  # the last entry may be listed between two looks
            if self._listed or not self._ended:
                return False
        if self._error is not None:
            raise self._error
        return True

    @property
    def is_complete(self) -> bool:
        """True if no more entries will be listed."""
        return self._ended

    def take(self, count: int) -> list[E]:
        """Returns up to `count` entries that have been listed."""
        with self._changed:
            taken = [self._listed.popleft() for _ in range(min(count, len(self._listed)))]
            self._held_bytes -= sum(entry.held_bytes for entry in taken)
            self._is_starved = not taken
            self._changed.notify_all()
        return taken

    def clear_wake(self) -> None:
        """Takes all signals from `wake`. Once many were left there, the next one would wait."""
        while self.wake.poll():
            self.wake.recv_bytes()

    def _list(self) -> None:
        try:
            for entry in self._entries:
                with self._changed:
                    self._changed.wait_for(self._has_room)
                    if self._closed:
                        return
                    self._listed.append(entry)
                    self._held_bytes += entry.held_bytes
                    self._rouse()
        except BaseException as exc:
            self._error = exc
        finally:
            with self._changed:
                self._ended = True
                self._is_starved = True
                self._rouse()

    def _has_room(self) -> bool:
        is_full = len(self._listed) >= ENTRIES_AHEAD or self._held_bytes >= LISTED_BYTES
        return self._closed or not is_full

    def _rouse(self) -> None:
        if self._is_starved:
            self._is_starved = False
            self._waker.send_bytes(b"!")
