"""`report` on archives, shards and URLs: the page of local folders, and no copy that stays."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import fsspec
import pytest

from dinac_cli.errors import DinacError
from dinac_cli.jobs.decode import DecodeRequest
from dinac_cli.jobs.encode import EncodeRequest
from dinac_cli.jobs.model_choice import ModelChoice
from dinac_cli.jobs.request import InputRequest, run_request
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.report.report import ReportRequest

from ..jobs.shards.shard_runs import make_photo, make_tar, write_file

NAMES = ["a.png", "trip/b.png", "trip/c.png"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos/`, the same as `photos.tar` and `cut.tar`, `shards/`, `loose/`, and `decoded/`."""
    folder = tmp_path_factory.mktemp("report")
    photos = {name: make_photo(seed) for seed, name in enumerate(NAMES)}
    for name, data in photos.items():
        write_file(folder / "photos" / name, data)
    tar = write_file(folder / "photos.tar", make_tar(photos)).read_bytes()
    end = len(tar.rstrip(b"\0"))
    write_file(folder / "cut.tar", tar[: end + -end % 512])
    inputs = InputRequest(paths=(str(folder / "photos"),))
    model = ModelChoice(model="nano")
    for out, size in (("shards", 2), ("loose", None)):
        request = EncodeRequest(inputs=inputs, out=str(folder / out), model=model, shard_size=size)
        assert all(not result.failed for result in run_request(request))
    latents = InputRequest(paths=(str(folder / "loose"),))
    decoding = DecodeRequest(inputs=latents, out=str(folder / "decoded"))
    assert len(list(run_request(decoding))) == 3
    return folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files; a run must leave it empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def report(page: Path, originals: object, decoded: object, latents: object) -> list[FileResult]:
    request = ReportRequest(
        originals=str(originals),
        reconstructions=(str(decoded),),
        latents=(str(latents),),
        out=str(page),
        title="Photographs",
    )
    return list(run_request(request))


def test_a_page_of_copies_equals_one_of_local_folders(
    work: Path, temporary: Path, tmp_path: Path
) -> None:
    place = f"memory://{tmp_path.name}/photos"
    fsspec.filesystem("memory").put(str(work / "photos"), place, recursive=True)
    local = report(tmp_path / "local.html", work / "photos", work / "decoded", work / "loose")
    assert [result.status for result in local] == [Status.MEASURED] * 3
    expected = read_images(tmp_path / "local.html")
    assert len(expected) == 3
    for number, originals in enumerate((work / "photos.tar", place)):
        page = tmp_path / f"{number}.html"
        results = report(page, originals, work / "decoded", work / "shards")
        assert [result.psnr_db for result in results] == [result.psnr_db for result in local]
        assert [result.file for result in results] == [f"{originals}: {name}" for name in NAMES]
        assert read_images(page) == expected
    assert list(temporary.iterdir()) == []


def read_images(page: Path) -> list[str]:
    """Returns the facts, the images and the latents of each image of a page."""
    pattern = r'<script type="application/json" class="image" data-facts=.*?</script>'
    return re.findall(pattern, page.read_text(), re.DOTALL)


def test_what_cannot_be_copied_is_a_failure_with_its_place(
    work: Path, temporary: Path, tmp_path: Path
) -> None:
    shards = Path(shutil.copytree(work / "shards", tmp_path / "shards"))
    (shards / "000/000001.tar").unlink()
    results = report(tmp_path / "p.html", work / "cut.tar", work / "decoded", shards)
    failed = {result.file: result.reason for result in results if result.failed}
    assert failed.keys() == {str(work / "cut.tar"), f"{shards}/000/000001.tar"}
    assert "the end mark is missing" in str(failed[str(work / "cut.tar")])
    assert not [text for text in failed.values() if str(temporary) in str(text)]
    assert len(read_images(tmp_path / "p.html")) >= 2
    assert list(temporary.iterdir()) == []


def test_errors_name_the_place_and_leave_no_copy(
    work: Path, temporary: Path, tmp_path: Path
) -> None:
    other = write_file(tmp_path / "other.tar", make_tar({"z.png": make_photo(9)}))
    with pytest.raises(DinacError) as caught:
        report(tmp_path / "p.html", other, work / "decoded", work / "shards")
    assert str(other) in str(caught.value)
    assert str(temporary) not in str(caught.value)
    assert list(temporary.iterdir()) == []
