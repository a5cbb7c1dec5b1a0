"""What a run follows: the first record or decoded image in OUT, if it can be read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.container.record import read_header
from dinac_cli.images.formats import OUTPUT_FORMATS
from dinac_cli.images.geometry import NO_GEOMETRY, Geometry
from dinac_cli.images.writing import write_image
from dinac_cli.jobs import held
from dinac_cli.jobs.decode import DecodeChoice, DecodeOptions, describe_settings
from dinac_cli.jobs.freshness import WantedLatents, is_stamped_image
from dinac_cli.jobs.held import (
    DEFAULT_SETTINGS,
    HeldRecord,
    find_held_image,
    find_held_record,
)
from dinac_cli.models.interface import DinacAEInferenceConfig
from dinac_cli.storage.output import Output, OutputKind

from .hand_made import latents_out, make_record

DEFAULTS = "steps=1;sampler=ddim;schedule=linear;guidance=off;strength=1;seed=0"
PNG, WEBP = OUTPUT_FORMATS["png"], OUTPUT_FORMATS["webp"]


def images_out(path: Path, *, overwrite: bool = False) -> Output:
    return Output(str(path), OutputKind.FOLDER, is_stamped_image, overwrite)


def write(path: Path, settings: str | None, form: str = "png") -> None:
    stamp = None if settings is None else {"record": "1", "weights": "2", "settings": settings}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(write_image(np.zeros((4, 4, 3), np.uint8), form, stamp=stamp))


class TestRecords:
    def hold(self, encoder: ModelHandle, image: str) -> HeldRecord:
        header = read_header(make_record(encoder, "a"))
        return HeldRecord("a.dinac", replace(header, image=image))

    @pytest.mark.parametrize(
        ("image", "geometry"),
        [
            ("", NO_GEOMETRY),
            ("orientation=none;rotate=90", NO_GEOMETRY),
            ("resize=64;crop=48x32;flip=twin", Geometry(64, None, (48, 32), True)),
            ("max_side=64", Geometry(max_side=64)),
            ("resize=x", NO_GEOMETRY),
            ("resize=9;max_side=9", NO_GEOMETRY),
            ("resize=9999999", NO_GEOMETRY),
        ],
    )
    def test_geometry(self, encoder: ModelHandle, image: str, geometry: Geometry) -> None:
        assert self.hold(encoder, image).geometry == geometry

    @pytest.mark.parametrize("image", ["resize=x", "crop=8x8;resize=9"])
    def test_a_geometry_that_cannot_be_followed_is_a_conflict(
        self, encoder: ModelHandle, image: str
    ) -> None:
        record = self.hold(encoder, image)
        wanted = WantedLatents(encoder, "f32", "#ffffff", geometry=record.geometry)
        conflict = wanted.find_conflict(record.header)
        assert conflict is not None
        assert conflict.held == f"geometry {image}"

    @pytest.mark.parametrize(
        ("image", "background"),
        [
            ("alpha=none", None),
            ("alpha=composited-#010203", (1, 2, 3)),
            ("alpha=composited-#01020", None),
            ("alpha=red", None),
        ],
    )
    def test_background(
        self, encoder: ModelHandle, image: str, background: tuple[int, int, int] | None
    ) -> None:
        assert self.hold(encoder, image).background == background

    @pytest.mark.parametrize(
        ("image", "hdr"),
        [
            ("color=srgb", None),
            ("color=converted-display-p3-srgb", None),
            ("color=converted-bt2020-pq-clip", "clip"),
            ("color=converted-limited-bt2020-hlg-tonemap", "tonemap"),
            ("color=converted-bt2020-pq-bright", None),
        ],
    )
    def test_hdr(self, encoder: ModelHandle, image: str, hdr: str | None) -> None:
        assert self.hold(encoder, image).hdr == hdr

    def test_records_in_folders_with_a_dot_are_not_followed(
        self, tmp_path: Path, encoder: ModelHandle
    ) -> None:
        hidden = tmp_path / ".dinac-removed/a.dinac"
        hidden.parent.mkdir()
        hidden.write_bytes(make_record(encoder, "a"))
        assert find_held_record(latents_out(tmp_path)) is None

    def test_only_a_run_that_keeps_records_follows(
        self, encoder: ModelHandle, tmp_path: Path
    ) -> None:
        (tmp_path / "a.dinac").write_bytes(make_record(encoder, "a"))
        assert find_held_record(latents_out(tmp_path)) is not None
        assert find_held_record(latents_out(tmp_path, overwrite=True)) is None
        assert find_held_record(latents_out(tmp_path / "gone")) is None


class TestImages:
    def test_the_first_decoded_image_decides(self, tmp_path: Path) -> None:
        write(tmp_path / "a.png", None)
        write(tmp_path / "b.bmp", None, "bmp")
        write(tmp_path / "c.webp", f"{DEFAULTS};image=flipped;quality=70", "webp")
        write(tmp_path / "d.png", DEFAULTS)
        found = find_held_image(images_out(tmp_path), None)
        assert found == held.HeldImage(str(tmp_path / "c.webp"), DEFAULT_SETTINGS, True, 70, WEBP)
        wanted = find_held_image(images_out(tmp_path), PNG)
        assert wanted == held.HeldImage(str(tmp_path / "d.png"), DEFAULT_SETTINGS, False, None, PNG)
        assert find_held_image(images_out(tmp_path), OUTPUT_FORMATS["jpg"]) == found
        assert find_held_image(images_out(tmp_path, overwrite=True), None) is None

    def test_images_in_subfolders_come_after_the_others(self, tmp_path: Path) -> None:
        write(tmp_path / "a/a.png", DEFAULTS)
        assert find_held_image(images_out(tmp_path), None) is not None
        write(tmp_path / "z.png", DEFAULTS)
        found = find_held_image(images_out(tmp_path), None)
        assert found is not None
        assert found.path == str(tmp_path / "z.png")

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    def test_images_in_folders_with_a_dot_are_not_followed(self, tmp_path: Path) -> None:
        write(tmp_path / ".dinac-removed/a.png", DEFAULTS)
        assert find_held_image(images_out(tmp_path), PNG) is None

    def test_a_named_pipe_is_not_opened(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.png")
        assert find_held_image(images_out(tmp_path), None) is None
        assert not is_stamped_image(str(tmp_path / "a.png"))

    def test_only_the_first_images_are_looked_at(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(held, "_IMAGES_LOOKED_AT", 2)
        for name in "ab":
            write(tmp_path / f"{name}.png", None)
        (tmp_path / "aa.txt").write_text("not an image")
        write(tmp_path / "c.png", DEFAULTS)
        assert find_held_image(images_out(tmp_path), None) is None
        (tmp_path / "a.png").unlink()
        assert find_held_image(images_out(tmp_path), None) is not None

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "steps=1",
            f"{DEFAULTS};size=2",
            f"{DEFAULTS};image=rotated",
            DEFAULTS.replace("seed=0", "seed=fresh"),
            DEFAULTS.replace("steps=1", "steps=0"),
            DEFAULTS.replace("steps=1", "steps=1_000"),
            DEFAULTS.replace("steps=1", f"steps={'9' * 9000}"),
            DEFAULTS.replace("strength=1", "strength=nan"),
            DEFAULTS.replace("strength=1", "strength=2"),
            DEFAULTS.replace("ddim", "euler"),
            f"{DEFAULTS};quality=50",  # a PNG has no quality
        ],
    )
    def test_unknown_settings_are_not_followed(self, tmp_path: Path, text: str) -> None:
        write(tmp_path / "a.png", text)
        assert find_held_image(images_out(tmp_path), None) is None

    @pytest.mark.parametrize("quality", ["0", "101", "-5", "", "high"])
    def test_an_impossible_quality_is_not_followed(self, tmp_path: Path, quality: str) -> None:
        write(tmp_path / "a.jpg", f"{DEFAULTS};quality={quality}", "jpg")
        assert find_held_image(images_out(tmp_path), None) is None

    @pytest.mark.parametrize(
        "settings",
        [
            DEFAULT_SETTINGS,
            DinacAEInferenceConfig(
                num_steps=40,
                sampler="dpmpp_2m",
                schedule="cosine",
                pdg=True,
                pdg_strength=-1.5,
                strength=0.00001,
                seed=-(2**63),
            ),
        ],
    )
    def test_described_settings_are_followed(
        self, tmp_path: Path, settings: DinacAEInferenceConfig
    ) -> None:
        options = DecodeOptions(settings=settings, format=PNG, flipped=True)
        write(tmp_path / "a.png", describe_settings(options))
        image = find_held_image(images_out(tmp_path), None)
        assert image is not None
        assert DecodeChoice().follow(image, None) == options
        assert DecodeChoice(steps=3, flipped=False).follow(image, WEBP) == DecodeOptions(
            settings=replace(settings, num_steps=3), format=WEBP
        )
