"""The exceptions that dinac raises, and the exit codes of its commands.

Every message is one line. It says what is wrong, in which file, and what to do about it. If a
function catches an error of another library, it raises a dinac error (``raise ... from exc``). The
words of the library belong in the details of that error (``quote_error``).
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """The base class of all dinac errors.

    `details` are lines that `--verbose` shows after the message, such as the words of a library.
    """

    exit_code = Exit.REFUSED

    def __init__(self, message: str = "", details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = tuple(details)


class UsageError(DinacError):
    """The request is wrong: an argument is invalid, contradicts another one or matches no input."""

    exit_code = Exit.USAGE


class SameOutputError(UsageError):
    """Two inputs of a run would have the same output."""


class MissingLibraryError(UsageError):
    """The request needs a library of an extra that is not installed, or does not work."""


class ImageError(DinacError):
    """One image cannot be read or written; the rest of the batch continues."""


class SmallImageError(ImageError):
    """After scaling, an image is smaller than the crop, or an image is smaller than its bucket."""


class DecodedImageError(ImageError):
    """dinac decoded the image, so it is not an input of this run."""


class DamagedImageError(ImageError):
    """An image is damaged, but a part of it can be read if the user asks for it."""


class ModelError(DinacError):
    """A checkpoint is invalid, is not available, or does not fit the latents."""


class DeviceError(DinacError):
    """The requested device is missing or cannot do the work."""


class ClusterError(DinacError):
    """The cluster does not answer, or has no node that can do the work."""


class OutputError(DinacError):
    """An output cannot be written to the requested place, or must not replace an existing file."""


class PruneError(OutputError):
    """Outputs without a source were not moved away: the inputs may be incomplete."""


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

    def __reduce__(self) -> tuple[type[FormatError], tuple[Rejection, str]]:
        """Errors go between processes, and pickle calls the class with all arguments."""
        return type(self), (self.rejection, str(self))


class InputError(DinacError):
    """An input cannot be read, is too large, or changed while it was read."""


class ArchiveError(InputError):
    """A tar or a parquet file is damaged or incomplete, or breaks a bound."""


class StorageError(DinacError):
    """A remote place did not answer, although its client has tried again. It may answer later."""


class UnwritableDiskError(OutputError):
    """The disk is full or read-only, so the run cannot write more files."""


class CheckpointError(ModelError):
    """A checkpoint does not fit its configuration. `details` has one line per wrong tensor."""


def quote_error(exc: BaseException) -> str:
    """Returns the class and the message of another library's error, in one line for `details`."""
    words = " ".join(str(exc).split())
    printable = "".join(char if char.isprintable() else "?" for char in words)
    return f"{type(exc).__name__}: {printable}"[:200] if words else type(exc).__name__


def first_line(exc: BaseException) -> str:
    """Returns the first line of an error's message, or its class if there is no message."""
    return str(exc).strip().partition("\n")[0] or type(exc).__name__


def describe_read_error(exc: OSError) -> str:
    """Says in an error message why a file cannot be read, and what to do."""
    return f"cannot read: {exc.strerror or exc}; check the path and its permissions"
