"""Odd file names: unchanged on disk, escaped on the screen, made safe in a stream."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from .conftest import list_files, make_png, save
from .processes import Finished, run, run_on_terminal, strip_escapes

pytestmark = pytest.mark.skipif(
    sys.platform in ("win32", "darwin"), reason="file systems that refuse some of these names"
)

# Each name on disk, on the screen, and in a stream of records.
NAMES = [
    ("%41.png", "%41.png", "%41.png"),
    ("--json.png", "--json.png", "--json.png"),
    ("-d/-x.png", "-d/-x.png", "-d/-x.png"),
    ("CON.png", "CON.png", "%43ON.png"),
    ("[red]b[x]?*.png", "[red]b[x]?*.png", "[red]b[x]?*.png"),
    ("a:b.png", "a:b.png", "a%3Ab.png"),
    ("back\\slash.png", "back\\slash.png", "back%5Cslash.png"),
    ("bad\udcff\udcfebyte.png", r"bad\xff\xfebyte.png", "bad%FF%FEbyte.png"),
    ("esc\x1b[31mred.png", r"esc\x1b[31mred.png", "esc%1B[31mred.png"),
    ("new\nline.png", r"new\nline.png", "new%0Aline.png"),
    ("with space .png", "with space .png", "with space .png"),
    ("ünï码.png", "ünï码.png", "ünï码.png"),
]
DISK, SCREEN, STREAM = zip(*NAMES, strict=True)


def make_images(folder: Path) -> Path:
    """Fills a folder with an image of each name, and a link back to the folder."""
    for number, name in enumerate(DISK):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(make_png(16, 16, number))
    (folder / "-d/loop").symlink_to(folder)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder `images` of all names that a test may change."""
    return make_images(tmp_path / "images")


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `images` and their `latents`, for reading only."""
    folder = tmp_path_factory.mktemp("encoded")
    make_images(folder / "images")
    done = run("encode", "images", "latents", "--verbose", cwd=folder)
    assert done.code == 0
    assert sorted(done.err.splitlines()) == sorted(
        f"dinac: images/{name} → latents/{name}.dinac (written)" for name in SCREEN
    )
    return folder


def test_odd_names_are_kept_in_a_folder(encoded: Path, tmp_path: Path) -> None:
    assert list_files(encoded / "latents") == sorted(f"{name}.dinac" for name in DISK)
    decoded = run("decode", "latents", tmp_path, "--json", cwd=encoded)
    assert (decoded.code, decoded.err) == (0, "")
    assert list_files(tmp_path) == sorted(DISK)
    # JSON preserves the bytes of a name.
    said = {os.fsencode(entry["file"]) for entry in decoded.objects[:-1]}
    assert said == {os.fsencode(f"latents/{name}.dinac") for name in DISK}
    measured = run("psnr", "images", tmp_path, "--verbose", cwd=encoded)
    assert (measured.code, measured.err) == (0, "")
    shown = {line[11:] for line in measured.out.splitlines()}
    assert shown >= {f"images/{name}" for name in SCREEN}


def test_names_are_made_safe_in_a_stream(encoded: Path, tmp_path: Path) -> None:
    records = b"".join((encoded / f"latents/{name}.dinac").read_bytes() for name in DISK)
    decoded = run("decode", "-", tmp_path, stdin=records)
    assert (decoded.code, decoded.err) == (0, "")
    assert list_files(tmp_path) == sorted(STREAM)


def list_taken(done: Finished) -> list[str]:
    """Returns the inputs of a run with -v and --max-pixels 1, which refuses them all by name."""
    assert done.code == (3 if done.err else 0)
    return sorted(line.split(": ")[1] for line in done.err.splitlines())


def test_leading_dashes_and_patterns_on_the_command_line(images: Path, tmp_path: Path) -> None:
    """After `--` nothing is an option; the name of an existing file is not a pattern."""
    for name in ("x1.png", "x[1].png", "r.png"):
        (images / name).write_bytes(make_png())
    arguments = ("--", "--json.png", "[red]*.png", "ü*.png", "x[1].png", tmp_path / "out")
    done = run("encode", "-v", "--max-pixels", "1", *arguments, cwd=images)
    found = [r"esc\x1b[31mred.png", "r.png"]  # `[red]` matches one letter
    assert list_taken(done) == sorted(["--json.png", "ünï码.png", "x[1].png", *found])


def test_recursive_pattern_finds_each_file_once(images: Path, tmp_path: Path) -> None:
    done = run("encode", "images/**/*.png", "out", "-v", "--max-pixels", "1", cwd=tmp_path)
    taken = list_taken(done)  # on any way around the loop
    assert sorted(path.rpartition("/")[2] for path in taken) == sorted(
        name.rpartition("/")[2] for name in SCREEN
    )


def test_failures_name_odd_files_safely(images: Path, tmp_path: Path) -> None:
    for name in DISK:
        (images / name).write_bytes(b"not a picture")
    done = run("encode", "images", "out", "-v", "--failures", "failed.jsonl", cwd=tmp_path)
    assert (done.code, done.out) == (
        3,
        f"0 encoded with nano (default on a CPU), {len(DISK)} failed\n",
    )
    reason = "not an image (no known image format); see 'dinac man images'"
    assert sorted(done.err.splitlines()) == sorted(
        f"dinac: images/{name}: {reason}" for name in SCREEN
    )
    assert "\n".join(done.err.splitlines()) + "\n" == done.err
    code, screen = run_on_terminal("encode", images, tmp_path / "out", "-v")
    shown = strip_escapes(screen).replace("\r\n", " ")  # long lines wrap
    assert code == 3
    assert all(f"dinac: {images}/{name}: {reason} " in shown for name in SCREEN)
    assert "\x1b[31mred" not in screen


def test_link_out_of_out_is_not_followed(tmp_path: Path) -> None:
    save(tmp_path / "images/sub/a.png")
    (tmp_path / "outside").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").symlink_to(tmp_path / "outside")
    done = run("encode", "images", "out", cwd=tmp_path)
    assert done.code == 3
    assert done.err == (
        "dinac: images/sub/a.png: out/sub: leads outside out through a symbolic link; "
        "remove the link or name its target as OUT\n"
    )
    assert list_files(tmp_path / "outside") == []


class TestNamesThatBeginWithADash:
    @pytest.fixture
    def dashed(self, tmp_path: Path) -> Path:
        for name in ("-x.jpg", "-o.jpg", "--json.png", "in/-d/-y.png", "-1"):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(make_png())
        return tmp_path

    def test_after_two_dashes_and_in_folders(self, dashed: Path) -> None:
        for arguments in (
            ("--", "-x.jpg", "-o.jpg", "in", "out"),
            ("-o", "out", "--", "-x.jpg", "--json.png"),
            ("./-x.jpg", "./-1", "./-out"),
        ):
            done = run("encode", *arguments, cwd=dashed)
            assert (done.code, done.err) == (0, "")
        assert list_files(dashed / "out") == [
            "--json.png.dinac",
            "-d/-y.png.dinac",
            "-o.jpg.dinac",
            "-x.jpg.dinac",
        ]
        done = run("decode", "--", "-out/-x.jpg.dinac", "-out", cwd=dashed)
        assert (done.code, done.err) == (0, "")
        assert (dashed / "-out/-x.jpg.png").is_file()

    @pytest.mark.parametrize("name", ["-x.jpg", "-o.jpg", "--json.png"])
    @pytest.mark.parametrize("before", ["--prune", "--verbose"])
    def test_file_that_looks_like_an_option_is_refused(
        self, dashed: Path, before: str, name: str
    ) -> None:
        done = run("encode", before, name, "in", "out", cwd=dashed)
        assert (done.code, done.out, done.err) == (
            2,
            "",
            f"dinac: {name} exists, but begins with '-' like an option; "
            f"write ./{name}, or put -- before it\n",
        )
        assert not (dashed / "out").exists()

    def test_options_and_their_values_are_no_files(self, dashed: Path) -> None:
        (dashed / "--json").touch()
        (dashed / "--limit=1").touch()
        done = run("encode", "in", "out", "--json", "--limit=1", cwd=dashed)
        assert done.objects[-1]["written"] == 1
        done = run("decode", "out", "decoded", "--strength", "-1", cwd=dashed)
        assert done.err == "dinac: --strength -1: expected more than 0 and at most 1\n"
