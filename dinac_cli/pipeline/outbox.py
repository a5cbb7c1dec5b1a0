"""Results on their way out: written behind the model, handed over in order where order matters."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace

from dinac_cli.files.output import Output, OutputKind
from dinac_cli.results import FileResult


@dataclass(frozen=True)
class Made:
    """A result and, where the output is a stream, the bytes to write there."""

    result: FileResult
    data: bytes = b""


def deliver(output: Output, name: str, data: bytes, result: FileResult) -> Made:
    """Write one output below OUT, or hand its bytes on to the stream. Raises OutputError."""
    if output.kind is OutputKind.STREAM:
        return Made(result, data)
    target = output.locate(name)
    output.write(target, data)
    return Made(replace(result, output=target))


class Outbox:
    """Futures of what is being written, numbered in the order of the inputs.

    `ordered`: they leave in that order (a stream). Otherwise each leaves when it is done.
    """

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._pending: dict[int, Future[Made]] = {}
        self._next = 0

    def put(self, number: int, future: Future[Made]) -> None:
        """Add the write of input `number`."""
        self._pending[number] = future

    def put_result(self, number: int, result: FileResult) -> None:
        """Add a result that needs no writing."""
        future: Future[Made] = Future()
        future.set_result(Made(result))
        self._pending[number] = future

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def waits_for_model(self) -> bool:
        """True where the next one in order has not been computed yet."""
        return self._ordered and bool(self._pending) and self._next not in self._pending

    def take_ready(self, at_most: int) -> Iterator[Made]:
        """What is done; waits until no more than `at_most` are left, or the model is behind."""
        while self._pending:
            number = self._find_ready(must_wait=len(self._pending) > at_most)
            if number is None:
                return
            self._next = number + 1
            yield self._pending.pop(number).result()

    def _find_ready(self, *, must_wait: bool) -> int | None:
        if self._ordered:
            future = self._pending.get(self._next)
            return self._next if future and (must_wait or future.done()) else None
        if must_wait:
            wait(self._pending.values(), return_when=FIRST_COMPLETED)
        return next((n for n, future in self._pending.items() if future.done()), None)
