"""A run whose outputs were cut, at any byte, is made whole by running it again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.container.frame import RECORD_START
from dinac_cli.images.formats import OUTPUT_FORMATS
from dinac_cli.jobs.decode import DecodeOptions, decode_files
from dinac_cli.jobs.encode import EncodeOptions, encode_files
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.models.dinac.config import DinacAEInferenceConfig

from .hand_made import (
    images_out,
    latents_out,
    read_tree,
    run_control,
    select_images,
    select_latents,
    statuses,
    write_images,
)

COUNT = 60


def encode(images: Path, out: Path, model: ModelHandle) -> list[FileResult]:
    run = encode_files(
        select_images(images), latents_out(out), model, EncodeOptions(), run_control()
    )
    return list(run)


def decode(latents: Path, out: Path, model: ModelHandle, form: str) -> list[FileResult]:
    options = DecodeOptions(
        DinacAEInferenceConfig(seed=1), OUTPUT_FORMATS[form], lambda header: model
    )
    return list(decode_files(select_latents(latents), images_out(out), options, run_control()))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    write_images(folder, *(f"{number:02}.png" for number in range(COUNT)), height=16, width=16)
    return folder


def test_records_cut_at_any_byte_are_made_whole(
    images: Path, tmp_path: Path, encoder: ModelHandle
) -> None:
    """Every record loses its end at another byte, from the 14 that tell it to all but one."""
    out = tmp_path / "out"
    encode(images, out, encoder)
    whole = read_tree(out)
    for number, path in enumerate(sorted(out.iterdir())):
        size = path.stat().st_size
        os.truncate(path, len(RECORD_START) + number * (size - len(RECORD_START)) // COUNT)
    results = encode(images, out, encoder)
    assert {result.status for result in results} == {Status.WRITTEN}
    assert all(result.reason and "the output was" in result.reason for result in results)
    assert read_tree(out) == whole
    assert set(statuses(encode(images, out, encoder)).values()) == {Status.DONE}


def test_what_no_longer_tells_a_record_is_refused_and_kept(
    images: Path, tmp_path: Path, encoder: ModelHandle
) -> None:
    out = tmp_path / "out"
    encode(images, out, encoder)
    whole = read_tree(out)
    cut = sorted(out.iterdir())[: len(RECORD_START)]
    for size, path in enumerate(cut):
        os.truncate(path, size)
    results = encode(images, out, encoder)
    failed = [result for result in results if result.failed]
    assert len(failed) == len(cut)
    assert all("was not written by dinac" in (result.reason or "") for result in failed)
    assert [path.stat().st_size for path in cut] == list(range(len(cut)))
    for path in cut:
        path.unlink()
    encode(images, out, encoder)
    assert read_tree(out) == whole


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_run_that_stopped_anywhere_goes_on(
    tmp_path_factory: pytest.TempPathFactory, encoder: ModelHandle, data: st.DataObject
) -> None:
    """Any outputs are gone, any others cut: what comes of it is the whole."""
    folder = tmp_path_factory.mktemp("run")
    names = [f"{number}.png" for number in range(6)]
    write_images(folder / "in", *names, height=16, width=16)
    encode(folder / "in", folder / "out", encoder)
    whole = read_tree(folder / "out")
    expected = {}
    for name in names:
        path = folder / "out" / f"{name}.dinac"
        size = path.stat().st_size
        kept = data.draw(st.sampled_from([0, size]) | st.integers(len(RECORD_START), size))
        expected[name] = Status.DONE if kept == size else Status.WRITTEN
        if kept:
            os.truncate(path, kept)
        else:
            path.unlink()
    assert statuses(encode(folder / "in", folder / "out", encoder)) == expected
    assert read_tree(folder / "out") == whole


@pytest.mark.parametrize("form", ["png", "jpg", "webp", "tiff", "bmp"])
def test_images_cut_at_any_byte_are_never_done(
    form: str, images: Path, tmp_path: Path, encoder: ModelHandle, decoder: ModelHandle
) -> None:
    """Whether cut or edited nobody knows: refused, kept, and whole once they are out of the way."""
    latents, out = tmp_path / "latents", tmp_path / "out"
    encode(images, latents, encoder)
    decode(latents, out, decoder, form)
    whole = read_tree(out)
    assert len(whole) == COUNT
    for number, path in enumerate(sorted(out.iterdir())):
        os.truncate(path, number * path.stat().st_size // COUNT)
    cut = read_tree(out)
    results = decode(latents, out, decoder, form)
    assert {result.status for result in results} == {Status.FAILED}
    assert read_tree(out) == cut
    for path in out.iterdir():
        path.unlink()
    decode(latents, out, decoder, form)
    assert read_tree(out) == whole
