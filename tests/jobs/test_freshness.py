"""An existing output is done, or stale and replaced, or foreign and kept."""

from __future__ import annotations

import dataclasses
import errno
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.codec.records import Source, build_record
from dinac_cli.container.frame import PREAMBLE, RECORD_START
from dinac_cli.container.tensors import CLASS_TOKEN, LOGSNR, Encoded, Latents
from dinac_cli.errors import OutputError
from dinac_cli.images.geometry import NO_GEOMETRY, Geometry
from dinac_cli.images.writing import write_image
from dinac_cli.jobs.freshness import (
    State,
    WantedImage,
    WantedLatents,
    check_image,
    check_latents,
    find_first_record,
    is_latent_file,
    is_stamped_image,
)
from dinac_cli.storage.content import read_content

from .hand_made import draw, make_handle, make_record

WHITE = "#ffffff"

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


class Pair:
    """A source file and its record, which is an hour younger."""

    def __init__(self, folder: Path, model: ModelHandle) -> None:
        self.model = model
        self.source = folder / "a.jpg"
        self.target = folder / "a.jpg.dinac"
        self.source.write_bytes(b"the picture")
        self.write()

    def write(
        self,
        precision: str = "bf16",
        image: str = "alpha=none",
        *,
        anonymous: bool = False,
        logsnr: Latents | None = None,
        class_token: Latents | None = None,
        flipped: Encoded | None = None,
    ) -> None:
        content = read_content(str(self.source))
        source = Source("a.jpg", len(content.data), content.sha256, image, 16, 16)
        encoded = Encoded(np.zeros((8, 1, 1), np.float32), logsnr, class_token)
        record = build_record(
            source, encoded, self.model, "cpu/f32", precision, anonymous=anonymous, flipped=flipped
        )
        self.target.write_bytes(record)
        self.age(self.source, 7200)
        self.age(self.target, 3600)

    def age(self, path: Path, seconds: int) -> None:
        os.utime(path, (1.7e9 - seconds, 1.7e9 - seconds))

    def check(
        self,
        *companions: str,
        checksum: bool = False,
        precision: str = "bf16",
        background: str = WHITE,
        geometry: Geometry = NO_GEOMETRY,
    ) -> tuple[State, str | None]:
        names = frozenset(companions)
        wanted = WantedLatents(
            self.model, precision, background, companions=names, geometry=geometry
        )
        verdict = check_latents(str(self.target), str(self.source), wanted, checksum=checksum)
        return verdict.state, verdict.reason


@pytest.fixture
def pair(tmp_path: Path, encoder: ModelHandle) -> Pair:
    return Pair(tmp_path, encoder)


CHANGED = (State.STALE, "the source has changed")
DONE = (State.DONE, None)


class TestCompanions:
    """Records may hold a class token and a posterior beside the latents."""

    TOKEN, FLAT = np.ones(64, np.float32), np.zeros((8, 1, 1), np.float32)

    def test_a_record_that_holds_more_is_done(self, pair: Pair) -> None:
        pair.write(logsnr=self.FLAT, class_token=self.TOKEN)
        for names in ((), (LOGSNR,), (CLASS_TOKEN,), (LOGSNR, CLASS_TOKEN)):
            assert pair.check(*names) == DONE

    def test_a_record_that_lacks_a_tensor_is_stale_and_the_reason_names_it(
        self, pair: Pair
    ) -> None:
        lacks = {
            "no class token": [CLASS_TOKEN],
            "no posterior": [LOGSNR],
            "no class token and no posterior": [LOGSNR, CLASS_TOKEN],
        }
        for lack, names in lacks.items():
            assert pair.check(*names) == (State.STALE, f"the record holds {lack}")
        pair.write(logsnr=self.FLAT)
        assert pair.check(LOGSNR) == DONE
        assert pair.check(LOGSNR, CLASS_TOKEN)[1] == "the record holds no class token"

    def test_the_mirrored_image_must_have_the_same_companions(self, pair: Pair) -> None:
        flip, names = Geometry(flip=True), (LOGSNR, CLASS_TOKEN)
        write = partial(pair.write, image="alpha=none;flip=twin")
        full = Encoded(self.FLAT, self.FLAT, self.TOKEN)
        lacks = {
            "no mirrored image": None,
            "no class token of the mirrored image and no posterior of the mirrored image": Encoded(
                self.FLAT
            ),
            "no posterior of the mirrored image": Encoded(self.FLAT, None, self.TOKEN),
        }
        for lack, flipped in lacks.items():
            write(flipped=flipped, logsnr=self.FLAT, class_token=self.TOKEN)
            assert pair.check(*names, geometry=flip) == (State.STALE, f"the record holds {lack}")
        write(flipped=Encoded(self.FLAT))
        assert pair.check(*names, geometry=flip) == (
            State.STALE,
            "the record holds no class token and no posterior",
        )
        assert pair.check(geometry=flip) == DONE
        write(flipped=full, logsnr=self.FLAT, class_token=self.TOKEN)
        assert pair.check(*names, geometry=flip) == DONE

    def test_a_token_of_another_class_head_is_stale(self, tmp_path: Path) -> None:
        pair = Pair(tmp_path, make_handle("tiny", "encoder"))
        pair.write(class_token=self.TOKEN)
        own = pair.model.identity
        pair.model.identity = dataclasses.replace(own, weights="0" * 16)
        reason = f"the record's class token comes from other weights ({own.weights})"
        assert pair.check() == DONE
        assert pair.check(CLASS_TOKEN) == (State.STALE, reason)

    def test_a_token_of_the_wrong_shape_is_damage_if_it_is_requested(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dinac_cli.container.tensors._check_shape", lambda *shapes: None)
        pair.write(class_token=self.TOKEN[None])
        monkeypatch.undo()
        assert pair.check() == DONE
        state, reason = pair.check(CLASS_TOKEN)
        assert state is State.STALE
        assert str(reason).startswith(
            "the output was damaged (tensor class_token has shape [1, 64]"
        )


class TestSource:
    def test_an_unchanged_source_is_done(self, pair: Pair) -> None:
        assert pair.check() == DONE
        assert pair.check(checksum=True) == DONE

    def test_a_missing_output_is_absent(self, pair: Pair) -> None:
        pair.target.unlink()
        assert pair.check() == (State.ABSENT, None)

    def test_another_size_is_a_change(self, pair: Pair) -> None:
        pair.source.write_bytes(b"the picture!")
        pair.age(pair.source, 7200)
        assert pair.check() == CHANGED

    def test_a_newer_source_of_the_same_bytes_is_done(self, pair: Pair) -> None:
        pair.age(pair.source, 0)
        assert pair.check() == DONE

    def test_a_newer_source_of_other_bytes_is_a_change(self, pair: Pair) -> None:
        pair.source.write_bytes(b"The Picture")
        pair.age(pair.source, 0)
        assert pair.check() == CHANGED

    def test_an_older_source_of_other_bytes_is_a_change(self, pair: Pair) -> None:
        pair.source.write_bytes(b"The Picture")
        pair.age(pair.source, 7200)
        assert pair.check() == CHANGED
        assert pair.check(checksum=True) == CHANGED

    def test_a_missing_source_is_an_error(self, pair: Pair) -> None:
        pair.source.unlink()
        with pytest.raises(OSError, match="No such file"):
            pair.check()

    def test_standard_input_is_always_stale(self, pair: Pair) -> None:
        wanted = WantedLatents(pair.model, "bf16", WHITE)
        verdict = check_latents(str(pair.target), None, wanted, checksum=False)
        assert (verdict.state, verdict.reason) == (State.STALE, "standard input is always encoded")

    def test_a_record_without_a_source_is_judged_by_time(self, pair: Pair) -> None:
        pair.target.write_bytes(make_record(pair.model, "a.jpg", precision="f32"))
        pair.age(pair.target, 3600)
        assert pair.check(precision="f32") == CHANGED  # younger by its ctime, as after `mv`
        pair.age(pair.target, -(10**9))
        assert pair.check(precision="f32") == DONE
        pair.age(pair.source, -(10**9) - 1)
        assert pair.check(precision="f32") == CHANGED

    def test_an_anonymous_run_refuses_a_record_that_names_its_source(self, pair: Pair) -> None:
        wanted = WantedLatents(pair.model, "bf16", WHITE, anonymous=True)
        with pytest.raises(OutputError) as caught:
            check_latents(str(pair.target), str(pair.source), wanted, checksum=False)
        assert str(caught.value) == (
            f"{pair.target} holds a record that names its source; this run uses --anonymous; "
            "choose another OUT or add --overwrite"
        )

    def test_an_anonymous_record_is_done_in_any_run(self, pair: Pair) -> None:
        pair.write(anonymous=True)
        pair.age(pair.target, -(10**9))  # the future: younger than the source's ctime
        assert pair.check() == DONE
        wanted = WantedLatents(pair.model, "bf16", WHITE, anonymous=True)
        verdict = check_latents(str(pair.target), str(pair.source), wanted, checksum=False)
        assert verdict.state is State.DONE


class TestDamage:
    @pytest.mark.parametrize("size", [-1, 300, 60, 20])
    def test_a_truncated_record_is_stale(self, pair: Pair, size: int) -> None:
        pair.target.write_bytes(pair.target.read_bytes()[:size])
        state, reason = pair.check()
        assert state is State.STALE
        assert reason is not None
        assert reason == "the output was cut short" or reason.startswith("the output was damaged (")

    @pytest.mark.parametrize("precision", ["f32", "bf16", "q4", "q8"])
    def test_a_record_cut_at_any_byte_is_stale(self, pair: Pair, precision: str) -> None:
        """A record of fewer than the 14 bytes that identify it counts as a foreign file."""
        pair.write(precision)
        data = pair.target.read_bytes()
        for size in {*range(80), *range(80, len(data), 5), *range(len(data) - 12, len(data))}:
            pair.target.write_bytes(data[:size])
            if size < len(RECORD_START):
                with pytest.raises(OutputError, match="exists and was not written by dinac"):
                    pair.check(precision=precision)
            else:
                assert pair.check(precision=precision)[0] is State.STALE
        pair.write(precision)
        assert pair.check(precision=precision) == DONE

    def test_a_record_with_trailing_bytes_is_stale(self, pair: Pair) -> None:
        pair.target.write_bytes(pair.target.read_bytes() + b"!")
        assert pair.check() == (State.STALE, "the output was cut short")

    def test_a_damaged_header_makes_the_record_stale(self, pair: Pair) -> None:
        data = bytearray(pair.target.read_bytes())
        data[40:60] = bytes(20)
        pair.target.write_bytes(data)
        state, reason = pair.check()
        assert state is State.STALE
        assert reason is not None
        assert reason.startswith("the output was damaged (")

    def test_an_unreadable_record_is_an_error(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(record: object) -> bool:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("dinac_cli.container.record.OpenRecord.is_whole", refuse)
        with pytest.raises(OutputError, match=r"a\.jpg\.dinac: cannot read: Permission denied; "):
            pair.check()


class TestForeign:
    """A file of another program is never replaced."""

    @pytest.mark.parametrize("content", [b"", b"mine", PREAMBLE[:13]])
    def test_another_file_is_foreign(self, pair: Pair, content: bytes) -> None:
        pair.target.write_bytes(content)
        with pytest.raises(OutputError, match="exists and was not written by dinac"):
            pair.check()

    def test_a_folder_is_foreign(self, pair: Pair) -> None:
        pair.target.unlink()
        pair.target.mkdir()
        with pytest.raises(OutputError, match="exists and was not written by dinac"):
            pair.check()

    def test_a_dangling_link_is_foreign(self, pair: Pair) -> None:
        pair.target.unlink()
        pair.target.symlink_to("nowhere")
        with pytest.raises(OutputError, match="exists and was not written by dinac"):
            pair.check()

    def test_a_record_of_a_later_version_is_kept(self, pair: Pair) -> None:
        data = bytearray(pair.target.read_bytes())
        data[14] = 7  # the version, after magic, size and `DINAC\0`
        pair.target.write_bytes(data)
        with pytest.raises(OutputError, match=r"a\.jpg\.dinac: .*; or choose another OUT or add"):
            pair.check()


class TestConflict:
    """A record of other settings is refused, and the message names both."""

    def test_another_model(self, pair: Pair, encoder: ModelHandle) -> None:
        other = make_handle("pair", "encoder")
        pair.target.write_bytes(make_record(other, "a.jpg"))
        with pytest.raises(OutputError) as caught:
            pair.check()
        assert str(caught.value) == (
            f"{pair.target} holds latents of model pair (latent space "
            f"{other.identity.latent_space}); this run uses --model tiny (latent space "
            f"{encoder.identity.latent_space}); "
            "choose another OUT or add --overwrite"
        )

    def test_another_precision(self, pair: Pair) -> None:
        with pytest.raises(
            OutputError, match="holds bf16 latents; this run uses --precision q8; choo"
        ):
            pair.check(precision="q8")

    def test_another_background(self, pair: Pair) -> None:
        pair.write(image="orientation=none;alpha=composited-#ffffff;frame=1/1")
        assert pair.check() == DONE
        with pytest.raises(
            OutputError,
            match="latents with --background #ffffff; this run uses --background #000000; choose",
        ):
            pair.check(background="#000000")

    def test_the_background_does_not_matter_without_alpha(self, pair: Pair) -> None:
        assert pair.check(background="#000000") == DONE

    def test_a_conflict_matters_more_than_a_changed_source(self, pair: Pair) -> None:
        pair.source.write_bytes(b"another picture")
        with pytest.raises(OutputError, match="precision"):
            pair.check(precision="q8")


def test_a_latent_file_starts_as_a_record_does(tmp_path: Path, encoder: ModelHandle) -> None:
    (tmp_path / "a").write_bytes(make_record(encoder, "a"))
    (tmp_path / "b").write_bytes(b"(\xb5/\xfd")
    assert is_latent_file(str(tmp_path / "a"))
    assert not is_latent_file(str(tmp_path / "b"))
    assert not is_latent_file(str(tmp_path / "gone"))
    assert not is_latent_file(str(tmp_path))


class TestFirstRecord:
    def test_the_first_readable_record_by_name_is_found(
        self, tmp_path: Path, encoder: ModelHandle
    ) -> None:
        for name in ("sub/0.dinac", "2.dinac", "3.DINAC"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(make_record(encoder, name))
        (tmp_path / "0.dinac").write_bytes(b"mine")
        (tmp_path / "1.txt").write_bytes(make_record(encoder, "x"))
        found = find_first_record(str(tmp_path))
        assert found is not None
        assert found[0] == str(tmp_path / "2.dinac")
        assert found[1].name == "2.dinac"
        assert found[2] == frozenset()
        (tmp_path / "2.dinac").unlink()
        found = find_first_record(str(tmp_path))
        assert found is not None
        assert found[1].name == "3.DINAC"

    def test_a_file_as_out_is_the_first_record(self, tmp_path: Path, encoder: ModelHandle) -> None:
        (tmp_path / "a.dinac").write_bytes(make_record(encoder, "x"))
        found = find_first_record(str(tmp_path / "a.dinac"))
        assert found is not None
        assert found[1].name == "x"

    def test_an_empty_or_missing_folder_has_none(self, tmp_path: Path) -> None:
        assert find_first_record(str(tmp_path)) is None
        assert find_first_record(str(tmp_path / "gone")) is None

    @needs_pipes
    def test_a_named_pipe_is_not_opened(self, tmp_path: Path, encoder: ModelHandle) -> None:
        os.mkfifo(tmp_path / "a.dinac")
        assert find_first_record(str(tmp_path)) is None
        assert not is_latent_file(str(tmp_path / "a.dinac"))
        (tmp_path / "b.dinac").write_bytes(make_record(encoder, "b"))
        found = find_first_record(str(tmp_path))
        assert found is not None
        assert found[1].name == "b"

    def test_a_folder_that_cannot_be_listed_is_refused(
        self, tmp_path: Path, encoder: ModelHandle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "tub").mkdir()
        (tmp_path / "tub/a.dinac").write_bytes(make_record(encoder, "a"))
        self.deny(tmp_path / "sub", monkeypatch)
        found = find_first_record(str(tmp_path))
        assert found is not None
        assert found[1].name == "a"
        self.deny(tmp_path, monkeypatch)
        with pytest.raises(OutputError) as caught:
            find_first_record(str(tmp_path))
        assert str(caught.value) == (
            f"{tmp_path}: cannot list this folder: Permission denied; "
            "check its permissions, or choose another OUT"
        )

    def deny(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Makes listing `folder` fail. Permissions would not stop a superuser."""
        list_folder = os.scandir

        def refuse(path: str) -> Any:
            if path == str(folder):
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return list_folder(path)

        monkeypatch.setattr(os, "scandir", refuse)


class TestImage:
    wanted = WantedImage("1" * 64, "2" * 16, "steps=1")

    def write(self, path: Path, wanted: WantedImage | None, form: str = "png") -> None:
        stamp = None if wanted is None else wanted.stamp
        path.write_bytes(write_image(draw(0), form, stamp=stamp))

    def check(self, path: Path) -> tuple[State, str | None]:
        verdict = check_image(str(path), self.wanted)
        return verdict.state, verdict.reason

    def test_a_missing_image_is_absent(self, tmp_path: Path) -> None:
        assert self.check(tmp_path / "a.png") == (State.ABSENT, None)

    @pytest.mark.parametrize("form", ["png", "jpg", "webp", "tiff"])
    def test_an_image_of_the_wanted_stamp_is_done(self, tmp_path: Path, form: str) -> None:
        self.write(tmp_path / "a", self.wanted, form)
        assert self.check(tmp_path / "a") == DONE
        assert is_stamped_image(str(tmp_path / "a"))

    def test_an_image_of_other_latents_is_stale(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a", WantedImage("0" * 64, "2" * 16, "steps=1"))
        assert self.check(tmp_path / "a") == (State.STALE, "the record has changed")

    @pytest.mark.parametrize(
        ("held", "message"),
        [
            (WantedImage("1" * 64, "2" * 16, "steps=4"), "--steps 4; this run uses --steps 1"),
            (
                WantedImage("1" * 64, "2" * 16, "steps=1;quality=9"),
                "--quality 9; this run uses --quality default",
            ),
            (
                WantedImage("1" * 64, "3" * 16, "steps=1"),
                f"weights {'3' * 16}; this run uses weights {'2' * 16}",
            ),
        ],
    )
    def test_an_image_of_other_settings_is_refused(
        self, tmp_path: Path, held: WantedImage, message: str
    ) -> None:
        self.write(tmp_path / "a", held)
        with pytest.raises(OutputError) as caught:
            self.check(tmp_path / "a")
        assert str(caught.value) == (
            f"{tmp_path / 'a'} was decoded with {message}; choose another OUT or add --overwrite"
        )

    @pytest.mark.parametrize("form", ["png", "bmp"])
    def test_an_unstamped_image_is_foreign(self, tmp_path: Path, form: str) -> None:
        self.write(tmp_path / "a", None, form)
        assert not is_stamped_image(str(tmp_path / "a"))
        with pytest.raises(OutputError, match="exists and was not written by dinac"):
            self.check(tmp_path / "a")

    @pytest.mark.parametrize("form", ["png", "jpg", "webp", "tiff", "bmp", "ppm"])
    def test_an_image_cut_at_any_byte_is_foreign(self, tmp_path: Path, form: str) -> None:
        """A truncated image cannot be told from an edited one, so it is not replaced."""
        self.write(tmp_path / "a", self.wanted, form)
        data = (tmp_path / "a").read_bytes()
        sizes = {*range(0, len(data), 17), *range(min(64, len(data))), len(data) - 1, len(data) - 2}
        for size in sorted(sizes):
            (tmp_path / "a").write_bytes(data[:size])
            with pytest.raises(OutputError, match="exists and was not written by dinac"):
                self.check(tmp_path / "a")
        (tmp_path / "a").write_bytes(data)
        assert self.check(tmp_path / "a") == DONE

    def test_an_edited_image_is_foreign(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a", self.wanted)
        with (tmp_path / "a").open("ab") as file:
            file.write(b"!")
        with pytest.raises(OutputError, match="exists and was not written by dinac"):
            self.check(tmp_path / "a")
