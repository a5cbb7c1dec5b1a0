"""psnr pairs images in archives and in remote folders as it pairs those of local folders."""

from __future__ import annotations

import io
import math
import tarfile
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from dinac_cli.errors import UsageError
from dinac_cli.jobs.psnr import PsnrRequest
from dinac_cli.jobs.request import run_request
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.report.report import ReportRequest
from dinac_cli.storage.store import open_store
from dinac_cli.storage.tars import TarWriter

from .hand_made import draw, read_tree, write_images

NAMES = ("a.jpg", "b.png", "trip/c.webp")


def measure(first: Path | str, second: Path | str, *exclude: str) -> list[FileResult]:
    request = PsnrRequest(first=str(first), second=str(second), exclude=exclude)
    return list(run_request(request))


def outcomes(results: list[FileResult]) -> list[tuple[str, Status, str | None]]:
    return [(result.name, result.status, result.reason) for result in results]


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    with path.open("wb") as file:
        writer = TarWriter(file.write)
        for name, data in files.items():
            writer.add(name, data)
        writer.finish()
    return path


def upload(folder: Path) -> str:
    store = open_store(f"memory://{uuid.uuid4()}", for_writing=True)
    for name, data in read_tree(folder).items():
        store.write(name, data)
    return store.place


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    write_images(tmp_path / "A", *NAMES)
    return tmp_path / "A"


@pytest.fixture
def decoded(tmp_path: Path) -> Path:
    """Reconstructions of `originals` with the names that decode gives them, each a little off."""
    for number, name in enumerate(("a.jpg.png", "b.png", "trip/c.webp.png")):
        path = tmp_path / "B" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(number) // 2 + 9).save(path)
    return tmp_path / "B"


def values(results: list[FileResult]) -> dict[str, float]:
    assert all(result.status is Status.MEASURED for result in results), outcomes(results)
    return {result.name: result.psnr_db or math.nan for result in results}


def test_every_kind_of_place_gives_the_same_values(
    originals: Path, decoded: Path, tmp_path: Path
) -> None:
    expected = values(measure(originals, decoded))
    assert sorted(expected) == sorted(NAMES)
    first = write_tar(tmp_path / "photos.tar", read_tree(originals))
    second = write_tar(tmp_path / "decoded.tar", read_tree(decoded))
    for pair in (
        (first, decoded),
        (originals, second),
        (upload(originals), decoded),
        (originals, upload(decoded)),
        (upload(originals), upload(decoded)),
        (first, upload(decoded)),
        (upload(originals), second),
    ):
        assert values(measure(*pair)) == expected


def test_rows_of_a_parquet_file_have_the_names_that_decode_gives_them(
    originals: Path, tmp_path: Path
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    data = [(originals / name).read_bytes() for name in NAMES]
    parquet.write_table(pyarrow.table({"picture": data}), tmp_path / "rows.parquet")
    for number, name in enumerate(NAMES):
        path = tmp_path / f"out/rows_{number:08}.png"
        path.parent.mkdir(exist_ok=True)
        Image.open(originals / name).convert("RGB").save(path)
    rows, out = str(tmp_path / "rows.parquet"), str(tmp_path / "out")
    with pytest.raises(UsageError, match=r"rows\.parquet: has no column image; choose one with"):
        measure(rows, out)
    results = list(run_request(PsnrRequest(first=rows, second=out, column="picture")))
    assert [(r.name, r.psnr_db) for r in results] == [
        (f"rows_{number:08}", math.inf) for number in range(3)
    ]


def test_single_images_may_be_remote(originals: Path, decoded: Path) -> None:
    place = upload(originals)
    [result] = measure(f"{place}/b.png", decoded / "b.png")
    assert (result.status, result.file) == (Status.MEASURED, f"{place}/b.png")
    assert result.output == str(decoded / "b.png")


@pytest.mark.parametrize("packed", ["A", "B"])
def test_an_image_without_a_counterpart_is_missing(
    originals: Path, decoded: Path, tmp_path: Path, packed: str
) -> None:
    (decoded / "b.png").unlink()
    Image.fromarray(draw(9)).save(decoded / "z.png")
    folder = {"A": originals, "B": decoded}[packed]
    tar = write_tar(tmp_path / "x.tar", read_tree(folder))
    pair = (tar, decoded) if packed == "A" else (originals, tar)
    missing = {r.file: r.reason for r in measure(*pair) if r.status is Status.MISSING}
    first, second = (f"{tar}: ", f"{decoded}/") if packed == "A" else (f"{originals}/", f"{tar}: ")
    assert missing == {
        f"{first}b.png": f"has no counterpart in {pair[1]}",
        f"{second}z.png": f"has no counterpart in {pair[0]}",
    }


def test_a_second_reconstruction_is_a_failure(
    originals: Path, decoded: Path, tmp_path: Path
) -> None:
    write_tar(tmp_path / "0.tar", read_tree(decoded))
    write_tar(tmp_path / "1.tar", {"a.jpg.png": (decoded / "a.jpg.png").read_bytes()})
    write_tar(tmp_path / "x.tar", read_tree(originals))
    packed = measure(originals, tmp_path / "{0..1}.tar")
    Image.fromarray(draw(9)).save(decoded / "a.jpg.tiff")
    for results, place in (
        (packed, tmp_path / "{0..1}.tar"),
        (measure(tmp_path / "x.tar", decoded), decoded),
    ):
        assert [r.file for r in results if r.failed] == [str(place)]
        reason = results[-1].reason or ""
        assert reason.startswith("holds a second reconstruction: a.jpg.")
        assert sum(r.status is Status.MEASURED for r in results) == 3


def test_images_may_be_left_out(originals: Path, decoded: Path, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", read_tree(originals))
    results = measure(tar, decoded, "trip/", "b.*")
    assert outcomes(results) == [("a.jpg", Status.MEASURED, None)]


def test_a_damaged_archive_is_one_failure(originals: Path, decoded: Path, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", read_tree(originals))
    with tarfile.open(tar) as members:
        last = members.getmembers()[-1]
    tar.write_bytes(tar.read_bytes()[: last.offset_data + 9])
    results = measure(tar, decoded)
    [broken] = [result for result in results if result.failed]
    assert broken.file == str(tar)
    assert (broken.reason or "").startswith("cut off after")
    assert results[0].status is Status.MEASURED


def test_two_images_of_one_name_are_not_both_measured(
    originals: Path, decoded: Path, tmp_path: Path
) -> None:
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", read_tree(originals))
    results = measure(tmp_path / "{0..1}.tar", decoded)
    assert [r.status for r in results] == [Status.MEASURED] * 3 + [Status.FAILED] * 3
    assert results[3].reason == "an image of this name came before; measure the archives one by one"


def test_wrong_places_are_named(originals: Path, decoded: Path, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", read_tree(originals))
    (tmp_path / "lat/_dinac").mkdir(parents=True)
    (tmp_path / "lat/_dinac/run.json").write_bytes(b"{}")
    (tmp_path / "empty").mkdir()
    wrong: dict[tuple[Path | str, Path | str], str] = {
        (tar, tar): "one of the two must be a folder; unpack it",
        (tmp_path / "no.tar", decoded): r"no\.tar: no such file; check its name",
        (tar, tmp_path / "no"): "no: no such file or folder; check the path",
        (tar, originals / "a.jpg"): "name a folder of images, or an archive of them",
        (tar, tmp_path / "lat"): "lat holds latent files; name the folder that decode wrote",
        (tar, tmp_path / "empty"): "no images found in .*empty; name a folder of images",
        (tar, f"memory://{uuid.uuid4()}"): "no images found in memory://.*; name a folder",
        (originals, tmp_path / "lat"): "lat holds latent files; name the folder that decode wrote",
        ("memory://b/*.png", decoded): "name a folder here, not a pattern",
    }
    for (first, second), line in wrong.items():
        with pytest.raises(UsageError, match=line):
            print(first, second, measure(first, second))


def test_a_page_must_be_on_this_machine(tmp_path: Path) -> None:
    out = str(tmp_path / "page.html")
    for page, assets in (("s3://b/p.html", None), (out, "s3://b/assets")):
        with pytest.raises(UsageError, match=r"^s3://b/.*: the page must be on this machine"):
            ReportRequest(originals="a", reconstructions=("b",), out=page, assets=assets).open()


def test_an_unreadable_image_is_one_failure(decoded: Path, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(draw(1)).save(file, "PNG")
    tar = write_tar(tmp_path / "x.tar", {"a.jpg": b"junk", "b.png": file.getvalue()})
    results = measure(tar, decoded)
    assert [r.status for r in results][:2] == [Status.FAILED, Status.MEASURED]
    assert results[0].file == f"{tar}: a.jpg"
