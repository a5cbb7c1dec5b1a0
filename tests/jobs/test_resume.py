"""A second run repairs outputs that were truncated at any byte."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.container.frame import RECORD_START
from dinac_cli.images.formats import OUTPUT_FORMATS
from dinac_cli.jobs.decode import DecodeOptions, decode_inputs
from dinac_cli.jobs.encode import EncodeOptions, encode_inputs
from dinac_cli.jobs.model_choice import FixedModel
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.models.interface import DinacAEInferenceConfig

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

COUNT = 24


def encode(images: Path, out: Path, model: ModelHandle) -> list[FileResult]:
    run = encode_inputs(
        select_images(images), latents_out(out), model, EncodeOptions(), run_control()
    )
    return list(run)


def decode(latents: Path, out: Path, model: ModelHandle, form: str) -> list[FileResult]:
    options = DecodeOptions(settings=DinacAEInferenceConfig(seed=1), format=OUTPUT_FORMATS[form])
    inputs, models = select_latents(latents), FixedModel(model)
    return list(decode_inputs(inputs, images_out(out), models, options, run_control()))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_images(folder, *(f"{number:02}.png" for number in range(COUNT)), height=16, width=16)
    return folder


@pytest.fixture(scope="module")
def latents(images: Path, tmp_path_factory: pytest.TempPathFactory, encoder: ModelHandle) -> Path:
    """Returns the folder of the records, which tests must not change."""
    folder = tmp_path_factory.mktemp("latents")
    encode(images, folder, encoder)
    return folder


def test_records_cut_at_any_byte_are_encoded_again(
    images: Path, latents: Path, tmp_path: Path, encoder: ModelHandle
) -> None:
    """Each record is cut at another byte, but keeps the 14 that identify it."""
    out = shutil.copytree(latents, tmp_path / "out")
    for number, path in enumerate(sorted(out.glob("*.dinac"))):
        size = path.stat().st_size
        os.truncate(path, len(RECORD_START) + number * (size - len(RECORD_START)) // COUNT)
    results = encode(images, out, encoder)
    assert {result.status for result in results} == {Status.WRITTEN}
    assert all(result.reason and "the output was" in result.reason for result in results)
    assert read_tree(out) == read_tree(latents)
    assert set(statuses(encode(images, out, encoder)).values()) == {Status.DONE}


def test_records_cut_too_short_to_identify_are_refused_and_kept(
    images: Path, latents: Path, tmp_path: Path, encoder: ModelHandle
) -> None:
    out = shutil.copytree(latents, tmp_path / "out")
    cut = sorted(out.glob("*.dinac"))[: len(RECORD_START)]
    for size, path in enumerate(cut):
        os.truncate(path, size)
    results = encode(images, out, encoder)
    failed = [result for result in results if result.failed]
    assert len(failed) == len(cut)
    assert {result.error for result in failed} == {"OutputError"}
    assert all("was not written by dinac" in (result.reason or "") for result in failed)
    assert [path.stat().st_size for path in cut] == list(range(len(cut)))
    for path in cut:
        path.unlink()
    encode(images, out, encoder)
    assert read_tree(out) == read_tree(latents)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_run_interrupted_anywhere_is_completed(
    images: Path,
    latents: Path,
    tmp_path_factory: pytest.TempPathFactory,
    encoder: ModelHandle,
    data: st.DataObject,
) -> None:
    """Some outputs are missing and others truncated; the second run completes them."""
    folder = tmp_path_factory.mktemp("run")
    for path in sorted(images.iterdir())[:6]:
        shutil.copy2(path, folder / path.name)
    out, whole, expected = folder / "out", dict[str, bytes](), {}
    out.mkdir()
    for source in sorted(folder.glob("*.png")):
        name = f"{source.name}.dinac"
        whole[name] = (latents / name).read_bytes()
        size = len(whole[name])
        kept = data.draw(st.sampled_from([0, size]) | st.integers(len(RECORD_START), size))
        expected[source.name] = Status.DONE if kept == size else Status.WRITTEN
        if kept:
            (out / name).write_bytes(whole[name][:kept])
    results = encode_inputs(
        select_images(folder, out=out),
        latents_out(out),
        encoder,
        EncodeOptions(),
        run_control(),
    )
    assert statuses(results) == expected
    assert read_tree(out) == whole


@pytest.mark.parametrize("form", ["png", "jpg", "webp", "tiff", "bmp", "ppm"])
def test_images_cut_at_any_byte_are_refused_and_kept(
    form: str, latents: Path, tmp_path: Path, decoder: ModelHandle
) -> None:
    """A truncated image cannot be told from an edited one, so it is never replaced."""
    out = tmp_path / "out"
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
