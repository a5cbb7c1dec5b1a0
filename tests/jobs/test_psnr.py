"""Pairs of originals and reconstructions, and their PSNR."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from PIL import Image

from dinac_cli.errors import UsageError
from dinac_cli.images.formats import MAX_PIXELS
from dinac_cli.images.metrics import measure_psnr
from dinac_cli.jobs.psnr import MeasureOptions, measure_pairs
from dinac_cli.jobs.results import FileResult, Status

from .hand_made import draw, run_control, write_images

HINT = "use the same --resize, --no-upscale, --max-side, --crop and --buckets as encode did"


def measure(first: Path, second: Path, options: MeasureOptions | None = None) -> list[FileResult]:
    return list(measure_pairs(str(first), str(second), options or MeasureOptions(), run_control()))


def outcomes(results: list[FileResult]) -> list[tuple[str, Status, str | None]]:
    """Returns the last two parts of each path, the status, and the counterpart or the reason."""
    return [
        ("/".join(Path(r.file).parts[-2:]), r.status, Path(r.output).name if r.output else r.reason)
        for r in results
    ]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("A", "B"):
        (tmp_path / name).mkdir()
    return tmp_path / "A", tmp_path / "B"


def test_a_counterpart_has_the_same_name_or_an_appended_suffix(folders: tuple[Path, Path]) -> None:
    first, second = folders
    write_images(first, "a.png", "b.jpg", "c.webp", "d.JPG", "trip/e.png")
    write_images(second, "a.png", "b.jpg.png", "c.webp.tiff", "d.JPG.png", "trip/e.png")
    assert outcomes(measure(first, second)) == [
        ("A/a.png", Status.MEASURED, "a.png"),
        ("A/b.jpg", Status.MEASURED, "b.jpg.png"),
        ("A/c.webp", Status.MEASURED, "c.webp.tiff"),
        ("A/d.JPG", Status.MEASURED, "d.JPG.png"),
        ("trip/e.png", Status.MEASURED, "e.png"),
    ]


def test_the_same_name_wins_over_an_appended_suffix(folders: tuple[Path, Path]) -> None:
    first, second = folders
    write_images(first, "b.jpg")
    write_images(second, "b.jpg", "b.jpg.png")
    assert outcomes(measure(first, second)) == [
        ("A/b.jpg", Status.MEASURED, "b.jpg"),
        (
            f"{second.parent.name}/B",
            Status.FAILED,
            "holds a second reconstruction: b.jpg.png beside b.jpg; keep only one of each image",
        ),
    ]


def test_an_image_without_a_counterpart_is_missing_on_either_side(
    folders: tuple[Path, Path],
) -> None:
    first, second = folders
    write_images(first, "a.png", "only.png")
    write_images(second, "a.png", "sub/extra.png", "other.png")
    assert outcomes(measure(first, second)) == [
        ("A/a.png", Status.MEASURED, "a.png"),
        ("A/only.png", Status.MISSING, f"has no counterpart in {second}"),
        ("B/other.png", Status.MISSING, f"has no counterpart in {first}"),
        ("sub/extra.png", Status.MISSING, f"has no counterpart in {first}"),
    ]


def test_a_file_that_is_not_an_image_is_no_counterpart(folders: tuple[Path, Path]) -> None:
    first, second = folders
    write_images(first, "a.png")
    (first / "notes").write_text("text")
    write_images(second, "a.png", "notes.png")
    assert outcomes(measure(first, second))[1] == (
        "B/notes.png", Status.MISSING, f"has no counterpart in {first}"
    )  # fmt: skip


def test_psnr_is_measured_on_the_pixels(folders: tuple[Path, Path]) -> None:
    first, second = folders
    Image.fromarray(draw(0)).save(first / "a.png")
    Image.fromarray(draw(1)).save(second / "a.png")
    Image.fromarray(draw(2)).save(first / "same.png")
    Image.fromarray(draw(2)).save(second / "same.png")
    results = measure(first, second)
    assert [result.psnr_db for result in results] == [measure_psnr(draw(0), draw(1)), math.inf]
    assert (results[0].width, results[0].height) == (30, 20)


def test_both_sides_are_composited_on_the_background(folders: tuple[Path, Path]) -> None:
    first, second = folders
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(first / "a.png")
    Image.new("RGB", (4, 4), (9, 8, 7)).save(second / "a.png")
    (result,) = measure(first, second, MeasureOptions(background=(9, 8, 7)))
    assert result.psnr_db == math.inf


def test_pairs_that_cannot_be_measured_fail(folders: tuple[Path, Path]) -> None:
    first, second = folders
    write_images(first, "a.png", "b.png", "c.png")
    write_images(second, "a.png", "b.png", height=21)
    (first / "b.png").write_bytes(b"text")
    (second / "c.png").write_bytes(b"")
    results = measure(first, second)
    assert [(result.status, result.error, result.reason) for result in results] == [
        (Status.FAILED, "ImageError", f"sizes differ: 30x20 and 30x21; {HINT}"),
        (
            Status.FAILED,
            "ImageError",
            "not an image (no known image format); see 'dinac man images'",
        ),
        (
            Status.FAILED,
            "ImageError",
            f"{second / 'c.png'}: empty file (0 bytes); copy or download it again",
        ),
    ]
    limited = measure(first, second, MeasureOptions(max_pixels=10))
    assert "more than the limit of 10" in str(limited[0].reason)
    assert MeasureOptions().max_pixels == MAX_PIXELS


def test_a_folder_that_cannot_be_listed_fails(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    first, second = folders
    for side in folders:
        write_images(side, "a.png", "locked/b.png")
    real = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    problem = "cannot list this folder: Permission denied; check its permissions"
    results = measure(first, second)
    assert [result.error for result in results] == [None, "InputError", "InputError"]
    assert outcomes(results) == [
        ("A/a.png", Status.MEASURED, "a.png"),
        ("A/locked", Status.FAILED, problem),
        ("B/locked", Status.FAILED, problem),
    ]


def test_a_folder_inside_the_other_is_not_part_of_it(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", "a.png")
    write_images(tmp_path / "photos/decoded", "a.png")
    photos, decoded = tmp_path / "photos", tmp_path / "photos/decoded"
    for first, second in ((photos, decoded), (decoded, photos)):
        assert [result.status for result in measure(first, second)] == [Status.MEASURED]


def test_a_folder_equals_itself(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "sub/b.png")
    assert [result.psnr_db for result in measure(tmp_path, tmp_path)] == [math.inf] * 2


def test_two_files_are_one_pair(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "elsewhere/b.jpg")
    (result,) = measure(tmp_path / "a.png", tmp_path / "elsewhere/b.jpg")
    assert (result.status, result.output) == (Status.MEASURED, str(tmp_path / "elsewhere/b.jpg"))


def test_a_file_and_a_folder_are_refused(folders: tuple[Path, Path]) -> None:
    first, second = folders
    write_images(first, "a.png")
    for one, other in ((first / "a.png", second), (first, first / "a.png")):
        with pytest.raises(UsageError, match="name two folders or two files"):
            measure(one, other)


def test_missing_and_empty_folders_are_refused(folders: tuple[Path, Path]) -> None:
    first, second = folders
    with pytest.raises(UsageError, match=r"gone: no such file or folder; check the path$"):
        measure(first, second / "gone")
    (first / "notes.txt").write_text("text")
    with pytest.raises(UsageError) as caught:
        measure(first, second)
    assert str(caught.value) == (f"no images found in {first} and {second}; name folders of images")


def test_a_stop_request_takes_no_more_pairs(folders: tuple[Path, Path]) -> None:
    for side in folders:
        write_images(side, *(f"{number}.png" for number in range(20)))
    control = run_control(workers=1)
    results = measure_pairs(str(folders[0]), str(folders[1]), MeasureOptions(), control)
    next(results)
    control.stop.set()
    assert len(list(results)) < 4
