"""Every argument and option, its help and its default, spelled once."""

# No `from __future__ import annotations`: Typer reads these annotations at run time.

import math
from typing import Annotated

import typer

from dinac_cli.commands.values import (
    check_batch_size,
    check_device,
    check_percent,
    complete,
    one_of,
    within,
)
from dinac_cli.container.header import PRECISIONS
from dinac_cli.images.formats import OUTPUT_FORMATS
from dinac_cli.images.geometry import MAX_SIDE
from dinac_cli.model.config import RELEASED, SCHEDULES

BENCH_PARTS = ("network", "commands")
EXPORT_FORMATS = ("safetensors", "npz", "webdataset")
SHELLS = ("bash", "zsh", "fish", "powershell")

_GEOMETRY = "Geometry"
_INPUTS, _MODEL, _RUN, _REPORTS = "Inputs", "Model and device", "Run", "Screen and reports"

_MODELS = ("auto", "nano", "d2", "dinac-ae")
_DEVICES = ("auto", "cpu", "cuda", "mps")
_DTYPES = ("auto", "bf16", "f32")

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
FeaturesOut = Annotated[
    str | None,
    typer.Argument(
        metavar="OUT.safetensors",
        show_default=False,
        help="The last argument: the file to write; may be left out with --similar.",
    ),
]
Spatial = Annotated[
    bool, typer.Option("--spatial", help="Also write the patch tokens, one tensor an image.")
]
Similar = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="List the images that are most similar to the one of this latent file.",
    ),
]
Top = Annotated[
    int | None,
    typer.Option(min=1, metavar="K", show_default="10", help="How many images --similar lists."),
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
Resize = Annotated[
    int | None,
    typer.Option(
        "--resize",
        min=1,
        max=MAX_SIDE,
        metavar="N",
        rich_help_panel=_GEOMETRY,
        help="Scale each image, up or down, so that its short side has N pixels.",
    ),
]
MaxSide = Annotated[
    int | None,
    typer.Option(
        "--max-side",
        min=1,
        max=MAX_SIDE,
        metavar="N",
        rich_help_panel=_GEOMETRY,
        help="Scale larger images down, so that no side has more than N pixels.",
    ),
]
CropSize = Annotated[
    str | None,
    typer.Option(
        "--crop",
        metavar="WxH",
        rich_help_panel=_GEOMETRY,
        help="Keep the centre of W x H pixels (N: of N x N) of what is there after scaling.",
    ),
]
Flip = Annotated[
    bool,
    typer.Option(
        "--flip",
        rich_help_panel=_GEOMETRY,
        help="Store the same of each image mirrored left to right, too.",
    ),
]
Flipped = Annotated[
    bool,
    typer.Option("--flipped", help="Decode the mirrored images that encode --flip stored."),
]
OriginalResize = Annotated[
    int | None,
    typer.Option(
        "--resize",
        min=1,
        max=MAX_SIDE,
        metavar="N",
        rich_help_panel=_GEOMETRY,
        help="Scale originals so that the short side has N pixels, as encode does.",
    ),
]
OriginalMaxSide = Annotated[
    int | None,
    typer.Option(
        "--max-side",
        min=1,
        max=MAX_SIDE,
        metavar="N",
        rich_help_panel=_GEOMETRY,
        help="Scale larger originals down to N pixels a side, as encode does.",
    ),
]
OriginalCrop = Annotated[
    str | None,
    typer.Option(
        "--crop",
        metavar="WxH",
        rich_help_panel=_GEOMETRY,
        help="Keep the centre of W x H pixels of originals, as encode does.",
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="P",
        callback=one_of("--precision", PRECISIONS),
        autocompletion=complete(PRECISIONS),
        help="How latents are stored.\n\nBits a pixel and dB lost (nano, photographs):\n\n"
        "f32  14.5  0     q6  2.4  0.10\n\n"
        "bf16  5.3  0     q5  2.2  0.20\n\n"
        "q8    3.0  0.02  q4  1.8  0.48\n\n"
        "q7    2.7  0.05  q3  1.5  0.98\n\n",
    ),
]
Anonymous = Annotated[
    bool,
    typer.Option(
        "--anonymous",
        help="Leave out of records where they come from: name, size and hash of the source.",
    ),
]
StoreFeatures = Annotated[
    bool,
    typer.Option(
        "--features",
        help="Store the DINO class token too; needs a model with a class head, such as d2.",
    ),
]
StorePosterior = Annotated[
    bool,
    typer.Option(
        "--posterior",
        help="Store the posterior's log-SNR too, so that latents can be sampled.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        envvar="DINAC_MODEL",
        metavar="MODEL",
        rich_help_panel=_MODEL,
        autocompletion=complete(_MODELS),
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
        callback=check_device,
        autocompletion=complete(_DEVICES),
        help="auto, cpu, cuda, cuda:N or mps; one that is absent is an error.",
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        metavar="DTYPE",
        rich_help_panel=_MODEL,
        callback=one_of("--dtype", _DTYPES),
        autocompletion=complete(_DTYPES),
        help="bf16 or f32; auto: bf16 where the hardware multiplies it.",
    ),
]
CompileSizes = Annotated[
    bool,
    typer.Option(
        "--compile",
        rich_help_panel=_MODEL,
        help="Compile the network for each size of image: faster, after a quarter of a minute "
        "a size (later runs: a second); for large folders of few sizes.",
    ),
]
BatchSize = Annotated[
    str,
    typer.Option(
        metavar="N",
        rich_help_panel=_RUN,
        callback=check_batch_size,
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
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        rich_help_panel=_RUN,
        help="Say what would be done, as dinac plan does, and do nothing.",
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
        callback=one_of("--sampler", ("ddim", "dpmpp-2m")),
        autocompletion=complete(("ddim", "dpmpp-2m")),
        help="ddim or dpmpp-2m.",
    ),
]
Schedule = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        callback=one_of("--schedule", SCHEDULES),
        autocompletion=complete(SCHEDULES),
        help="Spacing of the times: linear or cosine.",
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        metavar="G",
        show_default="off",
        callback=within("--guidance", math.isfinite, "a finite number"),
        help="Path-drop guidance of this strength; doubles the work.",
    ),
]
Strength = Annotated[
    float,
    typer.Option(
        metavar="S",
        callback=within("--strength", lambda value: 0 < value <= 1, "more than 0, at most 1"),
        help="Scale of the times, above 0 to 1; 1 is full noise.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        metavar="N",
        callback=within("--seed", lambda value: -(2**63) <= value < 2**64, "an integer of 64 bits"),
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
        autocompletion=complete(tuple(OUTPUT_FORMATS)),
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
VerifyModel = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODEL",
        rich_help_panel=_MODEL,
        autocompletion=complete(_MODELS),
        help="Every record must be of this model; auto: of any.",
    ),
]
VerifyDtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        rich_help_panel=_MODEL,
        callback=one_of("--dtype", _DTYPES),
        autocompletion=complete(_DTYPES),
        help="bf16 or f32, for --reencode; auto: what the record was encoded in.",
    ),
]
SourceFolder = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="DIR",
        help="The images that were encoded: each must still be there, by size and hash.",
    ),
]
Reencode = Annotated[
    str | None,
    typer.Option(
        "--reencode",
        metavar="P%",
        show_default="none",
        callback=check_percent,
        help="Encode about so many of the records anew, and report the largest difference.",
    ),
]
MaxDelta = Annotated[
    float | None,
    typer.Option(
        "--max-delta",
        metavar="D",
        show_default="0.25, and one step at q8 to q3",
        callback=within(
            "--max-delta", lambda value: 0 <= value < math.inf, "a finite number, 0 or more"
        ),
        help="How far a latent that is encoded anew may be off.",
    ),
]
DemoFolder = Annotated[str, typer.Argument(metavar="[DIR]", help="Where the demo puts its files.")]
TrainOut = Annotated[
    str, typer.Argument(metavar="OUT", help="The last argument: the checkpoint folder to make.")
]
Init = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        autocompletion=complete(("nano", "d2", "klt")),
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
BenchImages = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMG",
        show_default="samples of 256x256",
        help="Images to time the commands on.",
    ),
]
RandomWeights = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=_MODEL,
        callback=one_of("--random-weights", tuple(RELEASED)),
        autocompletion=complete(tuple(RELEASED)),
        help="Random weights in the sizes of a published model instead: d2 or dinac-ae.",
    ),
]
CompileBench = Annotated[
    bool, typer.Option("--compile", rich_help_panel=_MODEL, help="Time the compiled network too.")
]
Only = Annotated[
    str | None,
    typer.Option(
        metavar="PART",
        show_default="both",
        callback=one_of("--only", BENCH_PARTS),
        autocompletion=complete(BENCH_PARTS),
        help="network: time the network alone; commands: time whole commands alone.",
    ),
]
Resolution = Annotated[
    list[int] | None,
    typer.Option(
        min=16,
        metavar="PIXELS",
        show_default="256 and 512",
        help="Side of the images that the network is timed on; may be repeated.",
    ),
]
BenchBatch = Annotated[
    list[int] | None,
    typer.Option(
        "--batch",
        min=1,
        metavar="N",
        show_default="that of the commands",
        help="Images that the network takes at once; may be repeated.",
    ),
]
FileCounts = Annotated[
    list[int] | None,
    typer.Option(
        "--files",
        min=2,
        metavar="N",
        show_default="20 and 200",
        help="Number of files to time the commands on; to be repeated.",
    ),
]
Seconds = Annotated[
    float,
    typer.Option(min=0.1, metavar="S", help="Time for each comparison of networks, about."),
]
Compare = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        callback=one_of("--compare", ("flux2",)),
        autocompletion=complete(("flux2",)),
        help="Time another autoencoder too: flux2 (with random weights).",
    ),
]
BenchJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Teacher = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="A DINOv2 checkpoint folder: the class head, if there is one, learns its features.",
    ),
]
Shell = Annotated[
    str,
    typer.Argument(
        metavar="SHELL",
        callback=one_of("SHELL", SHELLS),
        autocompletion=complete(SHELLS),
        help=f"{', '.join(SHELLS[:-1])} or {SHELLS[-1]}.",
    ),
]
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=complete(_MODELS[1:]),
        help="nano (embedded), d2, dinac-ae, a Hub repository, a folder or a .safetensors file.",
    ),
]
HubModel = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=complete(_MODELS[2:]),
        help="d2, dinac-ae or a Hub repository.",
    ),
]
ModelsJson = Annotated[bool, typer.Option("--json", help="One JSON object a model on stdout.")]
ReportFolders = Annotated[
    list[str],
    typer.Argument(
        metavar="A B...",
        show_default=False,
        help="The folder of originals, then one or more folders of reconstructions.",
    ),
]
ReportOut = Annotated[
    str, typer.Argument(metavar="OUT.html", help="The last argument: the page to write.")
]
ReportLatents = Annotated[
    list[str] | None,
    typer.Option(
        "--latents",
        metavar="DIR",
        help="Folder of latents of a reconstruction, in their order: shows bits a pixel and, of "
        "the first, the latents as colours; may be repeated.",
    ),
]
Assets = Annotated[
    str | None,
    typer.Option(
        metavar="DIR", help="Put the full images there, not into the page; for large sets."
    ),
]
Title = Annotated[str | None, typer.Option(metavar="TEXT", help="Title of the page.")]
ExportOut = Annotated[
    str, typer.Argument(metavar="OUT", help="The last argument: the folder to write to.")
]
ExportFormat = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="FORMAT",
        callback=one_of("--to", EXPORT_FORMATS),
        autocompletion=complete(EXPORT_FORMATS),
        help="safetensors or npz: a file a record; webdataset: tars of many.",
    ),
]
