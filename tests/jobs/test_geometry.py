"""Images are scaled, cropped and mirrored for their records; plans and verify know of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.container.frame import PREAMBLE
from dinac_cli.container.record import Record, pack_encoded, pack_record, unpack_record
from dinac_cli.container.tensors import Encoded
from dinac_cli.container.zstd import compress_content, decompress_content
from dinac_cli.errors import OutputError, UsageError
from dinac_cli.images.geometry import NO_GEOMETRY, Geometry
from dinac_cli.jobs.encode import EncodeChoice, EncodeJob, EncodeOptions, encode_inputs
from dinac_cli.jobs.freshness import State, WantedLatents, check_latents
from dinac_cli.jobs.model_choice import FixedModel
from dinac_cli.jobs.plan import Fate, Plan, PlannedFile, plan_files
from dinac_cli.jobs.reencode import Candidate, Reencoding
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.jobs.verify import VerifyJob, VerifyOptions, verify_inputs

from .hand_made import (
    draw,
    latents_out,
    read_tree,
    reasons,
    run_control,
    select_images,
    select_latents,
    write_images,
)

SQUARE = Geometry(resize=24, crop=(24, 24), flip=True)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_images(tmp_path / "photos", "a.png", "b.png", "c.png")
    write_images(tmp_path / "photos/tall", "d.png", height=50, width=31)
    return tmp_path / "photos"


def encode(
    photos: Path,
    out: Path,
    model: ModelHandle,
    geometry: Geometry,
    workers: int = 2,
    *,
    overwrite: bool = False,
    skip_small: bool = False,
) -> list[FileResult]:
    options = EncodeOptions(geometry=geometry, skip_small=skip_small)
    output = latents_out(out, overwrite=overwrite)
    control = run_control(workers, 2 * workers)
    return list(encode_inputs(select_images(photos), output, model, options, control))


def unpack(path: Path) -> Record:
    return unpack_record(path.read_bytes(), with_twin=True)


def test_a_record_equals_the_record_of_an_image_scaled_beforehand(
    photos: Path, tmp_path: Path, encoder: ModelHandle
) -> None:
    results = encode(photos, tmp_path / "out", encoder, SQUARE)
    assert {(r.status, r.width, r.height) for r in results} == {(Status.WRITTEN, 24, 24)}
    for path in photos.rglob("*.png"):
        with Image.open(path) as image:
            pixels = SQUARE.apply(np.asarray(image))
        for name, shown in (("plain", pixels), ("mirrored", pixels[:, ::-1])):
            target = tmp_path / name / path.relative_to(photos)
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(shown)).save(target)
    for name in ("plain", "mirrored"):
        encode(tmp_path / name, tmp_path / f"out-{name}", encoder, NO_GEOMETRY)
    for name in read_tree(tmp_path / "out"):
        record = unpack(tmp_path / "out" / name)
        assert record.flipped is not None
        plain, mirrored = (unpack(tmp_path / f"out-{k}" / name) for k in ("plain", "mirrored"))
        np.testing.assert_array_equal(record.latents, plain.latents)
        np.testing.assert_array_equal(record.flipped.latents, mirrored.latents)
        assert (record.header.width, record.header.height) == (24, 24)
        assert record.header.image == f"{plain.header.image};resize=24;crop=24x24;flip=twin"


def test_any_number_of_workers_makes_the_same_bytes(
    photos: Path, tmp_path: Path, encoder: ModelHandle
) -> None:
    made = []
    for workers in (1, 2, 4):
        encode(photos, tmp_path / f"{workers}", encoder, SQUARE, workers)
        made.append(read_tree(tmp_path / f"{workers}"))
    assert made[0] == made[1] == made[2]
    assert len(made[0]) == 4


def test_an_image_smaller_than_the_crop_is_one_failure(
    photos: Path, tmp_path: Path, encoder: ModelHandle
) -> None:
    results = encode(photos, tmp_path / "out", encoder, Geometry(crop=(31, 20)))
    small = "30x20 is smaller than the crop of 31x20; crop less, or scale with --resize first"
    assert reasons(results) == {"a.png": small, "b.png": small, "c.png": small, "d.png": None}


def test_images_smaller_than_the_crop_can_be_skipped(
    photos: Path, tmp_path: Path, encoder: ModelHandle
) -> None:
    small = Geometry(crop=(31, 20))
    results = encode(photos, tmp_path / "out", encoder, small, skip_small=True)
    assert {r.name: r.status for r in results} == {
        **dict.fromkeys(("a.png", "b.png", "c.png"), Status.SKIPPED),
        "tall/d.png": Status.WRITTEN,
    }
    assert reasons(results)["a.png"] == "30x20 is smaller than the crop of 31x20"
    assert list(read_tree(tmp_path / "out")) == ["tall/d.png.dinac"]
    files = plan(photos, tmp_path / "out", encoder, small, skip_small=True)
    assert [file.fate for file in files] == [Fate.SKIPPED] * 3 + [Fate.DONE]
    with pytest.raises(UsageError, match="add --crop WxH"):
        EncodeChoice(skip_small=True).follow(None)


def test_a_small_image_with_an_older_record_is_a_failure(
    photos: Path, tmp_path: Path, encoder: ModelHandle
) -> None:
    """Otherwise a dataset would take the older record for a current one."""
    encode(photos, tmp_path / "out", encoder, Geometry(crop=(20, 20)))
    before = read_tree(tmp_path / "out")
    write_images(photos, "a.png", height=19, width=19)
    for overwrite in (False, True):
        [failed] = [
            result
            for result in encode(
                photos, tmp_path / "out", encoder, Geometry(crop=(20, 20)),
                skip_small=True, overwrite=overwrite,
            )
            if result.failed
        ]  # fmt: skip
        assert failed.reason == (
            f"19x19 is smaller than the crop of 20x20, but {tmp_path}/out/a.png.dinac exists "
            "from an earlier run; delete it"
        )
    [planned, *_] = plan(photos, tmp_path / "out", encoder, Geometry(crop=(20, 20)), True)
    assert (planned.fate, planned.reason) == (Fate.CONFLICT, failed.reason)
    assert read_tree(tmp_path / "out").keys() == before.keys()


def test_images_that_are_scaled_up_are_marked(
    photos: Path, tmp_path: Path, encoder: ModelHandle
) -> None:
    up, down = Geometry(resize=25), Geometry(resize=25, upscale=False)
    expected = {"a.png": True, "b.png": True, "c.png": True, "tall/d.png": False}
    planned = plan(photos, tmp_path / "up", encoder, up)
    assert [file.upscaled for file in planned] == list(expected.values())
    results = encode(photos, tmp_path / "up", encoder, up)
    assert {result.name: result.upscaled for result in results} == expected
    results = encode(photos, tmp_path / "down", encoder, down)
    assert not any(result.upscaled for result in results)
    sizes = {result.name: (result.width, result.height) for result in results}
    assert sizes["a.png"] == (30, 20)
    assert sizes["tall/d.png"] == (25, 40)
    record = unpack(tmp_path / "down/a.png.dinac")
    assert record.header.image.endswith(";frame=1/1;resize=25-down")


def test_the_memory_of_a_large_image_is_freed_once_it_is_scaled(
    tmp_path: Path, encoder: ModelHandle
) -> None:
    write_images(tmp_path / "photos", "a.png", height=300, width=400)
    [entry] = select_images(tmp_path / "photos")
    held: list[int] = []
    job = EncodeJob(
        latents_out(tmp_path / "out"), encoder, EncodeOptions(geometry=Geometry(resize=24))
    )
    work = job.read(entry, held.append)
    assert not isinstance(work, FileResult)
    size = (tmp_path / "photos/a.png").stat().st_size
    assert held == [size + 3 * (300 * 400 + 24 * 32), size + 3 * 24 * 32]
    assert work.held_bytes == held[-1]
    assert work.image.pixels.base is None
    assert work.group == (encoder, 32, 32)


def want(encoder: ModelHandle, geometry: Geometry) -> WantedLatents:
    return EncodeOptions(geometry=geometry).want(encoder)


def test_another_geometry_is_refused_and_both_are_named(
    photos: Path, tmp_path: Path, encoder: ModelHandle
) -> None:
    encode(photos, tmp_path / "plain", encoder, NO_GEOMETRY)
    encode(photos, tmp_path / "square", encoder, SQUARE)
    source = str(photos / "a.png")
    cases = [
        ("plain", NO_GEOMETRY, None),
        ("square", SQUARE, None),
        ("plain", Geometry(resize=256), "full-size latents; this run uses --resize 256"),
        (
            "square",
            NO_GEOMETRY,
            "latents with --resize 24 --crop 24x24 --flip; "
            "this run uses --resize none --crop none --no-flip",
        ),
        (
            "square",
            replace(SQUARE, upscale=False),
            "latents with --upscale; this run uses --no-upscale",
        ),
        (
            "square",
            replace(SQUARE, flip=False),
            "latents with --flip; this run uses --no-flip",
        ),
    ]
    for name, geometry, conflict in cases:
        target = str(tmp_path / name / "a.png.dinac")
        wanted = want(encoder, geometry)
        if conflict is None:
            assert check_latents(target, source, wanted, checksum=False).state is State.DONE
            continue
        with pytest.raises(OutputError) as caught:
            check_latents(target, source, wanted, checksum=False)
        assert str(caught.value) == (
            f"{target} holds {conflict}; choose another OUT or add --overwrite"
        )
    results = encode(photos, tmp_path / "plain", encoder, SQUARE, overwrite=True)
    assert {result.status for result in results} == {Status.WRITTEN}
    assert read_tree(tmp_path / "plain") == read_tree(tmp_path / "square")


def plan(
    photos: Path, out: Path, encoder: ModelHandle, geometry: Geometry, skip_small: bool = False
) -> list[PlannedFile]:
    options = EncodeOptions(geometry=geometry, skip_small=skip_small)
    wanted = options.want(encoder)
    return list(plan_files(select_images(photos), latents_out(out), wanted, options))


def test_a_plan_counts_the_pixels_to_encode(
    photos: Path, tmp_path: Path, encoder: ModelHandle
) -> None:
    files = plan(photos, tmp_path / "out", encoder, SQUARE)
    assert {(file.fate, file.pixels) for file in files} == {(Fate.NEW, 24 * 24)}
    files = plan(photos, tmp_path / "out", encoder, Geometry(max_side=15))
    assert [file.pixels for file in files] == [150, 150, 150, 15 * 9]
    files = plan(photos, tmp_path / "out", encoder, Geometry(crop=(31, 20)))
    assert [file.fate for file in files] == [Fate.FAILED] * 3 + [Fate.NEW]
    assert files[0].reason == (
        "30x20 is smaller than the crop of 31x20; crop less, or scale with --resize first"
    )


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_plan_follows_the_orientation_of_an_image(
    tmp_path: Path, encoder: ModelHandle, suffix: str
) -> None:
    (tmp_path / "photos").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(draw(0)).save(tmp_path / f"photos/a.{suffix}", exif=exif)
    for crop, fate, status in (
        ((20, 30), Fate.NEW, Status.WRITTEN),
        ((30, 20), Fate.FAILED, Status.FAILED),
    ):
        geometry = Geometry(crop=crop)
        [planned] = plan(tmp_path / "photos", tmp_path / f"out{crop[0]}", encoder, geometry)
        assert planned.fate is fate, planned
        [done] = encode(tmp_path / "photos", tmp_path / f"out{crop[0]}", encoder, geometry)
        assert done.status is status, done


def test_twins_double_the_estimate() -> None:
    assert Plan("bf16", with_twins=True).bits_per_pixel == 2 * Plan("bf16").bits_per_pixel


class TestVerify:
    @pytest.fixture
    def out(self, photos: Path, tmp_path: Path, encoder: ModelHandle) -> Path:
        encode(photos, tmp_path / "out", encoder, SQUARE)
        return tmp_path / "out"

    def verify(
        self, out: Path, photos: Path | None = None, encoder: ModelHandle | None = None
    ) -> list[FileResult]:
        reencoding = None if encoder is None else Reencoding(100, FixedModel(encoder))
        source = None if photos is None else str(photos)
        options = VerifyOptions(source=source, reencoding=reencoding)
        return list(verify_inputs(select_latents(out), options, run_control()))

    def change(self, path: Path, image: str) -> None:
        record = unpack(path)
        changed = replace(record.header, image=image)
        path.write_bytes(pack_encoded(changed, Encoded(record.latents), flipped=record.flipped))

    def test_records_are_re_encoded_with_their_own_geometry(
        self, out: Path, photos: Path, encoder: ModelHandle
    ) -> None:
        results = self.verify(out, photos, encoder)
        assert [(r.status, r.delta) for r in results] == [(Status.VERIFIED, 0.0)] * 4

    def test_small_images_that_kept_their_size_are_re_encoded_at_that_size(
        self, photos: Path, tmp_path: Path, encoder: ModelHandle
    ) -> None:
        encode(photos, tmp_path / "down", encoder, Geometry(resize=25, upscale=False))
        results = self.verify(tmp_path / "down", photos, encoder)
        assert [(r.status, r.delta) for r in results] == [(Status.VERIFIED, 0.0)] * 4

    def test_twins_are_compared_too(self, out: Path, photos: Path, encoder: ModelHandle) -> None:
        path = out / "a.png.dinac"
        record = unpack(path)
        assert record.flipped is not None
        flipped = Encoded(record.flipped.latents + 2)
        path.write_bytes(pack_encoded(record.header, Encoded(record.latents), flipped=flipped))
        results = self.verify(out, photos, encoder)
        assert "its latents differ by up to 2" in str(reasons(results)["a.png.dinac"])
        assert [r.status for r in results].count(Status.FAILED) == 1

    def test_a_bad_twin_is_a_finding(self, out: Path) -> None:
        path = out / "a.png.dinac"
        record = unpack(path)
        header = replace(record.header, precision="f32")
        data = pack_encoded(header, Encoded(record.latents), flipped=record.flipped)
        content = bytearray(decompress_content(data[len(PREAMBLE) :]))
        content[-4:] = np.array([np.inf], "<f4").tobytes()
        path.write_bytes(PREAMBLE + compress_content([bytes(content)]))
        assert reasons(self.verify(out))["a.png.dinac"] == (
            "the latents hold NaN or infinity; re-encode"
        )

    def test_a_missing_twin_is_a_finding(self, out: Path) -> None:
        path = out / "a.png.dinac"
        record = unpack(path)
        path.write_bytes(pack_record(record.header, record.latents))
        assert reasons(self.verify(out))["a.png.dinac"] == (
            "lacks the latents of the mirrored image, which its header promises; re-encode it"
        )

    def test_an_unknown_geometry_cannot_be_re_encoded(
        self, out: Path, photos: Path, encoder: ModelHandle
    ) -> None:
        self.change(out / "a.png.dinac", "orientation=none;rotate=90;flip=twin")
        self.change(out / "b.png.dinac", "resize=12;flip=twin")
        found = reasons(self.verify(out, photos, encoder))
        assert found["a.png.dinac"] == (
            "cannot be re-encoded: unknown key 'rotate' in the record's image field; "
            "update dinac-cli"
        )
        assert found["b.png.dinac"] == (
            f"its source {photos}/b.png has 18x12 pixels after resize=12;flip=twin, "
            "the record 24x24; re-encode it"
        )
        assert {result.status for result in self.verify(out, photos)} == {Status.VERIFIED}

    def test_memory_is_reserved_for_the_size_that_a_source_is_scaled_to(
        self, out: Path, photos: Path, encoder: ModelHandle
    ) -> None:
        path = out / "a.png.dinac"
        self.change(path, "resize=200;crop=24x24;flip=twin")
        reencoding = Reencoding(100, FixedModel(encoder))
        job = VerifyJob(VerifyOptions(source=str(photos), reencoding=reencoding))
        held: list[int] = []
        job.read(Candidate("a", "a.png.dinac", str(path), is_sampled=True), held.append)
        assert max(held) > 3 * 200 * 300 > held[-1]
