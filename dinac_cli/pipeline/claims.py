"""Which record of a run has the name of an output: the first one that is whole."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dinac_cli.files.content import InputError


@dataclass(frozen=True)
class NameClaim:
    """A record's claim to the name `output`, by its place among the claims of the run."""

    claims: NameClaims
    number: int
    output: str

    @contextmanager
    def settle(self) -> Iterator[None]:
        """Around the reading of the record: with its end the name is taken, with an error free.

        Waits for earlier claims to the same name. Raises InputError where one of them took it.
        """
        if self.claims.wait_for_turn(self):
            self.claims.settle(self, is_whole=True)
            raise InputError(
                f"another record of this run goes to {self.output}; this one is left out"
            )
        is_whole = False
        try:
            yield
            is_whole = True
        finally:
            self.claims.settle(self, is_whole=is_whole)


class NameClaims:
    """The claims of a run: made while records are listed, settled while they are read.

    Only the content tells whether a record is whole, and it is unpacked by its reader alone, within
    the budget of the run. So a later claim to a name waits, in the thread of its own reader, until
    each earlier one is settled. That ends: readers start in the order of the claims, so that an
    earlier claim is settled or its reader has a thread; that reader waits for claims before its
    own and for the byte budget, which lets the oldest one through. The oldest reader therefore
    never waits, and each becomes the oldest. Claims that nobody reads are none to wait for: they
    are the last ones of a run that was stopped.
    """

    def __init__(self, rename: Callable[[str], str] | None, *, fold_case: bool = False) -> None:
        self._rename = rename
        self._fold_case = fold_case
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        # Hashes, not names, so that a long run takes little memory.
        self._taken: set[int] = set()
        self._open: dict[int, deque[int]] = {}

    def make(self, name: str) -> NameClaim | None:
        """Claim the output's name of record `name`; None in a run without outputs."""
        if self._rename is None:
            return None
        claim = NameClaim(self, next(self._numbers), self._rename(name))
        with self._changed:
            self._open.setdefault(self._key(claim), deque()).append(claim.number)
        return claim

    def wait_for_turn(self, claim: NameClaim) -> bool:
        """Wait until no earlier claim to the name is open; whether one of them took it."""
        key = self._key(claim)
        with self._changed:
            self._changed.wait_for(lambda: self._open[key][0] == claim.number)
            return key in self._taken

    def settle(self, claim: NameClaim, *, is_whole: bool) -> None:
        """Close the claim whose turn it is; that of a whole record takes the name."""
        key = self._key(claim)
        with self._changed:
            numbers = self._open[key]
            assert numbers[0] == claim.number, "claims are settled in their order"
            numbers.popleft()
            if not numbers:
                del self._open[key]
            if is_whole:
                self._taken.add(key)
            self._changed.notify_all()

    def _key(self, claim: NameClaim) -> int:
        return hash(claim.output.casefold() if self._fold_case else claim.output)
