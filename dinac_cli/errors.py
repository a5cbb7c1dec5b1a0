"""dinac's error tree: the exceptions that a caller may catch, and their exit codes.

Every message is one line that says what is wrong, where, and what to do about it. Errors of other
libraries are wrapped where they arise (``raise ... from exc``).
"""

from __future__ import annotations

from enum import Enum, IntEnum


class Exit(IntEnum):
    """The exit codes of every command."""

    DONE = 0
    REFUSED = 1  # could not run, or the system stopped it
    USAGE = 2  # wrong usage
    FAILURES = 3  # finished, but some files failed, are missing, or did not verify
    INTERRUPTED = 130  # Ctrl-C
    CLOSED_PIPE = 141
    TERMINATED = 143  # SIGTERM


class DinacError(Exception):
    """The base of all dinac errors."""

    exit_code = Exit.REFUSED


class UsageError(DinacError):
    """The request is wrong: its arguments contradict each other or match nothing."""

    exit_code = Exit.USAGE


class ImageError(DinacError):
    """One image cannot be read or written; the rest of the batch continues."""


class ModelError(DinacError):
    """A checkpoint is invalid, does not fit the latents, or is not available."""


class DeviceError(DinacError):
    """The requested device is missing or cannot do the work."""


class OutputError(DinacError):
    """An output cannot be written to the requested place, or must not be replaced."""


class Rejection(str, Enum):
    """Why a latent record is refused: one member per rule of the specification."""

    # frame
    NOT_A_RECORD = "not-a-record"
    TRUNCATED = "truncated"
    VERSION = "version"
    FLAGS = "flags"
    RESERVED = "reserved"
    FRAME_HEADER = "frame-header"
    CONTENT_SIZE = "content-size"
    DICTIONARY = "dictionary"
    WINDOW = "window"
    NO_CHECKSUM = "no-checksum"
    BLOCK = "block"
    CHECKSUM = "checksum"
    TRAILING = "trailing"
    # header
    HEADER_SIZE = "header-size"
    HEADER_JSON = "header-json"
    DUPLICATE_KEY = "duplicate-key"
    METADATA = "metadata"
    TENSOR = "tensor"
    LAYOUT = "layout"
    SHAPE = "shape"
    PRECISION = "precision"
    PREDICTOR = "predictor"
    NAME = "name"
    # payload
    STEP = "step"
    VALUE = "value"


class FormatError(DinacError):
    """A latent record is refused, by the reader or before it is written.

    `rejection` is the rule that it breaks.
    """

    def __init__(self, rejection: Rejection, message: str) -> None:
        super().__init__(message)
        self.rejection = rejection


class InputError(DinacError):
    """An input cannot be read, is too large, or changed while it was read."""


class UnwritableDiskError(OutputError):
    """The disk is full or read-only: the run cannot write anything more."""


class CheckpointError(ModelError):
    """Tensors do not fit the configuration; `details` has one line for each tensor."""

    def __init__(self, message: str, details: list[str]) -> None:
        super().__init__(message)
        self.details = details
