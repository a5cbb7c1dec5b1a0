"""The base of all requests: inputs, limits, and the checks before a run starts.

A request is plain data that holds everything a run needs. A request can be pickled, so another
process can open the request. `Request.open` checks the request, chooses the model and returns a
`Run`. The run yields one `FileResult` per file:

    run = EncodeRequest(inputs=InputRequest(paths=("photos/",)), out="latents/").open()
    run.count()
    for result in run.start(RunControl()):
        print(result.name, result.status)
"""

from __future__ import annotations

import itertools
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Generic, TypeVar

from dinac_cli.codec.compute import find_devices
from dinac_cli.codec.handle import DeviceChoice
from dinac_cli.codec.machine import count_processors, divide_processors
from dinac_cli.container.frame import RECORD_START
from dinac_cli.errors import DinacError, UsageError, describe_read_error
from dinac_cli.images.formats import is_image_name, looks_like_image
from dinac_cli.jobs.executor.control import RunControl, StopRequest
from dinac_cli.jobs.executor.phase import Watch, ignore_phase
from dinac_cli.jobs.freshness import is_stamped_image
from dinac_cli.jobs.listing import Listing
from dinac_cli.jobs.results import FileResult
from dinac_cli.jobs.shards.record_tars import RecordFinder
from dinac_cli.models.registry import may_use_gpu
from dinac_cli.storage.exclusion import Exclusion
from dinac_cli.storage.inputs import STDIN, FileKind, Input, InputScan, require_inputs
from dinac_cli.storage.markers import holds_shards
from dinac_cli.storage.naming import LATENT_SUFFIX
from dinac_cli.storage.output import STDOUT, Output, OutputKind
from dinac_cli.storage.parts import Shard, parse_shard
from dinac_cli.storage.tars import begins_with_record
from dinac_cli.storage.urls import hide_secrets, is_url

_FILE_SUFFIXES = (LATENT_SUFFIX, ".safetensors", ".npz", ".npy", ".latent", ".tar", ".zip")
"""Suffixes of files that a user may expect dinac to write, except images."""

_FILE_SUFFIX = re.compile(r"[^./\\]\.[A-Za-z][A-Za-z0-9]{1,4}$")
"""The end of a name like `out.xyz`. Versions, as in `v1.5`, are no suffixes."""

MOST_PROCESSES = 8
"""The most processes that share one GPU, unless the user asks for more."""

Announce = Callable[[str], None]
"""A function that receives a line of text before slow work starts, such as a download."""


def is_latent_name(name: str) -> bool:
    """True for a name that ends in `.dinac`."""
    return name.lower().endswith(LATENT_SUFFIX)


def looks_like_record(head: bytes) -> bool:
    """True if `head` is the start of a record."""
    return head.startswith(RECORD_START)


IMAGES = FileKind(
    "image", "images", is_image_name, looks_like_image, is_stamped_image, has_captions=True
)
LATENTS = FileKind("latent file", "latent files", is_latent_name, looks_like_record)


def keep_quiet(line: str) -> None:
    """An `Announce` that ignores the line."""


@dataclass(kw_only=True)
class Run:
    """A checked request with its model. A run can be started only once.

    `work` yields the results. `rename` turns the name of an input into the name of its output.
    `rename` is None if no output is named after an input. If `threads` is given, so many threads
    must compute in each process, because those that made OUT did.
    """

    work: Callable[[RunControl], Generator[FileResult, None, None]]
    selection: Selection | None = None
    output: Output | None = None
    rename: Callable[[str], str] | None = None
    threads: int | None = None

    @property
    def reads_stdin(self) -> bool:
        """Whether standard input is one of the inputs."""
        return self.selection is not None and self.selection.reads_stdin

    @property
    def not_inputs(self) -> int:
        """The number of files in the input folders that are not inputs.

        The number is final when all inputs are listed.
        """
        return 0 if self.selection is None else self.selection.scan.others

    def describe_list(self) -> Iterator[str]:
        """Yields what the user should know about a list of inputs."""
        return iter(()) if self.selection is None else self.selection.describe_list(self.output)

    def count(self, watch: Watch = ignore_phase) -> int | None:
        """Lists the first inputs, and checks that no two of them have the same output.

        Reports the phase `SCANNING` to `watch`. Returns the number of inputs, or None if it is
        unknown; `total` is known later. `start` need not wait for the count, but only a counted run
        finds an output that two inputs share. Raises UsageError.
        """
        if self.selection is None:
            return None
        return self.selection.count(self.output, self.rename, watch)

    @property
    def total(self) -> int | None:
        """The number of inputs; None as long as it is unknown."""
        return None if self.selection is None else self.selection.total

    def start(self, control: RunControl) -> Generator[FileResult, None, None]:
        """Starts the run and returns a generator, which yields each result as soon as it is final.

        `control.stdin` is needed if `reads_stdin` is true, and `control.stdout` if OUT is `-`. The
        caller's thread runs the model. Raises DinacError if the run as a whole cannot go on (model,
        device, full disk); then a new OUT without any output is removed.
        """
        if self.output is None:
            return self.work(control)
        self.output.open()
        return self._work_in(self.output, control)

    def _work_in(self, output: Output, control: RunControl) -> Generator[FileResult, None, None]:
        try:
            yield from self.work(control)
        except DinacError:
            output.remove_unused()
            raise


R = TypeVar("R", bound=Run, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Request(ABC, Generic[R]):
    """Everything that a run needs, as plain data.

    `workers` threads read, and `workers` other threads write (None: one per processor, at most 16).
    About `in_flight` images are in memory at once (None: 4 per worker). These two numbers never
    change a result.
    """

    workers: int | None = None
    in_flight: int | None = None

    command: ClassVar[str]
    """The name of the command, such as "encode"; progress lines start with it."""
    most_workers: ClassVar[int] = 16
    uses_model: ClassVar[bool] = True
    bounds_memory: ClassVar[bool] = False
    """Whether a run limits the memory of torch's caches. The limit costs some speed."""

    def __post_init__(self) -> None:
        """Raises UsageError if a limit is not positive."""
        _require_positive({"--workers": self.workers, "--batch-size": self.in_flight})

    @abstractmethod
    def open(self, announce: Announce = keep_quiet) -> R:
        """Checks the request and chooses its model. Raises UsageError, ModelError, OutputError."""

    def make_control(self, stop: StopRequest | None = None) -> RunControl:
        """Returns the limits of a run. The run ends early if `stop` is requested."""
        workers = self.workers or min(self.most_workers, count_processors())
        in_flight = self.in_flight or 4 * workers
        stop = StopRequest() if stop is None else stop
        return RunControl(workers=workers, in_flight=in_flight, stop=stop)


@dataclass(frozen=True, kw_only=True)
class ProcessRequest(Request[R]):
    """A request whose work several processes can share, each with its own model.

    `processes` processes do the work. If it is None, only the caller's process works on a CPU; on
    GPUs, there is one process per processor, but each GPU has at least one process, and at most
    `MOST_PROCESSES` or as many as fit into its memory. With several processes, `workers`
    counts the threads of each (None: the thread that runs the model also reads and writes). The
    number of processes never changes a result. `threads` threads compute in each process (None: the
    processors are divided between the processes; on one GPU, only the later processes have a part
    of the processors). The device of `model` may be `all`, or a list such as `cuda:0,cuda:1`.
    """

    model: DeviceChoice = field(default_factory=DeviceChoice)

    processes: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        """Raises UsageError if a limit is not positive."""
        super().__post_init__()
        _require_positive({"--processes": self.processes, "--threads": self.threads})

    @property
    def knows_processes(self) -> bool:
        """False if a cluster chooses the number of processes."""
        return True

    @property
    def can_divide(self) -> bool:
        """False if only the caller's process can do the work, whatever `processes` says."""
        return True

    def choose_device(self, announce: Announce) -> str:
        """Returns the first device of the run. Calls `announce` if the devices are unlike.

        Raises UsageError if there are fewer processes than devices. Raises DeviceError if one of
        several devices is missing.
        """
        devices = self._find_devices()
        if self.processes is not None and self.processes < len(devices):
            raise UsageError(
                f"--processes {self.processes}: {len(devices)} devices need at least as many "
                "processes; use more processes, or name fewer devices"
            )
        if len(devices) > 1:
            from dinac_cli.models.device import describe_unlike

            if unlike := describe_unlike(devices):
                announce(f"the devices differ: {unlike}; the bytes of their outputs may differ")
        return devices[0]

    def make_control(self, stop: StopRequest | None = None) -> RunControl:
        """Returns the limits of a run. The run ends early if `stop` is requested."""
        control, threads = super().make_control(stop), self.threads
        devices = self._find_devices()
        may_be_gpu = may_use_gpu(devices[0])
        fits_device = self.processes is None and self.can_divide and may_be_gpu
        processes = self._count_processes(len(devices), fits_device=fits_device)
        if processes > 1 and self.workers is None:
            limits = (control.workers, control.in_flight) if fits_device else None
            in_flight = self.in_flight or 4
            control = replace(control, workers=0, in_flight=in_flight, cpu_limits=limits)
        # If it turns out that there is no GPU, one process works alone, with all processors.
        may_be_alone = fits_device and len(devices) == 1
        if processes > 1 and threads is None and not may_be_alone:
            threads = divide_processors(processes)
        return replace(
            control,
            processes=processes,
            devices=devices if processes > 1 and len(devices) > 1 else (),
            fits_device=fits_device,
            threads=threads,
            bounds_memory=self.bounds_memory and not may_be_gpu,
        )

    def _count_processes(self, devices: int, *, fits_device: bool) -> int:
        """Returns the largest number of processes of a run on this number of devices."""
        if not self.can_divide:
            return 1
        if fits_device:
            return max(devices, min(MOST_PROCESSES * devices, count_processors()))
        return self.processes or devices

    def _find_devices(self) -> tuple[str, ...]:
        """Returns the devices of the run: only the first one if one process does the work."""
        devices = find_devices(self.model.device)
        return devices if self.can_divide else devices[:1]


def _require_positive(limits: Mapping[str, int | None]) -> None:
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise UsageError(f"{name} {limit}: expected 1 or more")


def run_request(request: Request[R]) -> Generator[FileResult, None, None]:
    """Opens a request, counts its inputs and starts the run. Shows nothing on the screen.

    Raises DinacError at once, before the first result, if the request as a whole is wrong.
    """
    run = request.open()
    run.count()
    return run.start(request.make_control())


@dataclass(frozen=True, kw_only=True)
class InputRequest:
    """The inputs as the user names them, and the limits on how many inputs a run takes.

    `paths` are files, folders, globs or `-`. `files_from` is a file that lists more inputs. If this
    list was already read from standard input, `listed` is its content. If `null` is set, the list
    is NUL-separated. The entries of the list are relative to `root`. `exclude` are patterns of
    files and folders to leave out; see `Exclusion`. `left_out` are folders whose files are no
    inputs. `shard` is `I/N` or `auto`. `limit` is the
    largest number of inputs.
    """

    paths: tuple[str, ...] = ()
    files_from: str | None = None
    listed: bytes | None = None
    null: bool = False
    root: str | None = None
    exclude: tuple[str, ...] = ()
    limit: int | None = None
    shard: str | None = None
    left_out: tuple[str, ...] = ()

    def select(self, kind: FileKind, out: str | None = None, *, checks: bool = False) -> Selection:
        """Returns the inputs of `kind`. `out` is None if the run writes nothing.

        With `checks`, folders of shards are checked; see `RecordFinder`. Raises UsageError if two
        fields contradict each other, if the only input does not exist, or if OUT is a URL.
        """
        if out == "" or "" in self.paths:
            place = "an input" if out is None else "an input or OUT"
            raise UsageError(f"{place} is an empty name; is a variable unset?")
        if self.files_from is None and (self.null or self.root is not None):
            raise UsageError("--null and --root need --files-from")
        if self.files_from == STDIN and STDIN in self.paths:
            raise UsageError(
                "standard input cannot be both an input and the list of inputs; "
                "save the list to a file"
            )
        if out is not None and is_url(out):
            raise UsageError(
                f"{hide_secrets(out)}: this command writes to local folders only; name one"
            )
        if out is not None and kind is LATENTS and holds_shards(out):
            raise UsageError(f"{out}: holds shards of latents; choose another OUT")
        listed = self._read_list()
        require_inputs(self.paths, listed, out)
        exclusion = Exclusion(self.exclude)
        finder = RecordFinder(exclusion, checks) if kind is LATENTS else None
        scan = InputScan(
            kind,
            self.paths,
            listed,
            self.null,
            self.root,
            out,
            exclusion,
            finder=finder,
            left_out=self.left_out,
        )
        shard = None if self.shard is None else parse_shard(self.shard, os.environ)
        selection = Selection(scan, shard, self.limit)
        selection.require_existing()
        return selection

    @property
    def whole_folders(self) -> tuple[str, ...] | None:
        """The local folders whose files are all the inputs; None if the inputs are others."""
        is_part = (self.files_from, self.shard, self.limit) != (None, None, None)
        return None if is_part or not all(map(os.path.isdir, self.paths)) else self.paths

    def _read_list(self) -> bytes | None:
        if self.files_from is None or self.listed is not None:
            return self.listed
        try:
            with open(self.files_from, "rb") as file:
                return file.read()
        except OSError as exc:
            raise UsageError(f"--files-from {self.files_from}: {describe_read_error(exc)}") from exc


def list_paths(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Returns one or several paths as text; see `name_path`."""
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    return tuple(map(name_path, paths))


def name_path(path: str | os.PathLike[str]) -> str:
    """Returns a path as text. Raises UsageError for `-`, which only the command line supports."""
    name = os.fspath(path)
    if name == STDIN:
        raise UsageError("-: only the command line can use standard input and output; name files")
    return name


@dataclass
class Selection:
    """The inputs that a run takes from a scan: at most `limit` inputs of its shard.

    Outputs that a run skips (see `Search`) are among them, but the limit does not count them. It
    does not count tars either: a run takes `limit` records out of them.
    """

    scan: InputScan
    shard: Shard | None = None
    limit: int | None = None
    _listing: Listing | None = field(default=None, init=False, repr=False, compare=False)
    _is_listed: bool = field(default=False, init=False, repr=False, compare=False)

    def __iter__(self) -> Iterator[Input]:
        if self._listing is not None and self._is_listed:
            self._is_listed = False
            return iter(self._listing)
        return self._list()

    def _list(self) -> Iterator[Input]:
        tars = itertools.count()
        chosen = (entry for entry in self.scan if self._is_mine(entry, tars))
        return chosen if self.limit is None else _take(chosen, self.limit)

    def _is_mine(self, entry: Input, tars: Iterator[int]) -> bool:
        """True if an input belongs to the shard. Of tars, it takes every Nth, as encode does."""
        if self.shard is None:
            return True
        if entry.is_archive:
            return next(tars) % self.shard.count == self.shard.index
        return self.shard.holds(entry.name)

    @property
    def reads_stdin(self) -> bool:
        """True if standard input is one of the inputs."""
        return STDIN in self.scan.paths

    def describe_list(self, output: Output | None) -> Iterator[str]:
        """Yields what the user should know about a list of inputs."""
        if self.scan.has_empty_list:
            yield "the list of --files-from names nothing"
        if output is not None and self.scan.keeps_whole_paths:
            yield (
                "the list holds absolute paths: records and the names in OUT hold whole paths; "
                "--root DIR makes them relative to DIR"
            )

    def require_existing(self) -> None:
        """Raises UsageError if there is no input, or if the only input does not exist."""
        first = list(itertools.islice(iter(self), 2))
        if not first:
            self._require_found()
        elif len(first) == 1 and first[0].problem and not self.scan.finds_shards:
            raise UsageError(f"{first[0].label}: {first[0].problem}")

    def count(
        self,
        output: Output | None = None,
        rename: Callable[[str], str] | None = None,
        watch: Watch = ignore_phase,
    ) -> int | None:
        """Lists the first inputs; see `Listing`. The next iteration takes them from this list.

        `rename` turns the name of an input into the name of its output (None: no output is named
        after its input). Returns the number of inputs, or None if it is unknown: the list is not
        complete, or standard input may hold several records. Raises UsageError if there is no
        input, or if two of the first inputs would have the same output.
        """
        names_outputs = output is not None and not output.is_stream
        self._listing = Listing(
            self._list(),
            rename if names_outputs else None,
            fold_case=output is not None and names_outputs and output.folds_case,
        )
        self._listing.list_first(watch)
        self._is_listed = True
        if self._listing.total == 0:
            self._require_found()
        return self.total

    @property
    def total(self) -> int | None:
        """The number of records or images; None if it is unknown."""
        total = None if self._listing is None or self.reads_stdin else self._listing.total
        return total if total is None or self.limit is None else min(total, self.limit)

    def list_all(self) -> Iterator[Input] | None:
        """Yields all inputs, if `count` has listed them all and no iteration has taken them.

        Returns None if there are more, or if a limit or a shard leaves out some.
        """
        is_part = self.limit is not None or self.shard is not None
        if self._listing is None or self._listing.total is None or is_part:
            return None
        return self._listing.list_waiting()

    def __getstate__(self) -> dict[str, object]:
        """Another process lists the inputs itself."""
        return {**vars(self), "_listing": None, "_is_listed": False}

    def _require_found(self) -> None:
        if self.shard is not None and next(iter(Selection(self.scan)), None) is not None:
            return  # an empty shard is valid if other shards have inputs
        scan = self.scan
        if next(iter(scan), None) is not None:
            return
        if not scan.paths and scan.has_empty_list:
            raise UsageError(
                "the list of --files-from names nothing; check the command that made it"
            )
        places = ", ".join(map(hide_secrets, scan.paths)) or "the list"
        if scan.excluded:
            raise UsageError(
                f"no {scan.kind.plural} found in {places}, apart from what --exclude leaves out; "
                "check its patterns"
            )
        if scan.set_aside:
            raise UsageError(
                f"no {scan.kind.plural} found in {places}, apart from files in "
                f"{', '.join(scan.left_out)}, which are never inputs; name others"
            )
        raise UsageError(f"no {scan.kind.plural} found in {places}{_describe_others(scan)}")


def _take(entries: Iterator[Input], limit: int) -> Iterator[Input]:
    """Yields entries until `limit` of them are inputs, and not outputs that a run skips."""
    taken = 0
    while taken < limit and (entry := next(entries, None)) is not None:
        is_skipped = entry.search is not None and entry.search.skips(entry)
        taken += not (is_skipped or entry.is_archive)
        yield entry


def advise_on_images(archive: str | None) -> str | None:
    """Says how to encode an archive that was found in a folder; None if there is none."""
    return None if archive is None else f"name the archives in it, such as {hide_secrets(archive)}"


def _advise_on_records(archive: str | None) -> str:
    """Says how to read a folder without loose records, in which an archive may be."""
    if archive is None or not archive.lower().endswith(".tar"):
        return "run dinac encode first"
    if is_url(archive) or begins_with_record(archive):
        return f"name the tars in it, such as {hide_secrets(archive)}"
    return f"the tars in it, such as {archive}, hold no records; name the OUT of dinac encode"


def _describe_others(scan: InputScan) -> str:
    """Says which files a scan found that are not of its kind, and what to do."""
    if scan.kind is LATENTS:
        other, hint = IMAGES, "run dinac encode first and name its OUT"
        advice = _advise_on_records(scan.first_archive)
    else:
        other, hint = LATENTS, "name the images, or use dinac decode"
        advice = advise_on_images(scan.first_archive) or "name image files or folders"
    others = replace(scan, kind=other, finder=None) if scan.others else ()
    holds_latents = scan.kind is IMAGES and any(map(holds_shards, scan.paths))
    if holds_latents or any(not entry.problem for entry in others):
        return f", only {other.plural}; {hint}"
    files = "1 other file" if scan.others == 1 else f"{scan.others} other files"
    return f"{f' ({files})' if scan.others else ''}; {advice}"


def choose_output_kind(out: str, scan: InputScan, suffixes: tuple[str, ...]) -> OutputKind:
    """Returns the kind of OUT: `-`, a folder or a file.

    OUT is a file if the input is one file and OUT ends in one of `suffixes`. Raises UsageError if
    OUT must be a folder but is an existing file. Also raises UsageError if OUT is named like a file
    that dinac does not write here. Such an OUT is probably the last input, or its format is not
    supported. If the input is one file, every new OUT with a suffix is named like a file; otherwise
    only an OUT with the suffix of an image or of `_FILE_SUFFIXES`.
    """
    if out == STDOUT:
        return OutputKind.STREAM
    if os.path.isdir(out):
        return OutputKind.FOLDER
    if scan.single_file and out.lower().endswith(suffixes):
        return OutputKind.FILE
    if os.path.lexists(out):
        raise UsageError(
            f"{out}: OUT, the last argument, is an existing file and not a folder; "
            "name an output folder after the inputs"
        )
    if out.lower().endswith(suffixes):
        raise UsageError(
            f"{out}: OUT, the last argument, is named like a file, but the input is not one "
            f"file; name a folder ({out}/ if this is one)"
        )
    looks_like_file = scan.single_file and _FILE_SUFFIX.search(out) is not None
    if looks_like_file or _is_name_of_other_file(out, suffixes):
        file = f" or a file that ends in {', '.join(suffixes)}" if scan.single_file else ""
        raise UsageError(
            f"{out}: OUT, the last argument, is named like a file that is not written here; "
            f"name a folder ({out}/ if this is one){file}"
        )
    return OutputKind.FOLDER


def refuse_file_name(out: str) -> None:
    """OUT must be a folder here. Raises UsageError if OUT is named like a file."""
    if not os.path.isdir(out) and _is_name_of_other_file(out):
        raise UsageError(
            f"{hide_secrets(out)}: OUT, the last argument, is named like a file, but must be a "
            f"folder here; write {hide_secrets(out)}/ if this is a folder"
        )


def _is_name_of_other_file(out: str, suffixes: tuple[str, ...] = ()) -> bool:
    return not out.lower().endswith((*suffixes, "/", os.sep)) and (
        is_image_name(out) or out.lower().endswith(_FILE_SUFFIXES)
    )
