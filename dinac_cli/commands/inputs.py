"""Turns the "Inputs" options of a command into a selection of inputs."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace

from dinac_cli.commands.screen.signals import STDIN_CLOSED
from dinac_cli.container.frame import RECORD_START
from dinac_cli.errors import UsageError
from dinac_cli.images.formats import is_image_name, looks_like_image
from dinac_cli.jobs.freshness import is_stamped_image
from dinac_cli.jobs.request import Selection
from dinac_cli.storage.inputs import STDIN, FileKind, InputScan, require_inputs
from dinac_cli.storage.naming import LATENT_SUFFIX
from dinac_cli.storage.parts import parse_shard

IMAGES = FileKind("image", "images", is_image_name, looks_like_image)
LATENTS = FileKind(
    "latent file",
    "latent files",
    lambda name: name.lower().endswith(LATENT_SUFFIX),
    lambda head: head.startswith(RECORD_START),
)


@dataclass(frozen=True)
class InputOptions:
    """The "Inputs" options as they were given."""

    paths: list[str] | None
    files_from: str | None
    null: bool
    root: str | None
    limit: int | None
    shard: str | None


def select_inputs(options: InputOptions, kind: FileKind, out: str | None) -> Selection:
    """The inputs of a run; `out` is None for one that writes nothing.

    Raises UsageError where the options contradict each other.
    """
    paths = tuple(options.paths or ())
    if out == "" or "" in paths:
        place = "an input" if out is None else "an input or OUT"
        raise UsageError(f"{place} is an empty name: is a variable unset?")
    if options.files_from is None and (options.null or options.root is not None):
        raise UsageError("--null and --root go with --files-from")
    listed = None
    if options.files_from is not None:
        if options.files_from == STDIN and STDIN in paths:
            raise UsageError("standard input cannot be both an input and the list of inputs")
        listed = _read_list(options.files_from)
    require_inputs(paths, listed, out)
    if kind is IMAGES and out is not None and any(_is_same_folder(path, out) for path in paths):
        # What was decoded into that folder is no original: it would be encoded, and decoded again.
        kind = replace(kind, is_output=is_stamped_image)
    scan = InputScan(kind, paths, listed, options.null, options.root, exclude=out)
    shard = None if options.shard is None else parse_shard(options.shard, os.environ)
    return Selection(scan, shard, options.limit)


def _is_same_folder(path: str, out: str) -> bool:
    return os.path.isdir(path) and os.path.isdir(out) and os.path.samefile(path, out)


def _read_list(path: str) -> bytes:
    try:
        if path == STDIN:
            if sys.stdin is None:
                raise UsageError(STDIN_CLOSED)
            return sys.stdin.buffer.read()
        with open(path, "rb") as file:
            return file.read()
    except OSError as exc:
        raise UsageError(f"--files-from {path}: cannot read: {exc.strerror}") from exc
