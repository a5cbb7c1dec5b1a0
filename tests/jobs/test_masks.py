"""`encode --mask` and `--masks`: what records hold, when they are stale, and what is refused."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinac_cli import encode_files, verify_files
from dinac_cli.container.record import Record, read_record, unpack_record
from dinac_cli.container.tensors import ALL_COMPANIONS, Mask
from dinac_cli.errors import UsageError
from dinac_cli.jobs import freshness, image_masks
from dinac_cli.jobs.encode import EncodeChoice, EncodeRequest, submit_with_twins
from dinac_cli.jobs.image_masks import describe_mask, read_mask_kind
from dinac_cli.jobs.model_choice import ModelChoice
from dinac_cli.jobs.plan import Fate, PlanRequest
from dinac_cli.jobs.request import InputRequest
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage import source_memory
from dinac_cli.storage.content import hash_file

from .hand_made import GOLDEN, draw, read_tree, write_images

TINY = str(GOLDEN / "tiny")
NAMES = ("a.png", "trip/b.png", "c.png")
LEFT = np.repeat([[255, 0]], [10, 20], axis=1).repeat(20, axis=0).astype(np.uint8)
LEFT_PATCHES = [[159, 0], [159, 0]]  # of 16 columns, 10 count: 159.375
MIRRORED_PATCHES = [[0, 182], [0, 182]]  # of the last 14 columns, 10 count: 182.14


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three opaque images of 30x20 pixels, so that the patches at the edges are not full."""
    write_images(tmp_path / "photos", *NAMES)
    return tmp_path / "photos"


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Masks of two of the images; that of `trip/b.png` is a JPEG."""
    save_mask(tmp_path / "masks/a.png", LEFT)
    save_mask(tmp_path / "masks/trip/b.jpeg", np.zeros((20, 30), np.uint8))
    return tmp_path / "masks"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the memory of OUT remember files that have just changed."""
    monkeypatch.setattr(source_memory, "SETTLE_NS", -(10**18))


def save_mask(path: Path, levels: Mask) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels).save(path)


def save_clear(path: Path, alpha: Mask, seed: int = 9) -> None:
    Image.fromarray(np.dstack([draw(seed, *alpha.shape), alpha])).save(path)


def encode(photos: Path, out: Path, **options: Any) -> dict[str, FileResult]:
    results = encode_files(photos, out, model=TINY, device="cpu", dtype="f32", **options)
    return {result.name or result.file: result for result in results}


def find_fates(photos: Path, out: Path, **choice: Any) -> dict[str, str]:
    """Plans a run; returns the state of each image that is not done, and its reason."""
    run = plan(photos, out, **choice)
    files = {file.file[len(str(photos)) + 1 :]: file for file in run.list_files()}
    return {
        name: f"{file.fate.value}: {file.reason}"
        for name, file in files.items()
        if file.fate is not Fate.DONE
    }


def plan(photos: Path, out: Path, **choice: Any) -> Any:
    request = EncodeRequest(
        inputs=InputRequest(paths=(str(photos),)),
        out=str(out),
        options=EncodeChoice(**choice),
        model=ModelChoice(model=TINY, device="cpu", dtype="f32"),
    )
    return PlanRequest(encode=request).open()


def find_work(photos: Path, out: Path, **options: Any) -> dict[str, str | None]:
    """Plans and encodes; returns the images that were encoded, and why."""
    if isinstance(options.get("masks"), Path):
        options["masks"] = str(options["masks"])
    fates = find_fates(photos, out, **options)
    results = encode(photos, out, **options)
    made = {name: r.reason for name, r in results.items() if r.status is Status.WRITTEN}
    assert set(fates) == set(made)
    assert all(r.status in (Status.WRITTEN, Status.DONE) for r in results.values())
    assert find_fates(photos, out, **options) == {}
    again = encode(photos, out, **options)
    assert {result.status for result in again.values()} == {Status.DONE}
    return made


def read(out: Path, name: str) -> Record:
    return read_record(out / f"{name}.dinac", ALL_COMPANIONS, with_twin=True)


def list_masks(record: Record) -> tuple[Any, Any]:
    """Returns the masks of the image and of the mirrored image as lists."""
    views = (record.mask, None if record.flipped is None else record.flipped.mask)
    own, flipped = (None if mask is None else mask.tolist() for mask in views)
    return own, flipped


class TestAlpha:
    def test_alpha_becomes_a_mask_and_the_mirrored_image_has_its_own(
        self, photos: Path, tmp_path: Path
    ) -> None:
        save_clear(photos / "clear.png", LEFT)
        out = tmp_path / "out"
        assert set(find_work(photos, out, mask=True)) == {*NAMES, "clear.png"}
        assert list_masks(read(out, "clear.png")) == (LEFT_PATCHES, None)
        assert read(out, "clear.png").header.image.endswith(";mask=alpha")
        both = tmp_path / "both"
        encode(photos, both, mask=True, flip=True)
        assert list_masks(read(both, "clear.png")) == (LEFT_PATCHES, MIRRORED_PATCHES)

    def test_an_opaque_image_has_no_mask_and_is_complete(
        self, photos: Path, tmp_path: Path, settled: None
    ) -> None:
        out = tmp_path / "out"
        assert set(find_work(photos, out, mask=True)) == set(NAMES)
        assert list_masks(read(out, "a.png")) == (None, None)
        plain = tmp_path / "plain"
        encode(photos, plain)
        assert len(read_tree(plain)) == 3
        own, asked = (read(folder, "a.png") for folder in (plain, out))
        assert asked.header.image == f"{own.header.image};mask=alpha"
        assert asked.latents.tobytes() == own.latents.tobytes()

    def test_a_full_mask_is_not_stored(self, photos: Path, tmp_path: Path) -> None:
        alpha = np.full((20, 30), 255, np.uint8)
        alpha[0, 0] = 200  # of a patch of 16 x 16: the mean is rounded to 255
        save_clear(photos / "clear.png", alpha)
        encode(photos, tmp_path / "out", mask=True, flip=True)
        # In the mirrored image, the pixel lies in a patch of 14 x 16.
        assert list_masks(read(tmp_path / "out", "clear.png")) == (None, None)
        alpha[0, 0] = 140  # 115 / 256 rounds to 0, but 115 / 224 to 1
        save_clear(photos / "clear.png", alpha)
        encode(photos, tmp_path / "out", mask=True, flip=True)
        rows = [[255, 254], [255, 255]]
        assert list_masks(read(tmp_path / "out", "clear.png")) == (None, rows)

    def test_records_without_a_mask_are_encoded_again(
        self, photos: Path, tmp_path: Path, settled: None
    ) -> None:
        out = tmp_path / "out"
        encode(photos, out)
        before = read_tree(out)
        assert find_work(photos, out) == {}
        reason = "the record was made without masks"
        assert find_work(photos, out, mask=True) == dict.fromkeys(NAMES, reason)
        assert find_work(photos, out) == {}  # follows the records
        with pytest.raises(UsageError, match="holds latents with --mask; you asked for --no-mask "):
            encode(photos, out, mask=False)
        write_images(photos, "d.png")
        encode(photos, out)
        assert read(out, "d.png").header.image.endswith("mask=alpha")
        encode(photos, out, mask=False, overwrite=True)
        assert {name: read_tree(out)[name] for name in before} == before

    def test_latents_do_not_depend_on_the_mask(self, photos: Path, tmp_path: Path) -> None:
        save_clear(photos / "clear.png", LEFT)
        encode(photos, tmp_path / "plain", background="#000000")
        encode(photos, tmp_path / "out", background="#000000", mask=True)
        records = [read(tmp_path / folder, "clear.png") for folder in ("plain", "out")]
        assert records[0].latents.tobytes() == records[1].latents.tobytes()

    def test_any_number_of_workers_gives_the_same_bytes(self, photos: Path, tmp_path: Path) -> None:
        save_clear(photos / "clear.png", LEFT)
        encode(photos, tmp_path / "one", mask=True, flip=True, workers=1)
        encode(photos, tmp_path / "two", mask=True, flip=True, workers=3)
        assert read_tree(tmp_path / "one") == read_tree(tmp_path / "two")


class TestFiles:
    def test_masks_come_from_the_files_of_the_same_names(
        self, photos: Path, masks: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        results = encode(photos, out, masks=masks, flip=True)
        assert {name: result.unmasked for name, result in results.items()} == {
            "a.png": 0, "trip/b.png": 0, "c.png": 1,
        }  # fmt: skip
        assert list_masks(read(out, "a.png")) == (LEFT_PATCHES, MIRRORED_PATCHES)
        assert list_masks(read(out, "trip/b.png")) == ([[0, 0]] * 2, [[0, 0]] * 2)
        assert list_masks(read(out, "c.png")) == (None, None)
        assert read(out, "c.png").header.image.endswith("mask=none")

    def test_processes_and_geometry(self, photos: Path, masks: Path, tmp_path: Path) -> None:
        options: dict[str, Any] = {"masks": masks, "crop": (20, 16)}
        encode(photos, tmp_path / "one", **options)
        encode(photos, tmp_path / "two", **options, processes=2)
        assert read_tree(tmp_path / "one") == read_tree(tmp_path / "two")
        # Columns 5 to 24 are left: 5 of the first 16 count.
        assert list_masks(read(tmp_path / "one", "a.png")) == ([[80, 0]], None)

    def test_a_mask_that_changes_appears_or_vanishes_makes_its_record_stale(
        self, photos: Path, masks: Path, tmp_path: Path, settled: None
    ) -> None:
        out, changed = tmp_path / "out", "the mask has changed"
        assert set(find_work(photos, out, masks=masks)) == set(NAMES)
        save_mask(masks / "a.png", np.ascontiguousarray(LEFT[:, ::-1]))
        assert find_fates(photos, out, masks=str(masks)) == {"a.png": f"stale: {changed}"}
        assert find_work(photos, out, masks=masks) == {"a.png": changed}
        assert list_masks(read(out, "a.png")) == (MIRRORED_PATCHES, None)
        save_mask(masks / "c.webp", np.zeros((20, 30), np.uint8))
        assert find_work(photos, out, masks=masks) == {"c.png": "it has a mask now"}
        (masks / "trip/b.jpeg").unlink()
        assert find_work(photos, out, masks=masks) == {"trip/b.png": "the mask is gone"}
        assert list_masks(read(out, "trip/b.png")) == (None, None)

    def test_a_mask_of_the_same_size_and_time_is_found_by_its_hash(
        self, photos: Path, masks: Path, tmp_path: Path, settled: None
    ) -> None:
        out = tmp_path / "out"
        for name, level in (("a.bmp", 0), ("c.bmp", 100)):
            save_mask(masks / name, np.full((20, 30), level, np.uint8))
            os.utime(masks / name, (1.6e9, 1.6e9))
        (masks / "a.png").unlink()
        encode(photos, out, masks=masks)
        (masks / "a.bmp").rename(masks / "x")
        (masks / "c.bmp").rename(masks / "a.bmp")
        (masks / "x").rename(masks / "c.bmp")
        assert set(find_work(photos, out, masks=masks)) == {"a.png", "c.png"}
        assert list_masks(read(out, "a.png"))[0] == [[100, 100]] * 2
        os.utime(masks / "a.bmp")  # a touched file is the same mask
        assert find_work(photos, out, masks=masks) == {}

    def test_a_mask_that_changed_just_now_is_not_remembered(
        self,
        photos: Path,
        masks: Path,
        tmp_path: Path,
        settled: None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        hashed: list[str] = []

        def note(path: str) -> str:
            hashed.append(os.path.relpath(path, masks))
            return hash_file(path)

        monkeypatch.setattr(image_masks, "hash_file", note)
        for is_settled, expected in ((True, []), (False, ["a.png", "trip/b.jpeg"])):
            with monkeypatch.context() as patch:
                patch.setattr(freshness, "is_settled", lambda _, settled=is_settled: settled)
                encode(photos, tmp_path / "out", masks=masks, overwrite=True)
                for _ in range(2):
                    hashed.clear()
                    results = encode(photos, tmp_path / "out", masks=masks)
                    assert {result.status for result in results.values()} == {Status.DONE}
                    assert sorted(hashed) == expected

    def test_anonymous_records_hold_no_hash_but_find_newer_masks(
        self, photos: Path, masks: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        encode(photos, out, masks=masks, anonymous=True)
        assert read(out, "a.png").header.image.endswith(";mask=file")
        assert read(out, "c.png").header.image.endswith(";mask=none")
        assert find_fates(photos, out, masks=str(masks)) == {}
        record = (out / "a.png.dinac").stat()
        os.utime(masks / "a.png", ns=(0, record.st_mtime_ns + 10**9))
        assert list(find_fates(photos, out, masks=str(masks))) == ["a.png"]
        save_mask(masks / "c.png", LEFT)
        assert sorted(find_fates(photos, out, masks=str(masks))) == ["a.png", "c.png"]

    def test_a_mask_that_changes_before_its_record_is_written(
        self, photos: Path, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An anonymous record would be newer than the mask that it does not hold."""

        def compute(*args: Any, **named: Any) -> Any:
            save_mask(masks / "a.png", np.zeros((20, 30), np.uint8))
            return submit_with_twins(*args, **named)

        monkeypatch.setattr("dinac_cli.jobs.encode.submit_with_twins", compute)
        out, named = tmp_path / "out", tmp_path / "named"
        results = encode(photos / "a.png", out, masks=masks, anonymous=True)
        message = f"its mask {masks}/a.png: changed during the run; run the same command again"
        assert [result.reason for result in results.values()] == [message]
        save_mask(masks / "a.png", LEFT)
        assert not encode(photos / "a.png", named, masks=masks)["a.png"].failed
        monkeypatch.undo()
        assert set(find_work(photos, named, masks=masks)) == {"a.png", "trip/b.png", "c.png"}
        assert list_masks(read(named, "a.png")) == ([[0, 0]] * 2, None)

    def test_a_moved_image_gets_the_mask_of_its_new_name(
        self, photos: Path, masks: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        encode(photos, out, masks=masks)
        (photos / "a.png").rename(photos / "d.png")  # has no mask
        (photos / "c.png").rename(photos / "e.png")
        results = encode(photos, out, masks=masks, prune="all")
        assert results["d.png"].status is Status.WRITTEN
        assert list_masks(read(out, "d.png")) == (None, None)
        renamed = results["e.png"]
        assert (renamed.status, renamed.unmasked) == (Status.RENAMED, 1)
        encode(photos, tmp_path / "fresh", masks=masks)
        assert (out / "e.png.dinac").read_bytes() == (tmp_path / "fresh/e.png.dinac").read_bytes()
        (photos / "trip/b.png").rename(photos / "f.png")
        (masks / "trip/b.jpeg").rename(masks / "f.jpeg")
        results = encode(photos, out, masks=masks, prune="all")
        assert results["f.png"].status is Status.RENAMED
        assert list_masks(read(out, "f.png")) == ([[0, 0]] * 2, None)

    def test_a_moved_image_keeps_its_alpha(self, photos: Path, tmp_path: Path) -> None:
        save_clear(photos / "clear.png", LEFT)
        out = tmp_path / "out"
        encode(photos, out, mask=True, flip=True)
        (photos / "clear.png").rename(photos / "moved.png")
        results = encode(photos, out, prune="all")
        assert results["moved.png"].status is Status.RENAMED
        assert list_masks(read(out, "moved.png")) == (LEFT_PATCHES, MIRRORED_PATCHES)

    def test_another_kind_of_mask_is_a_conflict(
        self, photos: Path, masks: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        encode(photos, out, masks=masks)
        with pytest.raises(UsageError, match=r"was made with --masks; name the folder with --mas"):
            encode(photos, out)
        with pytest.raises(UsageError, match=r"holds latents with --masks; you asked for --mask "):
            encode(photos, out, mask=True)
        with pytest.raises(UsageError, match=r"with --masks; you asked for --no-mask .* --overwri"):
            encode(photos, out, mask=False)
        encode(photos, out, mask=True, overwrite=True)
        with pytest.raises(UsageError, match=r"holds latents with --mask; you asked for --masks "):
            encode(photos, out, masks=masks)

    def test_masks_below_the_images_are_no_inputs(
        self, photos: Path, masks: Path, tmp_path: Path
    ) -> None:
        masks.rename(photos / "masks")
        inside = photos / "masks"
        assert set(encode(photos, tmp_path / "out", masks=inside)) == set(NAMES)
        pattern = [str(photos / "*"), str(photos / "**/*.jpeg"), str(inside / "a.png")]
        results = encode_files(pattern, tmp_path / "two", model=TINY, masks=inside)
        assert {Path(result.file).name for result in results} == {"a.png", "b.png", "c.png"}
        with pytest.raises(UsageError, match="is the folder of the images; put the masks into"):
            encode(photos, tmp_path / "out", masks=f"{photos}/.")
        with pytest.raises(UsageError, match=r"holds the folder .*trip of the images; put the mas"):
            encode(photos / "trip", tmp_path / "out", masks=photos)
        message = f"apart from files in {photos}, which are never inputs; name others"
        with pytest.raises(UsageError, match=f"{re.escape(message)}$"):
            encode(photos / "a.png", tmp_path / "out", masks=photos)

    def test_masks_that_were_encoded_as_images_are_orphans(
        self, photos: Path, tmp_path: Path
    ) -> None:
        out, inside = tmp_path / "out", photos / "masks"
        save_mask(inside / "a.png", LEFT)
        save_mask(inside / "trip/b.png", LEFT)
        encode(photos, out)
        assert len(read_tree(out)) == 5
        orphans = {"masks/a.png.dinac", "masks/trip/b.png.dinac"}
        fates = find_fates(photos, out, masks=str(inside))
        assert {name for name, fate in fates.items() if fate.startswith("orphaned")} == {
            str(out / name)[len(str(photos)) + 1 :] for name in orphans
        }
        results = encode(photos, out, masks=inside, prune="all")
        pruned = {r.file for r in results.values() if r.status is Status.PRUNED}
        assert pruned == {str(out / name) for name in orphans}
        assert set(read_tree(out)) >= {f"{name}.dinac" for name in NAMES}
        assert not any((out / name).exists() for name in orphans)
        assert find_fates(photos, out, masks=str(inside)) == {}

    def test_images_whose_transparency_is_left_out_are_known(
        self, photos: Path, masks: Path, tmp_path: Path
    ) -> None:
        for name in ("a.png", "c.png"):  # --masks has a file for the first alone
            save_clear(photos / name, LEFT)
        results = encode(photos, tmp_path / "out", masks=masks)
        assert [name for name, result in results.items() if result.has_alpha] == ["c.png"]
        kept = encode(photos, tmp_path / "kept", mask=True)
        assert not any(result.has_alpha for result in kept.values())


class TestRefusals:
    def test_several_masks_and_wrong_masks_fail_their_image_alone(
        self, photos: Path, masks: Path, tmp_path: Path
    ) -> None:
        save_mask(masks / "a.webp", LEFT)
        save_mask(masks / "trip/b.jpeg", LEFT.T.copy())
        (masks / "c.jpg").write_bytes(b"text")
        results = encode(photos, tmp_path / "out", masks=masks)
        assert {r.file[len(str(photos)) + 1 :]: r.reason for r in results.values()} == {
            "a.png": f"{masks} holds several masks of this image: a.png, a.webp; keep one",
            "trip/b.png": f"its mask {masks}/trip/b.jpeg: has 20x30 pixels, another aspect ratio "
            "than the image of 30x20; make its mask again",
            "c.png": results["c.png"].reason,
        }
        assert str(results["c.png"].reason).startswith(f"its mask {masks}/c.jpg: ")
        fates = find_fates(photos, tmp_path / "out", masks=str(masks))
        assert fates["a.png"].startswith(f"failed: {masks} holds several masks")

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    def test_a_mask_that_is_no_file_is_not_opened(
        self, photos: Path, masks: Path, tmp_path: Path
    ) -> None:
        os.mkfifo(masks / "c.png")
        (masks / "trip/b.jpeg").unlink()
        (masks / "trip/b.jpeg").mkdir()
        results = encode(photos, tmp_path / "out", masks=masks)
        reasons = {Path(result.file).name: result.reason for result in results.values()}
        assert reasons == {
            "a.png": None,
            "b.png": f"its mask {masks}/trip/b.jpeg: is not a regular file; move it away",
            "c.png": f"its mask {masks}/c.png: is not a regular file; move it away",
        }

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"masks": "nowhere"}, "--masks nowhere: no such folder; name the folder of the mask"),
            ({"masks": "s3://bucket/m"}, "--masks s3://bucket/m: the masks must be in a local"),
            ({"masks": ".", "mask": True}, "--mask and --masks cannot be used together"),
            ({"masks": ".", "mask": False}, "--no-mask and --masks cannot be used together"),
        ],
    )
    def test_usage(
        self, photos: Path, tmp_path: Path, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(UsageError, match=message):
            encode(photos, tmp_path / "out", **options)

    def test_a_folder_without_any_mask_is_refused(self, photos: Path, tmp_path: Path) -> None:
        save_mask(tmp_path / "typo/a_mask.png", LEFT)
        write_images(photos, "0_masks/a.png")  # files of an earlier run may be no images
        example = os.path.join(tmp_path, "typo", "a.png"), os.path.join(photos, "a.png")
        message = re.escape("typo: holds no mask of any image, such as {} for {};".format(*example))
        with pytest.raises(UsageError, match=message):
            encode(photos, tmp_path / "out", masks=tmp_path / "typo")
        with pytest.raises(UsageError, match=message):
            plan(photos, tmp_path / "out", masks=str(tmp_path / "typo"))
        assert not (tmp_path / "out").exists()

    def test_a_plan_counts_images_without_a_mask(
        self, photos: Path, masks: Path, tmp_path: Path
    ) -> None:
        for _ in range(2):
            run = plan(photos, tmp_path / "out", masks=str(masks))
            assert len(list(run.list_files())) == 3
            assert run.plan.unmasked == 1
            encode(photos, tmp_path / "out", masks=masks)
        run = plan(photos, tmp_path / "other")
        assert len(list(run.list_files())) == 3
        assert run.plan.unmasked is None


def test_masks_pass_verify_and_its_encoding(photos: Path, masks: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    encode(photos, out, masks=masks, flip=True)
    results = list(
        verify_files(out, source=photos, reencode=100, device="cpu", dtype="f32", model=TINY)
    )
    assert [result.status for result in results] == [Status.VERIFIED] * 3
    assert {result.delta for result in results} == {0.0}


def test_verify_finds_masks_that_changed(photos: Path, masks: Path, tmp_path: Path) -> None:
    def find(out: Path) -> dict[str, str | None]:
        return {
            result.file[len(str(out)) + 1 :]: result.reason
            for result in verify_files(out, masks=masks)
        }

    out, anonymous, plain = (tmp_path / name for name in ("out", "anonymous", "plain"))
    encode(photos, out, masks=masks)
    encode(photos, anonymous, masks=masks, anonymous=True)
    encode(photos, plain)
    names = [f"{name}.dinac" for name in ("a.png", "c.png", "trip/b.png")]
    assert find(out) == find(anonymous) == dict.fromkeys(names)
    assert set(find(plain).values()) == {"was encoded without --masks; run encode --masks"}
    save_mask(masks / "a.png", LEFT[:, ::-1].copy())
    save_mask(masks / "c.png", LEFT)
    (masks / "trip/b.jpeg").unlink()
    again = "run encode --masks again"
    changed = {
        names[0]: f"its mask {masks}/a.png has changed; {again}",
        names[1]: f"has a mask now, {masks}/c.png; {again}",
        names[2]: f"its mask is gone; {again}",
    }
    assert find(out) == changed
    assert find(anonymous) == changed | {names[0]: None}
    encode(photos, out, masks=masks)
    assert find(out) == dict.fromkeys(names)


def test_verify_takes_no_mask_of_another_image_with_the_same_base_name(
    photos: Path, masks: Path, tmp_path: Path
) -> None:
    """A record that is an input by itself may be of an image in any folder."""
    write_images(photos, "trip/a.png")  # a.png has a mask, trip/a.png has none
    encode(photos, tmp_path / "out", masks=masks)
    records = [tmp_path / "out/trip/a.png.dinac", tmp_path / "out/a.png.dinac"]
    assert [result.reason for result in verify_files(records, masks=masks)] == [None, None]
    save_mask(masks / "trip/a.png", LEFT)
    save_mask(masks / "a.png", LEFT[:, ::-1].copy())
    for result in verify_files(records, masks=masks):
        assert result.status is Status.FAILED


def test_verify_does_not_advise_what_encode_refuses(
    photos: Path, masks: Path, tmp_path: Path
) -> None:
    """`encode --masks` refuses an OUT that was made with --mask."""
    encode(photos, tmp_path / "out", mask=True)
    reasons = {result.reason for result in verify_files(tmp_path / "out", masks=masks)}
    assert reasons == {"was encoded with --mask, not with mask files; leave out --masks"}


def test_descriptions() -> None:
    text, sha256 = "alpha=none;frame=1/1", "ab" * 32
    assert describe_mask(text, "none", None) == text
    for kind, hashed, anonymous, value in (
        ("alpha", None, False, "alpha"),
        ("files", None, False, "none"),
        ("files", sha256, False, f"file-{sha256}"),
        ("files", sha256, True, "file"),
    ):
        found = describe_mask(text, kind, hashed, anonymous=anonymous)  # type: ignore[arg-type]
        assert found == f"{text};mask={value}"
        assert read_mask_kind(found) == kind
    for unknown in ("", "mask=", "mask=file-", "mask=x", f"mask=file-{sha256}0"):
        assert read_mask_kind(unknown) == "none"


def test_records_of_standard_input_keep_alpha(tmp_path: Path) -> None:
    """The bytes of a record do not depend on how the image was read."""
    save_clear(tmp_path / "clear.png", LEFT)
    encode(tmp_path / "clear.png", tmp_path / "out", mask=True)
    record = unpack_record((tmp_path / "out/clear.png.dinac").read_bytes(), ALL_COMPANIONS)
    assert record.mask is not None
    assert record.mask.tolist() == LEFT_PATCHES
