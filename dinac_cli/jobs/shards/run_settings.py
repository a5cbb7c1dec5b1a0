"""The settings of a sharded OUT: `_dinac/run.json`. Every run into OUT has the same settings."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, cast

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.container.header import PRECISIONS, RecordHeader
from dinac_cli.container.names import is_safe_text
from dinac_cli.container.tensors import CLASS_TOKEN, LOGSNR
from dinac_cli.errors import DinacError, InputError, StorageError, UsageError
from dinac_cli.images.color import parse_color
from dinac_cli.images.damage import DAMAGE_CHOICES, DamageChoice
from dinac_cli.images.geometry import NO_GEOMETRY, Geometry, read_geometry
from dinac_cli.images.hdr import REFUSE, check_hdr
from dinac_cli.jobs.encode import EncodeOptions
from dinac_cli.jobs.held import HeldRecord
from dinac_cli.jobs.image_masks import MASK_OPTIONS, NO_MASK_KIND, MaskKind
from dinac_cli.jobs.shards.sample import DEFAULT_COLUMN, SampleChoice
from dinac_cli.jobs.shards.shard import MAX_SHARD_SIZE
from dinac_cli.storage.markers import RUN_NAME
from dinac_cli.storage.store import Store

DEFAULT_SHARD_SIZE = 5000
"""How many loose images go into a shard, unless the user says otherwise."""

_FORMAT = 1
_MAX_BYTES = 2**20
_EXTENSION = re.compile("[a-z0-9][a-z0-9._-]{0,31}")
_OPTIONS = {
    "precision": "--precision",
    "background": "--background",
    "hdr": "--hdr",
    "damaged": "--damaged",
    "shard_size": "--shard-size",
    "column": "--image-column",
    "threads": "--threads",
}
_DEFAULTS = {"background": "#ffffff", "hdr": REFUSE, "damaged": "fail", "column": DEFAULT_COLUMN}
_SWITCHES = {"anonymous": "--anonymous", "features": "--features", "posterior": "--posterior"}


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What all shards of an OUT have in common; `threads` and `compute` are known at the first one.

    `geometry` is the text of a `Geometry`, and `mask` is a `MaskKind`. `threads` is the number of
    threads that computed in each process, or None on a GPU, where it changes nothing. Raises
    InputError if a value is not valid.
    """

    model: str
    revision: str
    latent_space: str
    weights: str
    precision: str
    background: str
    hdr: str
    damaged: str
    anonymous: bool
    features: bool
    posterior: bool
    geometry: str
    keep: tuple[str, ...] = ()
    column: str = DEFAULT_COLUMN
    shard_size: int = DEFAULT_SHARD_SIZE
    compute: str = ""
    threads: int | None = None
    mask: str = NO_MASK_KIND

    def __post_init__(self) -> None:
        named = (self.model, self.revision, self.compute, self.column)
        texts = (*named, self.background, self.hdr, self.geometry)
        switches = (self.anonymous, self.features, self.posterior)
        is_valid = (
            all(isinstance(text, str) and is_safe_text(text) for text in texts)
            and all(isinstance(switch, bool) for switch in switches)
            and self.precision in PRECISIONS
            and self.damaged in DAMAGE_CHOICES
            and self.mask in MASK_OPTIONS
            and type(self.shard_size) is int
            and 1 <= self.shard_size <= MAX_SHARD_SIZE
            and (self.threads is None or (type(self.threads) is int and 0 < self.threads < 10_000))
            and all(isinstance(each, str) and _EXTENSION.fullmatch(each) for each in self.keep)
        )
        if not is_valid:
            raise InputError("a setting is not valid")
        check_hdr(self.hdr)
        parse_color(self.background)
        read_geometry(self.geometry)
        _ = self.header

    @classmethod
    def of(
        cls,
        model: ModelHandle,
        options: EncodeOptions,
        choice: SampleChoice,
        shard_size: int,
        threads: int | None,
    ) -> RunSettings:
        """Returns the settings of a run."""
        is_named = not options.anonymous or model.resolved.is_public
        return cls(
            model=model.label if is_named else "",
            revision=model.resolved.revision if is_named else "",
            latent_space=model.identity.latent_space,
            weights=model.identity.weights,
            precision=options.precision,
            background=options.background_name,
            hdr=options.hdr,
            damaged=options.damaged,
            anonymous=options.anonymous,
            features=options.features,
            posterior=options.posterior,
            geometry=options.geometry.text,
            keep=tuple(sorted(choice.keep)),
            column=choice.column,
            shard_size=shard_size,
            threads=threads,
            mask=options.mask_kind,
        )

    @property
    def header(self) -> RecordHeader:
        """A header with the settings that a record's header holds too."""
        return RecordHeader(
            shape=(1, 1, 1),
            height=1,
            width=1,
            patch=1,
            latent_space=self.latent_space,
            weights=self.weights,
            precision=self.precision,
            name="" if self.anonymous else "run",
            model=self.model,
            revision=self.revision,
            compute=self.compute,
        )

    @property
    def digest(self) -> str:
        """A text that identifies the settings that decide the content of shards."""
        facts = replace(self, compute="", threads=None, model="", revision="")._to_facts()
        del facts["shard_size"]  # it decides which images a shard holds, not how it is made
        return json.dumps(facts, sort_keys=True)

    def list_options(self) -> list[str]:
        """Returns the settings as options of encode, but for the model and most defaults."""
        options = [f"--precision {self.precision}", f"--shard-size {self.shard_size}"]
        options += read_geometry(self.geometry).list_options(NO_GEOMETRY)
        for key, default in _DEFAULTS.items():
            if getattr(self, key) != default:
                options.append(f"{_OPTIONS[key]} {shlex.quote(str(getattr(self, key)))}")
        options += [option for key, option in _SWITCHES.items() if getattr(self, key)]
        if self.mask != NO_MASK_KIND:
            options.append(MASK_OPTIONS[cast(MaskKind, self.mask)])
        return [*options, f"--keep {','.join(self.keep)}"] if self.keep else options

    def to_bytes(self) -> bytes:
        """Returns the content of run.json. Equal settings give equal bytes."""
        facts = {"dinac": _FORMAT, **self._to_facts()}
        return (json.dumps(facts, sort_keys=True, indent=1) + "\n").encode()

    def _to_facts(self) -> dict[str, Any]:
        """Returns the settings by name. Without masks, they are as before there were masks."""
        facts = asdict(self)
        if self.mask == NO_MASK_KIND:
            del facts["mask"]
        return facts

    def find_conflict(self, wanted: RunSettings) -> tuple[str, str] | None:
        """Returns the first difference, as options of encode: what OUT holds, what is asked for."""
        if self.latent_space != wanted.latent_space or self.weights != wanted.weights:
            return f"--model {self.model or 'unknown'}", f"--model {wanted.model or 'unknown'}"
        for key, option in _OPTIONS.items():
            held, asked = getattr(self, key), getattr(wanted, key)
            if held != asked and None not in (held, asked):
                return f"{option} {shlex.quote(str(held))}", f"{option} {shlex.quote(str(asked))}"
        for key, option in _SWITCHES.items():
            if getattr(self, key) != getattr(wanted, key):
                return _name_switch(option, getattr(self, key)), _name_switch(
                    option, getattr(wanted, key)
                )
        if self.mask != wanted.mask:
            held, asked = (MASK_OPTIONS[cast(MaskKind, each.mask)] for each in (self, wanted))
            return held, asked
        if self.geometry != wanted.geometry:
            return _name_geometries(read_geometry(self.geometry), read_geometry(wanted.geometry))
        if self.keep != wanted.keep:
            return _name_keep(self.keep), _name_keep(wanted.keep)
        return None


def _name_switch(option: str, value: bool) -> str:
    return option if value else f"--no-{option[2:]}"


def _name_geometries(held: Geometry, asked: Geometry) -> tuple[str, str]:
    is_full_size = asked.changes_pixels and not held.changes_pixels
    options = " ".join(held.list_options(asked))
    return "full-size latents" if is_full_size else options, " ".join(asked.list_options(held))


def _name_keep(keep: tuple[str, ...]) -> str:
    return f"--keep {','.join(keep)}" if keep else "no --keep"


@dataclass(frozen=True)
class HeldRun(HeldRecord):
    """The settings of OUT, as if a record held them: a run follows them in the same way."""

    settings: RunSettings | None = None

    @classmethod
    def of(cls, path: str, settings: RunSettings) -> HeldRun:
        """Returns the settings in run.json at `path`."""
        requested = {LOGSNR: settings.posterior, CLASS_TOKEN: settings.features}
        companions = frozenset(name for name, is_requested in requested.items() if is_requested)
        return cls(path, settings.header, companions, settings)

    @cached_property
    def _settings(self) -> RunSettings:
        assert self.settings is not None
        return self.settings

    @property
    def background(self) -> tuple[int, int, int] | None:
        return parse_color(self._settings.background)

    @property
    def hdr(self) -> str | None:
        return self._settings.hdr

    @property
    def damaged(self) -> DamageChoice:
        return cast(DamageChoice, self._settings.damaged)

    @property
    def mask_kind(self) -> MaskKind:
        return cast(MaskKind, self._settings.mask)

    @property
    def geometry(self) -> Geometry:
        return read_geometry(self._settings.geometry)


def read_settings(store: Store) -> RunSettings | None:
    """Reads run.json of OUT; returns None if there is none.

    Raises UsageError if it is damaged, StorageError.
    """
    if store.stat(RUN_NAME) is None:
        return None
    try:
        return _parse(store.read(RUN_NAME, _MAX_BYTES))
    except StorageError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError, DinacError) as exc:
        raise UsageError(
            f"{store.locate(RUN_NAME)}: not the settings of a run; "
            "restore it, or choose another OUT"
        ) from exc


def find_settings(store: Store) -> RunSettings | None:
    """Returns what `read_settings` returns; None if run.json is damaged. Raises StorageError."""
    try:
        return read_settings(store)
    except UsageError:
        return None


def _parse(data: bytes) -> RunSettings:
    content: dict[str, Any] = json.loads(data)
    if content["dinac"] != _FORMAT:
        raise ValueError("a newer format")
    content.setdefault("mask", NO_MASK_KIND)
    values = {field.name: content[field.name] for field in fields(RunSettings)}
    values["keep"] = tuple(values["keep"])
    return RunSettings(**values)


def parse_extensions(text: str) -> tuple[str, ...]:
    """Parses `--keep txt,json`. Raises UsageError."""
    names = tuple(dict.fromkeys(name.strip().lstrip(".").lower() for name in text.split(",")))
    for name in names:
        if not _EXTENSION.fullmatch(name) or name == "dinac":
            raise UsageError(f"--keep {text}: name extensions, such as txt,json")
    return names


def complete_settings(settings: RunSettings, compute: str) -> RunSettings:
    """Adds how the model computes: the field `compute`, and on a CPU the number of threads.

    Imports torch.
    """
    if not compute.startswith("cpu"):
        return replace(settings, compute=compute, threads=None)
    import torch

    return replace(settings, compute=compute, threads=torch.get_num_threads())
