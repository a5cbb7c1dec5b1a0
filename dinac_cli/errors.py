"""The exceptions that dinac raises, and the exit codes of its commands.

Every message is one line. It says what is wrong, in which file, and what to do about it. If a
function catches an error of another library, it raises a dinac error (``raise ... from exc``).
"""

from __future__ import annotations

from enum import Enum, IntEnum


class Exit(IntEnum):
    """The exit codes of every command."""

    DONE = 0
    REFUSED = 1  # the command could not run, or the system stopped it
    USAGE = 2  # the command line is wrong
    FAILURES = 3  # the command finished, but some files failed, are missing or are wrong
    INTERRUPTED = 130  # Ctrl-C
    CLOSED_PIPE = 141
    TERMINATED = 143  # SIGTERM


class DinacError(Exception):
    """The base class of all dinac errors."""

    exit_code = Exit.REFUSED


class UsageError(DinacError):
    """The request is wrong: an argument is invalid, contradicts another one or matches no input."""

    exit_code = Exit.USAGE


class ImageError(DinacError):
    """One image cannot be read or written; the rest of the batch continues."""


class SmallImageError(ImageError):
    """After scaling, an image is smaller than the crop."""


class ModelError(DinacError):
    """A checkpoint is invalid, is not available, or does not fit the latents."""


class DeviceError(DinacError):
    """The requested device is missing or cannot do the work."""


class OutputError(DinacError):
    """An output cannot be written to the requested place, or must not replace an existing file."""


class Rejection(str, Enum):
    """The reason why a latent record is refused: one member per rule of the specification."""

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
    """A latent record is invalid. Readers and writers raise this error.

    `rejection` is the rule that the record breaks.
    """

    def __init__(self, rejection: Rejection, message: str) -> None:
        super().__init__(message)
        self.rejection = rejection


class InputError(DinacError):
    """An input cannot be read, is too large, or changed while it was read."""


class UnwritableDiskError(OutputError):
    """The disk is full or read-only, so the run cannot write more files."""


class CheckpointError(ModelError):
    """A checkpoint does not fit its configuration. `details` has one line per wrong tensor."""

    def __init__(self, message: str, details: list[str]) -> None:
        super().__init__(message)
        self.details = details
