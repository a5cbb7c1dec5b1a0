"""Images to latent records."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.codec.records import Source, build_record
from dinac_cli.container.frame import RECORD_START
from dinac_cli.container.tensors import CLASS_TOKEN, LOGSNR, Encoded
from dinac_cli.errors import InputError
from dinac_cli.images.formats import MAX_PIXELS
from dinac_cli.images.geometry import NO_GEOMETRY, Geometry
from dinac_cli.images.pixels import Pixels, mirror_pixels
from dinac_cli.images.reading import WHITE, SourceImage, read_shaped
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.job import Computing, Job, Made, Work, deliver
from dinac_cli.jobs.executor.local import run_job
from dinac_cli.jobs.freshness import State, Verdict, WantedLatents, check_latents
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.content import Content, read_content, read_stream_content
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.naming import name_latents
from dinac_cli.storage.output import Output, OutputKind

if TYPE_CHECKING:
    from dinac_cli.codec.engine import Engine


@dataclass(frozen=True)
class Twins:
    """What came of one image, and of the same one mirrored, where that was encoded too."""

    upright: Encoded
    flipped: Encoded | None = None


def submit_with_twins(
    engine: Engine,
    images: Sequence[Pixels],
    flips: Sequence[bool],
    *,
    logsnr: bool = False,
    class_token: bool = False,
) -> Computing[Twins]:
    """Encode uint8 images [H, W, 3] of one padded size and, where `flips` says so, their twins.

    `logsnr` and `class_token` ask of both what they ask of `Engine.submit_images`. The twins are a
    micro-batch of their own, of the same shape, so that no image comes out otherwise because there
    are twins. Raises ImageError where the device lacks memory.
    """

    def submit(pixels: Sequence[Pixels]) -> Computing[Encoded]:
        return engine.submit_images(pixels, logsnr=logsnr, class_token=class_token)

    upright = submit(images)
    mirrored = [mirror_pixels(p) for p, flip in zip(images, flips, strict=True) if flip]
    return _TwinBatches(upright, submit(mirrored) if mirrored else None, flips)


@dataclass(frozen=True)
class _TwinBatches:
    """Two micro-batches under way as one."""

    upright: Computing[Encoded]
    mirrored: Computing[Encoded] | None
    flips: Sequence[bool]

    @property
    def is_done(self) -> bool:
        """Whether `result` returns at once."""
        return self.upright.is_done and (self.mirrored is None or self.mirrored.is_done)

    def result(self) -> list[Twins]:
        """What came of each image, when it is there. Raises DeviceError."""
        twins = iter(() if self.mirrored is None else self.mirrored.result())
        return [
            Twins(encoded, next(twins) if flip else None)
            for encoded, flip in zip(self.upright.result(), self.flips, strict=True)
        ]


@dataclass(frozen=True)
class EncodeOptions:
    """How images become records.

    `precision` is one of `container.PRECISIONS`, `background` the sRGB colour below alpha,
    `max_pixels` the largest image that is read; `checksum` compares sources by hash always;
    `anonymous` leaves out of records where they come from; `features` and `posterior` store the
    class token and the log-SNR beside the latents; `geometry` is what images are scaled and
    cropped to, and whether each gets a mirrored twin.
    """

    precision: str = "bf16"
    background: tuple[int, int, int] = WHITE
    max_pixels: int = MAX_PIXELS
    checksum: bool = False
    anonymous: bool = False
    features: bool = False
    posterior: bool = False
    geometry: Geometry = NO_GEOMETRY

    @property
    def background_name(self) -> str:
        """`#rrggbb`."""
        red, green, blue = self.background
        return f"#{red:02x}{green:02x}{blue:02x}"

    @property
    def companions(self) -> frozenset[str]:
        """The tensors that go into records beside the latents."""
        asked = {LOGSNR: self.posterior, CLASS_TOKEN: self.features}
        return frozenset(name for name, is_asked in asked.items() if is_asked)

    def want(self, model: ModelHandle) -> WantedLatents:
        """What a record must be that is there already."""
        return WantedLatents(
            model,
            self.precision,
            self.background_name,
            self.anonymous,
            self.companions,
            self.geometry,
        )


def encode_files(
    inputs: Iterable[Input],
    output: Output,
    model: ModelHandle,
    options: EncodeOptions,
    control: RunControl,
    *,
    stdin: BinaryIO | None = None,
    stdout: BinaryIO | None = None,
) -> Generator[FileResult, None, None]:
    """Encode every input; yields one result a file as soon as it is final.

    The model is loaded when the first image needs it, so a run that finds everything done does
    without. With `output` a stream, records go to `stdout` in the order of the inputs. Raises
    DinacError where the run as a whole cannot go on (model, device, full disk).
    """
    model.check(options.precision)
    job = EncodeJob(output, model, options, stdin)
    return run_job(job, inputs, control, stdout if output.kind is OutputKind.STREAM else None)


@dataclass(frozen=True)
class _ReadImage(Work):
    name: str
    image: SourceImage
    source: Source
    redo_reason: str | None


class EncodeJob(Job[Input, _ReadImage, Twins]):
    """What `encode_files` does with each image."""

    def __init__(
        self,
        output: Output,
        model: ModelHandle,
        options: EncodeOptions,
        stdin: BinaryIO | None = None,
    ) -> None:
        self._output = output
        self._model = model
        self._options = options
        self._stdin = stdin
        self._wanted = options.want(model)

    def read(self, entry: Input, hold: Callable[[int], None]) -> _ReadImage | FileResult:
        if entry.problem:
            raise InputError(entry.problem)
        verdict = self._judge(entry)
        if verdict.state is State.DONE:
            target = self._output.locate(name_latents(entry.name))
            return FileResult(entry.label, Status.DONE, output=target)
        content = self._read_content(entry)
        if content.data.startswith(RECORD_START):
            raise InputError("a latent record, not an image: decode makes an image of it")
        image = read_shaped(
            content.data,
            hold,
            background=self._options.background,
            max_pixels=self._options.max_pixels,
            geometry=self._options.geometry,
        )
        height, width, _ = image.pixels.shape
        patch = self._model.config.patch_size
        source = Source(
            entry.name, len(content.data), content.sha256, image.description, height, width
        )
        group = (-(-height // patch) * patch, -(-width // patch) * patch)
        held_bytes = len(content.data) + image.pixels.nbytes
        return _ReadImage(entry.label, group, held_bytes, entry.name, image, source, verdict.reason)

    def batch_size(self, group: Hashable) -> int:
        assert isinstance(group, tuple)
        return self._model.engine.batch_size(*group)

    def submit(self, batch: list[_ReadImage]) -> Computing[Twins]:
        engine = self._model.engine
        engine.check_size(batch[0].source.height, batch[0].source.width)
        return submit_with_twins(
            engine,
            [work.image.pixels for work in batch],
            [self._options.geometry.flip] * len(batch),
            logsnr=self._options.posterior,
            class_token=self._options.features,
        )

    def finish(self, work: _ReadImage, computed: Twins) -> Made:
        record = build_record(
            work.source,
            computed.upright,
            self._model,
            self._model.engine.compute,
            self._options.precision,
            anonymous=self._options.anonymous,
            flipped=computed.flipped,
        )
        result = FileResult(
            work.label,
            Status.WRITTEN,
            reason=work.redo_reason,
            warnings=work.image.warnings,
            width=work.source.width,
            height=work.source.height,
            bytes_in=work.source.size_bytes,
            bytes_out=len(record),
        )
        return deliver(self._output, name_latents(work.name), record, result)

    def _judge(self, entry: Input) -> Verdict:
        """What is to be done about the output that may be there already."""
        if self._output.kind is OutputKind.STREAM or self._output.overwrite:
            return Verdict(State.ABSENT)
        target = self._output.locate(name_latents(entry.name))
        self._output.prepare(target)
        return check_latents(target, entry.path, self._wanted, checksum=self._options.checksum)

    def _read_content(self, entry: Input) -> Content:
        if entry.path is not None:
            return read_content(entry.path)
        assert self._stdin is not None, "a run that reads standard input is given it"
        return read_stream_content(self._stdin)
