"""Every argument and option, its help and its default, spelled once."""

# No `from __future__ import annotations`: Typer reads these annotations at run time.

import math
import os
import re
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from dinac_cli.container.header import PRECISIONS
from dinac_cli.errors import UsageError
from dinac_cli.files.output import OutputKind
from dinac_cli.images.formats import OUTPUT_FORMATS, OutputFormat, format_of_suffix
from dinac_cli.model.config import SCHEDULES

_INPUTS, _MODEL, _RUN, _REPORTS = "Inputs", "Model and device", "Run", "Screen and reports"

MAX_PIXELS = 178_956_970
"""Default of --max-pixels, Pillow's own limit."""

_MODELS = ("auto", "nano", "d2", "dinac-ae")
_DEVICES = ("auto", "cpu", "cuda", "mps")
_DTYPES = ("auto", "bf16", "f32")


def _complete(values: tuple[str, ...]) -> Callable[[str], list[str]]:
    """A completer that offers `values`."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def _one_of(name: str, values: tuple[str, ...]) -> Callable[[str], str]:
    """A check that refuses everything but `values` (`-` and `_` alike)."""

    def check(value: str) -> str:
        for known in values:
            if value.replace("-", "_") == known.replace("-", "_"):
                return known
        raise UsageError(f"{name} {value}: choose one of {', '.join(values)}")

    return check


def _check_batch_size(value: str) -> str:
    parse_batch_size(value)
    return value


def _check_device(value: str) -> str:
    """Refuse what names no device; whether it is there, only torch can tell."""
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value) is None:
        raise UsageError(f"--device {value}: choose one of auto, cpu, cuda, cuda:N, mps")
    return value


def _within(
    name: str, holds: Callable[[float], bool], wanted: str
) -> Callable[[float | None], float | None]:
    """A check that refuses numbers for which `holds` is false; None, a default, passes."""

    def check(value: float | None) -> float | None:
        if value is not None and not holds(value):
            raise UsageError(f"{name} {value}: expected {wanted}")
        return value

    return check


def parse_color(text: str) -> tuple[int, int, int]:
    """`white`, `black`, `gray` or `#rrggbb` as (red, green, blue), 0 to 255 each."""
    named = {"white": "ffffff", "black": "000000", "gray": "808080", "grey": "808080"}
    digits = named.get(text.lower(), text.removeprefix("#"))
    try:
        value = bytes.fromhex(digits)
    except ValueError:
        value = b""
    if len(value) != 3:
        raise UsageError(f"--background {text}: expected white, black, gray or #rrggbb")
    return value[0], value[1], value[2]


def parse_batch_size(text: str) -> int | None:
    """A positive number, or None for `auto`."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UsageError(f"--batch-size {text}: expected a positive number or auto")
    return int(text)


def choose_format(name: str | None, out: str, kind: OutputKind) -> OutputFormat:
    """The image format of a decode: `--format`, else what OUT's suffix says, else PNG.

    Raises UsageError where the two disagree or the name is unknown.
    """
    by_suffix = format_of_suffix(out) if kind is OutputKind.FILE else None
    if name is None:
        return by_suffix or OUTPUT_FORMATS["png"]
    chosen = OUTPUT_FORMATS.get(name.lower()) or format_of_suffix(f"x.{name}")
    if chosen is None:
        raise UsageError(f"--format {name}: choose one of {', '.join(OUTPUT_FORMATS)}")
    if by_suffix not in (None, chosen):
        raise UsageError(f"--format {name} contradicts the suffix of {out}: leave one of them out")
    return chosen


def count_processors() -> int:
    """Processors this process may use: affinity and, on Linux, the control group's quota."""
    if sys.platform == "linux":
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        if quota != "max":
            count = min(count, round(int(quota) / int(period)))
    except (OSError, ValueError):
        pass
    return max(1, count)


Images = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMG",
        show_default=False,
        help="Image files, folders (all images below them), quoted globs, or - for one image on "
        "standard input.",
    ),
]
Latents = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="LATENTS",
        show_default=False,
        help="Latent files, folders (all latent files below them), quoted globs, or - for records "
        "on standard input.",
    ),
]
EncodeOut = Annotated[
    str,
    typer.Argument(
        metavar="OUT",
        help="The last argument: a folder, a .dinac file (for one input file), or - for standard "
        "output.",
    ),
]
DecodeOut = Annotated[
    str,
    typer.Argument(
        metavar="OUT",
        help="The last argument: a folder, an image file (for one input file), or - for one image "
        "on standard output.",
    ),
]
FilesFrom = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        rich_help_panel=_INPUTS,
        help="Also take the inputs that this file lists, one a line; - is standard input.",
    ),
]
Null = Annotated[
    bool,
    typer.Option("--null", rich_help_panel=_INPUTS, help="Entries of --files-from end in NUL."),
]
Root = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        rich_help_panel=_INPUTS,
        help="What entries of --files-from are relative to; absolute ones need it.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", rich_help_panel=_INPUTS, help="Take the first N inputs only."),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        rich_help_panel=_INPUTS,
        help="Do part I (from 0) of N, chosen by name; auto: from torchrun's or Slurm's variables.",
    ),
]
Background = Annotated[
    str,
    typer.Option(
        metavar="COLOR",
        rich_help_panel=_INPUTS,
        help="What transparent images are laid on: white, black, gray or #rrggbb.",
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", rich_help_panel=_INPUTS, help="Refuse images of more pixels than this."
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="P",
        callback=_one_of("--precision", PRECISIONS),
        autocompletion=_complete(PRECISIONS),
        help="How latents are stored: f32 (exact), bf16, or q8 to q3 (quantised, ever smaller).",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        envvar="DINAC_MODEL",
        metavar="MODEL",
        rich_help_panel=_MODEL,
        autocompletion=_complete(_MODELS),
        help="nano (embedded), d2, dinac-ae, a Hub repository, a folder or a .safetensors file; "
        "auto: that of the latents, else nano on a CPU and d2 on a GPU.",
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(metavar="REV", rich_help_panel=_MODEL, help="Branch, tag or commit on the Hub."),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        rich_help_panel=_MODEL,
        callback=_check_device,
        autocompletion=_complete(_DEVICES),
        help="auto, cpu, cuda, cuda:N or mps; one that is absent is an error.",
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        metavar="DTYPE",
        rich_help_panel=_MODEL,
        callback=_one_of("--dtype", _DTYPES),
        autocompletion=_complete(_DTYPES),
        help="bf16 or f32; auto: bf16 where the hardware multiplies it.",
    ),
]
BatchSize = Annotated[
    str,
    typer.Option(
        metavar="N",
        rich_help_panel=_RUN,
        callback=_check_batch_size,
        help="Images in memory at once, or auto; never changes a result.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        rich_help_panel=_RUN,
        show_default="one a processor",
        help="Threads that read, and threads that write.",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        rich_help_panel=_RUN,
        help="Replace whatever stands where an output goes, and redo what is done.",
    ),
]
Checksum = Annotated[
    bool,
    typer.Option(
        "--checksum",
        rich_help_panel=_RUN,
        help="Tell changed sources by their hash, not by size and time.",
    ),
]
Fsync = Annotated[
    bool,
    typer.Option(
        "--fsync", rich_help_panel=_RUN, help="Force each output to the disk before the next step."
    ),
]
FailFast = Annotated[
    bool,
    typer.Option("--fail-fast", rich_help_panel=_RUN, help="Stop at the first file that fails."),
]
Failures = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", rich_help_panel=_REPORTS, help="Write failed files here, as JSON lines."
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        rich_help_panel=_REPORTS,
        help="JSON lines on stdout: one object a file, a summary last.",
    ),
]
PsnrJson = Annotated[
    bool,
    typer.Option("--json", rich_help_panel=_REPORTS, help="One JSON object on stdout."),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", rich_help_panel=_REPORTS, help="Say nothing but errors."),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", rich_help_panel=_REPORTS, help="Name every file; full errors."),
]
Steps = Annotated[
    int,
    typer.Option(
        "--steps", "-n", min=1, metavar="N", help="Decoder evaluations (NFE); 1 is best for PSNR."
    ),
]
Sampler = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        callback=_one_of("--sampler", ("ddim", "dpmpp-2m")),
        autocompletion=_complete(("ddim", "dpmpp-2m")),
        help="ddim or dpmpp-2m.",
    ),
]
Schedule = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        callback=_one_of("--schedule", SCHEDULES),
        autocompletion=_complete(SCHEDULES),
        help="Spacing of the times: linear or cosine.",
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        metavar="G",
        show_default="off",
        callback=_within("--guidance", math.isfinite, "a finite number"),
        help="Path-drop guidance of this strength; doubles the work.",
    ),
]
Strength = Annotated[
    float,
    typer.Option(
        metavar="S",
        callback=_within("--strength", lambda value: 0 < value <= 1, "more than 0, at most 1"),
        help="Scale of the times, above 0 to 1; 1 is full noise.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        metavar="N",
        callback=_within(
            "--seed", lambda value: -(2**63) <= value < 2**64, "an integer of 64 bits"
        ),
        help="Seed of the noise.",
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        metavar="NAME",
        show_default="png, or what OUT's suffix says",
        autocompletion=_complete(tuple(OUTPUT_FORMATS)),
        help=f"Image format: {', '.join(OUTPUT_FORMATS)}.",
    ),
]
AllowOtherModel = Annotated[
    bool,
    typer.Option(
        "--allow-other-model",
        rich_help_panel=_MODEL,
        help="Decode latents of another model all the same, where the shape fits.",
    ),
]
PsnrFirst = Annotated[
    str, typer.Argument(metavar="A", help="The originals: a folder, or one image.")
]
PsnrSecond = Annotated[
    str, typer.Argument(metavar="B", help="The reconstructions: a folder, or one image.")
]
DemoFolder = Annotated[str, typer.Argument(metavar="[DIR]", help="Where the demo puts its files.")]
TrainOut = Annotated[
    str, typer.Argument(metavar="OUT", help="The last argument: the checkpoint folder to make.")
]
Init = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        autocompletion=_complete(("nano", "d2", "klt")),
        help="Where to start: a model as --model takes it, or klt, the linear optimum of IMG.",
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(min=0.01, metavar="M", help="How long to train; the learning rate ends at zero."),
]
TrainSteps = Annotated[
    int | None,
    typer.Option("--steps", min=1, metavar="N", help="How many steps to train, instead."),
]
TrainBatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, metavar="N", help="Crops a step.")
]
Crop = Annotated[
    int,
    typer.Option(
        min=32, metavar="PIXELS", help="Side of a crop; images smaller than that are left out."
    ),
]
TrainSeed = Annotated[
    int,
    typer.Option("--seed", min=0, metavar="N", help="Seed of all that is random in training."),
]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="Compile the network first; pays in runs of several minutes."),
]
