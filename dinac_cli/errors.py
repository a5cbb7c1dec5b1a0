"""The one error tree of dinac: what a caller may catch, and the exit code each kind ends with.

Every message is one line that says what is wrong, where, and what to do about it. Errors of
other libraries are wrapped at the edge where they arise (``raise ... from exc``).
"""

from __future__ import annotations

from enum import Enum


class DinacError(Exception):
    """Anything that dinac refuses or cannot do; the base of all its errors."""

    exit_code = 1


class UsageError(DinacError):
    """The request itself is wrong: arguments that contradict each other or name nothing."""

    exit_code = 2


class ImageError(DinacError):
    """One image cannot be read or written; the rest of a batch goes on."""


class ModelError(DinacError):
    """A checkpoint is wrong, does not fit the latents, or is not to be had."""


class DeviceError(DinacError):
    """The device that was asked for is absent or cannot do what was asked."""


class OutputError(DinacError):
    """An output cannot be written where it was asked for, or must not be replaced."""


class Rejection(str, Enum):
    """Why the reader refused a latent record; one member per rule of the specification."""

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
    """A latent record that the reader refuses, with the rule that it broke.

    `rejection` is the rule, `header_name` the record's own name where it could still be read.
    """

    def __init__(self, rejection: Rejection, message: str) -> None:
        super().__init__(message)
        self.rejection = rejection
        self.header_name: str | None = None


class InputError(DinacError):
    """An input cannot be read, is far too large, or changed while it was read."""


class UnwritableDiskError(OutputError):
    """No space is left, or the disk is read-only: nothing more of the run can be written."""


class CheckpointError(ModelError):
    """Tensors that do not fit the configuration; `details` lists every one of them."""

    def __init__(self, message: str, details: list[str]) -> None:
        super().__init__(message)
        self.details = details
