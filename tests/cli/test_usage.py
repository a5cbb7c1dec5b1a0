"""Wrong requests are refused before any work: one line, an exit code, no output."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from .conftest import list_files, read_files
from .processes import Finished, run, run_on_terminal, run_together

FOLDER_WANTED = (
    "OUT, the last argument, is an existing file and not a folder; "
    "name an output folder after the inputs"
)
MODELS = (
    "no such file or folder, and neither an alias (nano, d2, dinac-ae, flux2, semdisdiffae, "
    "semdisdiffae-p32) nor a Hub repository (owner/name, or owner/name/folder)"
)
TERMINAL = "standard output is a terminal; redirect it, or name a file or folder"
TWICE = "would both be written to b.png.dinac; give them different OUTs or rename one"

REFUSED = [
    # the command line itself
    (
        "encode",
        2,
        "missing OUT; usage: dinac encode IMG... OUT, e.g. dinac encode photos/ latents/",
    ),
    ("encode --bogus photos out", 2, "no such option --bogus; see 'dinac encode --help'"),
    ("encode -x photos out", 2, "no such option -x; see 'dinac encode --help'"),
    ("plan --presicion q8 photos", 2, "no such option --presicion; did you mean '--precision'?"),
    ("--vresion", 2, "no such option --vresion; did you mean '--version'?"),
    ("--version=1", 2, "--version takes no value; see 'dinac --help'"),
    ("encode photos out --flip=1", 2, "--flip takes no value; see 'dinac encode --help'"),
    ("encode photos out --resize", 2, "--resize needs a value; see 'dinac encode --help'"),
    ("bogus", 2, "no such command 'bogus'; see 'dinac --help'"),
    ("encod photos out", 2, "no such command 'encod'; did you mean 'encode'?"),
    ("models lst", 2, "no such command 'models lst'; did you mean 'models list'?"),
    (
        "models pull",
        2,
        "missing MODEL; usage: dinac models pull MODEL, e.g. dinac models pull d2",
    ),
    ("psnr photos", 2, "missing B; usage: dinac psnr A B, e.g. dinac psnr photos/ decoded/"),
    ("psnr a b c d", 2, "psnr compares two folders; for more use dinac report"),
    ("demo a b c", 2, "too many arguments: b c; usage: dinac demo [DIR], e.g. dinac demo my-demo/"),
    (
        "report photos page.html",
        2,
        "missing B...; usage: dinac report A B... OUT.html, "
        "e.g. dinac report photos/ decoded/ report.html",
    ),
    (
        "features latents -o out.npz",
        2,
        "out.npz: OUT must end in .safetensors; name OUT after the inputs",
    ),
    ("encode -o out", 2, "no input: name files or folders beside --out out"),
    # inputs and OUT
    ("encode nowhere", 2, "no input: name files, folders, '-' or --files-from LIST before OUT"),
    (
        "encode photos",
        2,
        "no input: photos was taken as OUT, the last argument; name OUT after the inputs",
    ),
    ("encode none out", 2, "none: no such file or folder; check the path"),
    ("encode none*.png out", 2, "none*.png: no file matches this pattern"),
    ("encode empty out", 2, "no images found in empty; name image files or folders"),
    (
        "encode latents out",
        2,
        "no images found in latents, only latent files; name the images, or use dinac decode",
    ),
    (
        "decode photos out",
        2,
        "no latent files found in photos, only images; run dinac encode first and name its OUT",
    ),
    ("encode photos/a.jpg photos/b.png", 2, f"photos/b.png: {FOLDER_WANTED}"),
    ("encode photos photos/a.jpg --overwrite", 2, f"photos/a.jpg: {FOLDER_WANTED}"),
    ("decode latents photos/a.jpg --overwrite", 2, f"photos/a.jpg: {FOLDER_WANTED}"),
    ("encode - - out", 2, "standard input '-' is named twice as an input; name it once"),
    ("encode photos --null out", 2, "--null and --root need --files-from"),
    (
        "encode --files-from none out",
        2,
        "--files-from none: cannot read: No such file or directory; check the path and its "
        "permissions",
    ),
    ("encode photos/b.png photos/sub out", 2, f"photos/b.png and photos/sub/b.png {TWICE}"),
    ("encode photos/b.png photos/./b.png out", 2, f"photos/b.png and photos/./b.png {TWICE}"),
    (
        "encode photos photos/notes.txt/out",
        1,
        "photos/notes.txt/out: cannot write: Not a directory; choose another place",
    ),
    # numbers
    ("encode photos out --limit 0", 2, "--limit 0: expected 1 or more"),
    ("encode photos out -j x", 2, "--workers x: expected 1 or more"),
    ("encode photos out --resize 0", 2, "--resize 0: expected 1 to 1048576 pixels, or none"),
    ("plan photos out --max-side 2e6", 2, "--max-side 2e6: expected 1 to 1048576 pixels, or none"),
    ("psnr photos decoded --max-pixels 0", 2, "--max-pixels 0: expected 1 pixel or more"),
    ("decode latents out --steps 0", 2, "--steps 0: expected 1 or more"),
    ("decode latents out -n x", 2, "--steps x: expected 1 or more"),
    ("features latents --similar a --top 0", 2, "--top 0: expected 1 or more"),
    ("train photos out --crop 31", 2, "--crop 31: expected 32 pixels or more"),
    ("train photos out --minutes 0", 2, "--minutes 0: expected 0.01 minutes or more"),
    ("bench --resolution 64 --resolution 8", 2, "--resolution 8: expected 16 pixels or more"),
    ("bench --seconds inf", 2, "--seconds inf: expected 0.1 seconds or more"),
    # choices
    (
        "encode photos out --resize 8 --max-side 8",
        2,
        "--resize and --max-side cannot be used together; leave one out",
    ),
    (
        "plan photos out --crop 8xy",
        2,
        "--crop 8xy: expected WxH or N, 1 to 1048576 pixels, or none",
    ),
    (
        "psnr photos decoded --crop 8x2000000",
        2,
        "--crop 8x2000000: expected WxH or N, 1 to 1048576 pixels",
    ),
    (
        "encode photos out --precision q9",
        2,
        "--precision q9: choose one of f32, bf16, q8, q7, q6, q5, q4, q3",
    ),
    ("encode photos out --dtype f16", 2, "--dtype f16: choose one of auto, bf16, f32"),
    (
        "encode photos out --device bogus",
        2,
        "--device bogus: choose one of auto, cpu, cuda, cuda:N, mps; encode and decode also take "
        "all or a list such as cuda:0,cuda:1",
    ),
    (
        "encode photos out --device cuda:0,cuda:0",
        2,
        "--device cuda:0,cuda:0: cuda:0 is named twice; name each device once",
    ),
    (
        "decode latents out --device cpu,cuda:0",
        2,
        "--device cpu,cuda:0: cpu cannot be in a list; name CUDA devices by number, such as "
        "cuda:0,cuda:1",
    ),
    (
        "encode photos out --device cuda:0,",
        2,
        "--device cuda:0,: a name is missing beside a comma; write a list such as cuda:0,cuda:1",
    ),
    (
        "encode photos out --shard 3/3",
        2,
        "--shard 3/3: I must be 0 to N-1, for example 0/8 to 7/8",
    ),
    (
        "encode photos out --shard three",
        2,
        "--shard three: expected I/N (for example 0/8) or auto",
    ),
    (
        "encode photos out --background red",
        2,
        "--background red: expected white, black, gray or #rrggbb",
    ),
    ("encode photos out --batch-size 0", 2, "--batch-size 0: expected a positive number or auto"),
    ("decode latents out --sampler euler", 2, "--sampler euler: choose one of ddim, dpmpp-2m"),
    ("decode latents out --schedule x", 2, "--schedule x: choose one of linear, cosine"),
    ("decode latents out --guidance nan", 2, "--guidance nan: expected a finite number, or off"),
    ("decode latents out --strength 0", 2, "--strength 0: expected more than 0 and at most 1"),
    ("decode latents out --strength x", 2, "--strength x: expected more than 0 and at most 1"),
    (
        "decode latents out --seed 99999999999999999999",
        2,
        "--seed 99999999999999999999: expected a 64-bit integer",
    ),
    (
        "decode latents out --format gif",
        2,
        "--format gif: choose one of png, jpg, webp, tiff, avif, bmp, ppm",
    ),
    # models
    ("encode photos out --model bogus", 2, f"--model bogus: {MODELS}"),
    (
        "encode photos out --model nano --revision x",
        2,
        "--revision x: nano is not a Hub repository; omit --revision",
    ),
    # psnr
    (
        "psnr photos photos --metrics ssim,psnrr",
        2,
        "--metrics psnrr: choose from psnr, ssim, ms-ssim, lpips, rfid",
    ),
    ("psnr photos photos --metrics ssim,ssim", 2, "--metrics: ssim is named twice; name each once"),
    (
        "psnr photos photos --metrics lpips",
        2,
        "--metrics lpips needs --lpips-weights FILE; 'dinac man metrics' says how to make it",
    ),
    (
        "psnr photos photos --inception-weights a.safetensors",
        2,
        "--inception-weights needs --metrics rfid; add rfid, or leave it out",
    ),
    ("psnr photos none", 2, "none: no such file or folder; check the path"),
    ("psnr photos photos/a.jpg", 2, "photos and photos/a.jpg: name two folders or two files"),
    ("psnr empty empty", 2, "no images found in empty and empty; name folders of images"),
]


@pytest.fixture(scope="module")
def answers(work: Path) -> dict[str, Finished]:
    """The result of each command line; none of them changes a file."""
    before = read_files(work)
    lines = [line for line, _, _ in REFUSED]
    finished = run_together(*(line.split() for line in lines), cwd=work)
    assert read_files(work) == before
    return dict(zip(lines, finished, strict=True))


@pytest.mark.parametrize(("line", "code", "message"), REFUSED)
def test_refused_in_one_line(
    answers: dict[str, Finished], line: str, code: int, message: str
) -> None:
    assert answers[line] == Finished(code, "", f"dinac: {message}\n")


def test_with_the_option_out_every_argument_is_an_input(work: Path, tmp_path: Path) -> None:
    """All commands that write to OUT agree: the option is the last argument."""
    work_lines = (
        ("encode", "photos/sub", "photos/a.jpg"),
        ("decode", "latents/sub", "latents/a.jpg.dinac"),
        ("export", "latents/sub", "latents/a.jpg.dinac"),
    )
    for command, *inputs in work_lines:
        places = [tmp_path / f"{command}-{number}" for number in (1, 2)]
        first = run(command, *inputs, places[0], cwd=work)
        second = run(command, "-o", places[1], *inputs, cwd=work)
        assert (first.code, second.code, second.err) == (0, 0, "")
        assert list_files(places[0]) == list_files(places[1])
        assert len(list_files(places[1])) == 3
    page = tmp_path / "page.html"
    assert run("report", "photos", "decoded", "--out", page, cwd=work).code == 0
    assert page.is_file()
    plan = run("plan", "photos", "-o", "latents", "--quick", cwd=work)
    assert (plan.code, plan.err) == (0, "")
    assert "nothing to encode" in plan.out


def test_absent_device_is_an_error(work: Path, tmp_path: Path) -> None:
    arguments = ("encode", "photos", tmp_path / "out", "--device", "cuda:99", "--model", "nano")
    done = run(*arguments, cwd=work)
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(
        r"dinac: device cuda:99 is not available; "
        r"torch finds only (\S+, )*cpu; use --device auto\n",
        done.err,
    )
    assert list_files(tmp_path) == []


def test_unavailable_model_is_one_line_with_the_remedy(work: Path, tmp_path: Path) -> None:
    done = run("encode", "photos", tmp_path / "out", "--model", "d2", cwd=work)
    assert (done.code, done.out) == (1, "")
    (line,) = done.err.splitlines()
    assert line.startswith("dinac: model data-archetype/dinac_ae_d2 (revision main) is not ")
    assert all(part in line for part in (os.environ["HF_HOME"], "HF_HUB_OFFLINE", "nano"))


def test_swapped_inputs_name_the_other_command(work: Path, tmp_path: Path) -> None:
    encoded = run("encode", "latents/a.jpg.dinac", tmp_path / "out", cwd=work)
    assert (encoded.code, encoded.err) == (
        3,
        "dinac: latents/a.jpg.dinac: a latent record, not an image; use decode\n",
    )
    decoded = run("decode", "photos/a.jpg", tmp_path / "out", cwd=work)
    assert (decoded.code, decoded.err) == (
        3,
        "dinac: photos/a.jpg: an image, not a latent record; use encode\n",
    )


def test_binary_output_to_a_terminal_is_refused(work: Path) -> None:
    for arguments in (("encode", work / "photos", "-"), ("decode", work / "latents", "-")):
        assert run_on_terminal(*arguments) == (2, f"dinac: {TERMINAL}\r\n")


def test_help_on_a_narrow_screen_is_complete() -> None:
    done = run("decode", "--help", environment={"COLUMNS": "40"})
    assert (done.code, done.err) == (0, "")
    assert "…" not in done.out
    assert "  --sampler NAME\n        ddim or dpmpp-2m." in done.out
    assert max(map(len, done.out.splitlines())) < 40
    overview = run("--help", environment={"COLUMNS": "40"})
    for arguments in ((), ("models",)):  # help without --help
        bare = run(*arguments, environment={"COLUMNS": "40"})
        asked = run(*arguments, "--help", environment={"COLUMNS": "40"})
        assert (bare.code, bare.out + bare.err) == (2, asked.out)
    assert (
        "  encode\n        Encode images into files of\n        whitened latents.\n" in overview.out
    )


@pytest.mark.parametrize("command", ["encode", "models list"])
def test_help_shows_no_type_for_flags(command: str) -> None:
    done = run(*command.split(), "--help", environment={"COLUMNS": "80"})
    assert (done.code, done.err) == (0, "")
    assert "--json" in done.out
    assert re.search(r"--help +-h +Show this message and exit\.", done.out)
    assert "bool" not in done.out.lower()


def test_absent_device_does_not_matter_if_nothing_is_computed(work: Path) -> None:
    for arguments in (
        ("encode", "photos", "latents"),
        ("decode", "latents", "decoded"),
        ("verify", "latents"),
    ):
        done = run(*arguments, "--device", "cuda:99", cwd=work)
        assert (done.code, done.err) == (0, "")
