"""The arguments and options that several commands share."""

# No `from __future__ import annotations`: Typer reads these annotations at run time.

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dinac_cli.codec.compute import DTYPE_CHOICES, check_device
from dinac_cli.commands.parser import MissingArgumentError
from dinac_cli.commands.values import (
    check_workers,
    choices,
    complete,
    count_or_auto,
    from_variable,
    note_command_line,
    note_verbose,
    parse_crop,
    parse_crop_choice,
    parse_keep,
    parse_prune,
    parse_side,
    whole,
)
from dinac_cli.container.header import PRECISIONS
from dinac_cli.errors import UsageError
from dinac_cli.images.buckets import DEFAULT_STEP
from dinac_cli.images.damage import DAMAGE_CHOICES
from dinac_cli.images.geometry import MAX_SIDE
from dinac_cli.images.hdr import HDR_CHOICES
from dinac_cli.models.aliases import AUTO, HUB_ALIASES, NANO

if TYPE_CHECKING:
    from dinac_cli.jobs.executor.cluster import Cluster

# Each function makes options for one panel of the help.
input_option = partial(typer.Option, rich_help_panel="Inputs")
geometry_option = partial(typer.Option, rich_help_panel="Geometry")
model_option = partial(typer.Option, rich_help_panel="Model and device")
run_option = partial(typer.Option, rich_help_panel="Run")
shard_option = partial(typer.Option, rich_help_panel="Shards")
report_option = partial(typer.Option, rich_help_panel="Screen and reports")


def split_out(
    paths: list[str] | None, last: str | None, out: str | None, files_from: str | None = None
) -> tuple[list[str], str]:
    """Returns the inputs and OUT.

    OUT is the option `out`, or else the `last` argument. If the option is given, the last argument
    is an input. Raises MissingArgumentError without OUT, UsageError for the option without inputs.
    """
    inputs = list(paths or ())
    if out is None:
        if last is None:
            raise MissingArgumentError("OUT")
        return inputs, last
    if last is not None:
        inputs.append(last)
    if not inputs and files_from is None:
        raise UsageError(f"no input: name files or folders beside --out {out}")
    return inputs, out


def refuse_without(needed: str, values: Mapping[str, object]) -> None:
    """Raises UsageError if an option that needs another one is given without it."""
    for name, value in values.items():
        if value is not None:
            raise UsageError(f"{name} needs {needed}; add it, or leave out {name}")


def choose_cluster(
    engine: str, address: str | None, processes_per_gpu: int | None, cpus_per_process: int | None
) -> "Cluster":
    """Returns the cluster of a run. Raises UsageError if an option needs --engine ray."""
    from dinac_cli.jobs.executor.cluster import Cluster

    if engine != "ray":
        refuse_without(
            "--engine ray",
            {
                "--address": address,
                "--processes-per-gpu": processes_per_gpu,
                "--cpus-per-process": cpus_per_process,
            },
        )
    return Cluster(
        address=address,
        processes_per_gpu=processes_per_gpu or 4,
        cpus_per_process=cpus_per_process,
    )


def follow(default: str) -> str:
    """Describes the default of an option that follows OUT."""
    return f"what OUT holds, else {default}"


# Inputs

Images = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMG",
        show_default=False,
        help="Image files, folders (all images below them), quoted globs, tars or parquet files of "
        "images, URLs of all these, or - for one image on standard input.",
    ),
]
Latents = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="LATENTS",
        show_default=False,
        help="Latent files, tars of them, folders (all latent files or shards below them), quoted "
        "globs, URLs of all these, or - for records on standard input.",
    ),
]
OutOption = Annotated[
    str | None,
    typer.Option(
        "--out",
        "-o",
        metavar="OUT",
        help="Write to this OUT; then all arguments are inputs.",
    ),
]
FilesFrom = Annotated[
    str | None,
    input_option(
        metavar="LIST",
        help="Also take the inputs that this file lists, one per line; - is standard input.",
    ),
]
Null = Annotated[
    bool, input_option("--null", help="The entries of the list end with NUL, as in find -print0.")
]
Root = Annotated[
    str | None,
    input_option(
        metavar="DIR",
        help="Base folder of the paths in --files-from. Without it, names of absolute paths are "
        "whole paths.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    input_option(
        "--exclude",
        metavar="PATTERN",
        help="Leave out files and folders that match, as in .gitignore: '*.tmp', 'thumbnails/', "
        "'/top.png', '!keep.tmp'. Repeat this option for more patterns.",
    ),
]
Limit = Annotated[
    int | None,
    input_option(
        parser=whole("--limit", 1),
        metavar="N",
        help="Take only the first N inputs, or the first N shards.",
    ),
]
ShardOption = Annotated[
    str | None,
    input_option(
        "--shard",
        metavar="I/N",
        help="Split the inputs by name, or the shards, into N parts, numbered from 0, and take "
        "only part I; auto: the variables of torchrun or Slurm give I and N.",
    ),
]
Background = Annotated[
    str,
    input_option(
        metavar="COLOR", help="Colour behind transparent images: white, black, gray or #rrggbb."
    ),
]
EncodeBackground = Annotated[
    str | None,
    input_option(
        "--background",
        metavar="COLOR",
        show_default=follow("white"),
        help="Colour behind transparent images: white, black, gray or #rrggbb. Followed only if "
        "the first latents in OUT are of a transparent image.",
    ),
]
_HDR_HELP = (
    "HDR images (PQ and HLG): refuse; clip: clip what is brighter than white; tonemap: compress "
    "bright tones."
)
Hdr = Annotated[
    str, input_option("--hdr", metavar="H", **choices("--hdr", HDR_CHOICES), help=_HDR_HELP)
]
EncodeHdr = Annotated[
    str | None,
    input_option(
        "--hdr",
        metavar="H",
        show_default=follow("refuse"),
        **choices("--hdr", HDR_CHOICES),
        help=f"{_HDR_HELP} Followed only if the first latents in OUT are of an HDR image.",
    ),
]
_damaged = partial(
    input_option, "--damaged", metavar="MODE", **choices("--damaged", DAMAGE_CHOICES)
)
Damaged = Annotated[
    str,
    _damaged(help="Damaged images: fail counts them as failed, warn reads what is left of them."),
]
EncodeDamaged = Annotated[
    str | None,
    _damaged(
        show_default=follow("fail"),
        help="Damaged images: fail counts them as failed, warn encodes what is left of them. "
        "Followed only if the first latents in OUT are of a damaged image.",
    ),
]
MaxPixels = Annotated[
    int,
    input_option(
        parser=whole("--max-pixels", 1, wanted="1 pixel or more"),
        metavar="N",
        help="Refuse images of more than N pixels.",
    ),
]

# What encode makes

EncodeOut = Annotated[
    str | None,
    typer.Argument(
        metavar="OUT",
        help="The last argument: a folder, a URL (for shards), a .dinac file (for one input file), "
        "or - for standard output.",
    ),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="P",
        show_default=follow("bf16"),
        **choices("--precision", PRECISIONS),
        help="How latents are stored (the figures are of nano, on photographs).\n\n\b\n"
        "P     bits/pixel  dB lost\n"
        "f32         14.5     0\n"
        "bf16         5.3     0\n"
        "q8           3.0     0.02\n"
        "q7           2.7     0.05\n"
        "q6           2.4     0.10\n"
        "q5           2.2     0.20\n"
        "q4           1.8     0.48\n"
        "q3           1.5     0.98",
    ),
]
Anonymous = Annotated[
    bool | None,
    typer.Option(
        "--anonymous/--no-anonymous",
        show_default=follow("--no-anonymous"),
        help="Do not store the name, size and hash of the source.",
    ),
]
StoreFeatures = Annotated[
    bool | None,
    typer.Option(
        "--features/--no-features",
        show_default=follow("--no-features"),
        help="Also store the DINO class token; needs a model with a class head, such as d2.",
    ),
]
StorePosterior = Annotated[
    bool | None,
    typer.Option(
        "--posterior/--no-posterior",
        show_default=follow("--no-posterior"),
        help="Also store the posterior's log-SNR; it is needed to sample latents.",
    ),
]
KeepMask = Annotated[
    bool | None,
    typer.Option(
        "--mask/--no-mask",
        show_default=follow("--no-mask"),
        help="Also store the alpha channel as a mask: how much each latent position counts.",
    ),
]
MaskFolder = Annotated[
    str | None,
    typer.Option(
        "--masks",
        metavar="DIR",
        help="Also store masks from the files in DIR with the names of the images, such as a.png "
        "for a.jpg: white counts, black does not. Files in DIR are never inputs.",
    ),
]

# Geometry


def _side(name: str, help: str) -> Any:
    parser = whole(name, 1, MAX_SIDE, f"1 to {MAX_SIDE} pixels")
    return geometry_option(name, parser=parser, metavar="N", help=help)


_encode_geometry = partial(geometry_option, show_default=follow("none"))

# Typer has no type for a number or a word, and would read `tuple[int, int]` as two words.
Resize = Annotated[
    Any,
    _encode_geometry(
        "--resize",
        metavar="N",
        parser=parse_side("--resize"),
        help="Scale each image, up or down, so that its short side has N pixels; none: do not "
        "scale.",
    ),
]
Upscale = Annotated[
    bool | None,
    geometry_option(
        "--upscale/--no-upscale",
        show_default=follow("--upscale"),
        help="With --resize: also scale up, or only scale down. With --buckets: scale small "
        "images up, or fail; the default is --no-upscale.",
    ),
]
MaxSide = Annotated[
    Any,
    _encode_geometry(
        "--max-side",
        metavar="N",
        parser=parse_side("--max-side"),
        help="Scale larger images down, so that no side has more than N pixels; none: do not "
        "scale.",
    ),
]
CropSize = Annotated[
    Any,
    _encode_geometry(
        "--crop",
        metavar="WxH",
        parser=parse_crop_choice,
        help="After scaling, keep the central W x H pixels; N means N x N; none: do not crop.",
    ),
]
BucketArea = Annotated[
    str | None,
    _encode_geometry(
        "--buckets",
        metavar="AREA[:STEP]",
        help="Aspect-ratio buckets, such as 1024x1024:64: scale each image to cover the size with "
        "the nearest aspect ratio, and keep the centre. Sides are multiples of STEP (default "
        f"{DEFAULT_STEP}) pixels; no size has more pixels than AREA; none: no buckets.",
    ),
]
BucketMin = Annotated[
    int | None,
    geometry_option(
        "--bucket-min",
        parser=whole("--bucket-min", 1, MAX_SIDE, f"1 to {MAX_SIDE} pixels"),
        metavar="N",
        show_default="half the square root of AREA",
        help="With --buckets: the shortest side of a bucket, in pixels.",
    ),
]
BucketMax = Annotated[
    int | None,
    geometry_option(
        "--bucket-max",
        parser=whole("--bucket-max", 1, MAX_SIDE, f"1 to {MAX_SIDE} pixels"),
        metavar="N",
        show_default="twice the square root of AREA",
        help="With --buckets: the longest side of a bucket, in pixels.",
    ),
]
SkipSmall = Annotated[
    bool,
    geometry_option(
        "--skip-small",
        help="Skip images that are smaller than --crop or their bucket; otherwise they fail.",
    ),
]
Flip = Annotated[
    bool | None,
    geometry_option(
        "--flip/--no-flip",
        show_default=follow("--no-flip"),
        help="Also store latents of each image mirrored left to right, its twin.",
    ),
]
OriginalResize = Annotated[
    int | None,
    _side("--resize", help="Scale originals so that the short side has N pixels, as encode does."),
]
OriginalNoUpscale = Annotated[
    bool,
    geometry_option(
        "--no-upscale",
        help="With --resize: only scale originals down, as encode does. With --buckets: "
        "originals smaller than their bucket fail.",
    ),
]
OriginalMaxSide = Annotated[
    int | None,
    _side("--max-side", help="Scale originals down to at most N pixels per side, as encode does."),
]
OriginalBuckets = Annotated[
    str | None,
    geometry_option(
        "--buckets",
        metavar="AREA[:STEP]",
        help="Scale and crop originals to their aspect-ratio buckets, as encode does; small "
        "originals are scaled up unless --no-upscale is given.",
    ),
]
OriginalCrop = Annotated[
    Any,
    geometry_option(
        "--crop",
        metavar="WxH",
        parser=parse_crop,
        help="Keep the central W x H pixels of originals, as encode does.",
    ),
]

# Model and device

MODELS = (AUTO, NANO, *HUB_ALIASES)
MODEL_KINDS = (
    f"{NANO} (embedded), {', '.join(HUB_ALIASES)}, a Hub repository, a folder or a .safetensors "
    "file"
)


def _model(auto: str) -> Any:
    return model_option(
        "--model",
        envvar="DINAC_MODEL",
        callback=from_variable(str),
        metavar="MODEL",
        autocompletion=complete(MODELS),
        help=f"{MODEL_KINDS}; auto: {auto}.",
    )


dtype_option = partial(
    model_option, "--dtype", metavar="DTYPE", **choices("--dtype", DTYPE_CHOICES)
)

Model = Annotated[
    str, _model("the model of the latents in OUT; if OUT has none, nano on a CPU and d2 on a GPU")
]
RecordModel = Annotated[
    str, _model("the model that encoded the latents, if it is embedded or cached")
]
FitModel = Annotated[str, _model("with --fit, nano on a CPU and d2 on a GPU")]
BenchModel = Annotated[str, _model("nano on a CPU and d2 on a GPU")]
Revision = Annotated[
    str | None, model_option(metavar="REV", help="Branch, tag or commit of the model on the Hub.")
]
_DEVICES = ("auto", "cpu", "cuda", "mps")
_device = partial(
    model_option,
    "--device",
    envvar="DINAC_DEVICE",
    metavar="DEVICE",
    callback=from_variable(check_device),
)
Device = Annotated[
    str,
    _device(
        autocompletion=complete(_DEVICES),
        help="auto, cpu, cuda, cuda:N or mps; a missing device is an error.",
    ),
]
Devices = Annotated[
    str,
    _device(
        autocompletion=complete((*_DEVICES, "all")),
        help="auto, cpu, cuda, cuda:N or mps; a list such as cuda:0,cuda:1, or all: these CUDA "
        "devices share the work. A missing device is an error.",
    ),
]
Dtype = Annotated[
    str, dtype_option(help="bf16 or f32; auto: bf16 if the hardware supports it natively.")
]
CompileSizes = Annotated[
    bool,
    model_option(
        "--compile",
        help="Compile the model: this takes 15 s per image size, and 1 s in later runs. Saves time "
        "if a large folder has few image sizes.",
    ),
]

# Run

_workers = partial(
    run_option,
    "--workers",
    "-j",
    envvar="DINAC_WORKERS",
    metavar="N",
    parser=str,
    callback=from_variable(check_workers),
    show_default="one per processor",
)

BatchSize = Annotated[
    int | None,
    run_option(
        metavar="N",
        show_default="auto",
        parser=count_or_auto("--batch-size"),
        help="Number of images in memory at once, or auto; does not change results.",
    ),
]
Workers = Annotated[
    int | None, _workers(help="Number of threads that read; the same number of threads write.")
]
Readers = Annotated[int | None, _workers(help="Number of threads that read.")]
PreviewReaders = Annotated[
    int | None,
    _workers(
        show_default="1, or one per processor with --fit",
        help="Number of threads that read; for files on a slow disk.",
    ),
]
Processes = Annotated[
    int | None,
    run_option(
        metavar="N",
        show_default="1 on a CPU; on each GPU, what its memory and the processors allow",
        parser=count_or_auto("--processes"),
        help="Number of processes, each with its own model, or auto; does not change results. N "
        "processes are spread over all devices, at least one on each.",
    ),
]
Threads = Annotated[
    int | None,
    run_option(
        metavar="N",
        show_default="the processors, divided between the processes",
        parser=whole("--threads", 1),
        help="Number of threads that compute in each process.",
    ),
]
Overwrite = Annotated[
    bool, run_option("--overwrite", help="Replace any existing file, and redo finished outputs.")
]
Checksum = Annotated[
    bool,
    run_option("--checksum", help="Hash every source, also those that OUT remembers as unchanged."),
]
Prune = Annotated[
    Any,
    run_option(
        "--prune",
        metavar="[=all]",
        parser=parse_prune,
        help="After a complete run, move outputs whose source is gone to OUT/.dinac-removed, if "
        "they are at most 10% of OUT; all: however many they are.",
    ),
]
Fsync = Annotated[
    bool, run_option("--fsync", help="Flush each output to the disk before continuing (fsync).")
]
Lock = Annotated[
    bool,
    run_option("--lock", help="Exit with 1 at once if another run with --lock is writing to OUT."),
]
ShardSize = Annotated[
    int | None,
    shard_option(
        "--shard-size",
        parser=whole("--shard-size", 1),
        metavar="N",
        show_default=follow("5000 for a remote OUT"),
        help="Write tars of N records instead of loose files.",
    ),
]
Keep = Annotated[
    Any,
    shard_option(
        "--keep",
        parser=parse_keep,
        metavar="EXT,EXT",
        show_default=follow("nothing"),
        help="Write shards; copy into them also these files that lie beside the images, such as "
        "txt,json. They may hold names, EXIF and places.",
    ),
]
ImageColumn = Annotated[
    str | None,
    shard_option(
        "--image-column",
        metavar="NAME",
        show_default=follow("image"),
        help="The column of parquet files that holds the images.",
    ),
]
EngineOption = Annotated[
    str,
    shard_option(
        "--engine",
        metavar="here|ray",
        **choices("--engine", ("here", "ray")),
        help="What encodes the shards: this machine, or a Ray cluster.",
    ),
]
Address = Annotated[
    str | None,
    shard_option(
        "--address",
        metavar="HOST:PORT",
        show_default="RAY_ADDRESS, if set",
        help="The Ray cluster to join; auto: the one of this machine; local: start one here, and "
        "stop it at the end.",
    ),
]
ProcessesPerGpu = Annotated[
    int | None,
    shard_option(
        "--processes-per-gpu",
        parser=whole("--processes-per-gpu", 1),
        metavar="N",
        show_default="4",
        help="With --engine ray: processes that share one GPU.",
    ),
]
CpusPerProcess = Annotated[
    int | None,
    shard_option(
        "--cpus-per-process",
        parser=whole("--cpus-per-process", 1),
        metavar="N",
        show_default="2, or 1 if no node has 2",
        help="With --engine ray: CPUs of each process.",
    ),
]
RetryFailed = Annotated[
    bool,
    shard_option("--retry-failed", help="Encode finished shards again if some images failed."),
]
FailFast = Annotated[bool, run_option("--fail-fast", help="Stop at the first file that fails.")]

# Screen and reports

Failures = Annotated[
    str | None, report_option(metavar="FILE", help="Write one JSON line per failed file to FILE.")
]
Known = Annotated[
    str | None,
    report_option(
        metavar="FILE",
        help="Count the failures that FILE lists, but neither print them nor exit with 3 because "
        "of them. FILE is an earlier --failures; it may also be the FILE of this run's --failures.",
    ),
]
# Typer has no type for what `note_command_line` returns.
Log = Annotated[
    Any,
    report_option(
        "--log",
        metavar="FILE",
        parser=str,
        callback=note_command_line,
        help="Append to FILE, with times: the command, each failure and warning, the summary and "
        "the exit code; also with -q.",
    ),
]
Json = Annotated[
    bool, report_option("--json", help="JSON lines on stdout: one object per file, then a summary.")
]
JsonObject = Annotated[bool, report_option("--json", help="One JSON object on stdout.")]
NoProgress = Annotated[
    bool,
    report_option(
        "--no-progress",
        envvar="DINAC_NO_PROGRESS",
        help="Show no progress, but print the summary, warnings and errors.",
    ),
]
Quiet = Annotated[bool, report_option("--quiet", "-q", help="Print errors only.")]
Verbose = Annotated[
    bool,
    report_option(
        "--verbose", "-v", callback=note_verbose, help="Name every file; show full errors."
    ),
]
