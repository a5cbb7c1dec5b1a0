"""The main job: encode, decode and measure a folder, and do it all a second time."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from dinac_cli import read_latents

from .conftest import SIZES, draw, list_files, read_files
from .processes import run, run_noting_imports, run_together

LATENTS = ["a.jpg.dinac", "b.png.dinac", "sub/b.png.dinac", "sub/deep/c.webp.dinac"]
DECODED = ["a.jpg.png", "b.png", "sub/b.png", "sub/deep/c.webp.png"]


def test_names_and_exact_sizes(work: Path) -> None:
    assert list_files(work / "latents") == LATENTS
    assert list_files(work / "decoded") == DECODED
    for latents, decoded, (name, size) in zip(LATENTS, DECODED, SIZES.items(), strict=True):
        _, header = read_latents(work / "latents" / latents)
        assert (header.name, header.width, header.height) == (name, *size)
        with Image.open(work / "decoded" / decoded) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", size)


@pytest.mark.parametrize(
    ("arguments", "summary"),
    [
        (
            ("encode", "photos", "latents"),
            "0 encoded with nano, 4 already done, 1 other file skipped\n",
        ),
        (("decode", "latents", "decoded"), "0 decoded, 4 already done\n"),
    ],
)
def test_a_second_run_does_nothing_and_needs_no_torch(
    work: Path, tmp_path: Path, arguments: tuple[str, ...], summary: str
) -> None:
    before = {name: (work / name).stat() for name in list_files(work)}
    command, first, second = arguments
    done, imported = run_noting_imports(
        tmp_path / "imports", ("torch",), command, str(work / first), str(work / second)
    )
    assert (done.code, done.out, done.err) == (0, summary, "")
    assert imported == ""
    after = {name: (work / name).stat() for name in list_files(work)}
    assert {p: (s.st_mtime_ns, s.st_ino) for p, s in after.items()} == {
        p: (s.st_mtime_ns, s.st_ino) for p, s in before.items()
    }


def test_out_may_be_a_file_for_one_input_file(tmp_path: Path) -> None:
    """The suffix of the input does not matter: dinac looks at the content."""
    draw(40, 20).save(tmp_path / "photo", "PNG")
    (tmp_path / "lies.gif").write_bytes((tmp_path / "photo").read_bytes())
    record, image = tmp_path / "new/one.dinac", tmp_path / "one.jpg"
    assert run("encode", tmp_path / "lies.gif", record).code == 0
    assert run("decode", record, image).code == 0
    with Image.open(image) as decoded:
        assert (decoded.format, decoded.size) == ("JPEG", (40, 20))
    again = run("decode", record, image)
    assert (again.code, again.out) == (0, "0 decoded, 1 already done\n")
    refused = run("decode", record, image, "--format", "png")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == (
        f"dinac: --format png contradicts the suffix of {image}; leave out one of them\n"
    )
    # Content decides in folders too. The decoded image among originals is no input.
    found = run("encode", tmp_path, tmp_path / "new", "--max-pixels", "1")
    *failed, orphan = found.err.splitlines()
    assert [line.split(": ")[1] for line in sorted(failed)] == [
        str(tmp_path / name) for name in ("lies.gif", "photo")
    ]
    assert orphan.startswith("dinac: 1 orphaned record in ")


def test_dtypes_and_precisions(work: Path, tmp_path: Path) -> None:
    """Exact records are larger, quantized ones smaller."""
    exact = ("--dtype", "f32", "--precision", "f32", "--limit", "2")
    small = ("--dtype", "bf16", "--precision", "q6")
    runs = run_together(
        ("encode", "photos", tmp_path / "exact", *exact),
        ("encode", "photos", tmp_path / "small", *small),
        cwd=work,
    )
    assert [(done.code, done.err) for done in runs] == [(0, "")] * 2
    assert list_files(tmp_path / "exact") == LATENTS[:2]
    assert list_files(tmp_path / "small") == LATENTS
    sizes = {}
    for folder, expected in (("exact", "cpu/f32 f32"), ("small", "cpu/bf16 q6")):
        path = tmp_path / folder / "b.png.dinac"
        latents, header = read_latents(path)
        assert latents.shape == (128, 3, 4)
        assert f"{header.compute} {header.precision}" == expected
        sizes[folder] = path.stat().st_size
    assert sizes["small"] < (work / "latents/b.png.dinac").stat().st_size < sizes["exact"]


def test_shards_cover_each_file_once(work: Path) -> None:
    taken = []
    for part in range(3):
        done = run("encode", "photos", "latents", "--shard", f"{part}/3", "--json", cwd=work)
        assert (done.code, done.err) == (0, "")
        taken += [entry["file"] for entry in done.objects[:-1]]
    assert sorted(taken) == [f"photos/{name}" for name in SIZES]


def test_demo_shows_each_command_and_may_run_twice(tmp_path: Path) -> None:
    first = run("demo", "try", cwd=tmp_path)
    assert (first.code, first.err) == (0, "")
    lines = first.summary.splitlines()
    commands = [line for line in lines if line.startswith("$ ")]
    assert lines[0] == "5 sample images are in try/images"
    assert commands == [
        "$ dinac encode try/images try/latents --model nano",
        "$ dinac decode try/latents try/decoded --model nano",
        "$ dinac psnr try/images try/decoded",
    ]
    assert lines[lines.index(commands[0]) + 1] == "5 encoded with nano; SIZES in TIME"
    assert lines[lines.index(commands[1]) + 1] == "5 decoded; SIZES in TIME"
    table = lines[lines.index(commands[2]) + 1 :]
    assert table[0].split() == [
        "PSNR",
        "mean",
        "std",
        "median",
        "p5",
        "p95",
        "min",
        "max",
        "images",
    ]
    assert table[1].split()[-1] == "5"
    before = read_files(tmp_path)

    second = run("demo", "try", cwd=tmp_path, environment={"DINAC_MODEL": "d2"})
    assert (second.code, second.err) == (0, "")
    again = second.out.splitlines()
    assert again[again.index(commands[0]) + 1] == "0 encoded with nano, 5 already done"
    assert again[again.index(commands[1]) + 1] == "0 decoded, 5 already done"
    assert again[-5:] == lines[-5:]
    assert read_files(tmp_path) == before


def test_demo_runs_the_commands_as_shown(tmp_path: Path) -> None:
    """Variables count, and a folder named like an option is no option."""
    done = run("demo", "--", "-x", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "$ dinac psnr ./-x/images ./-x/decoded\n" in done.out
    (tmp_path / "-x/latents/clouds.jpg.dinac").unlink()
    other = run("demo", "--", "-x", cwd=tmp_path, environment={"DINAC_DEVICE": "cuda:99"})
    assert other.code == 1
    assert other.err.startswith("dinac: DINAC_DEVICE=cuda:99: device cuda:99 is not available")


def test_demo_makes_missing_samples(tmp_path: Path) -> None:
    (tmp_path / "try/images/nested").mkdir(parents=True)  # a demo was stopped before it began
    assert run("demo", "try", cwd=tmp_path).code == 0
    before = read_files(tmp_path)
    (tmp_path / "try/images/clouds.jpg").unlink()
    (tmp_path / "try/.DS_Store").touch()
    assert run("demo", "try", cwd=tmp_path).code == 0
    (tmp_path / "try/.DS_Store").unlink()
    assert read_files(tmp_path) == before


@pytest.mark.parametrize("name", ["a.jpg", "images/a.jpg", "latents/a.jpg.dinac", ".hidden"])
def test_demo_refuses_a_folder_of_other_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / "photos" / name
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    done = run("demo", "photos", cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err == ("dinac: photos: not empty, and not made by dinac demo; name a new folder\n")
    assert read_files(tmp_path) == {f"photos/{name}": b"precious"}


def test_demo_refuses_a_folder_with_a_sample_and_other_files(tmp_path: Path) -> None:
    (tmp_path / "try/images").mkdir(parents=True)
    (tmp_path / "try/images/clouds.jpg").write_text("a sample")
    (tmp_path / "try/a.jpg").write_text("precious")
    assert run("demo", "try", cwd=tmp_path).code == 2


def test_demo_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "photos").write_text("a file")
    done = run("demo", "photos", cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err == "dinac: photos: exists and is not a folder; name a new folder\n"
