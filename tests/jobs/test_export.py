"""Exports are recognised, completed and replaced by later runs, also of several shards."""

from __future__ import annotations

import io
import json
import math
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.commands.export import EXPORT_DTYPES, EXPORT_KEYS
from dinac_cli.container.record import pack_encoded, pack_record, read_latents
from dinac_cli.container.tensors import Encoded
from dinac_cli.errors import OutputError, UsageError
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.export import WEBDATASET, ExportRequest, export_inputs, open_output
from dinac_cli.jobs.export_forms import FORMS, Exported
from dinac_cli.jobs.request import InputRequest, run_request
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.jobs.tar_set import ARRAY_TYPES, KEY_KINDS, TarSet
from dinac_cli.storage.tars import make_key

from .hand_made import make_handle, make_header, make_record, run_control, select_latents

BASE = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
"""How webdataset splits the name of a file in a tar: key, then extension."""

SEPARATE_FORMATS = (*FORMS, WEBDATASET)
"""The forms that take any records."""

STATES = {"a.jpg": 1, "b.png": 2, "sub/c.d.png": 3, "sub/e": 4}


@pytest.fixture(scope="module")
def model() -> ModelHandle:
    return make_handle("tiny", "decoder")


@pytest.fixture
def latents(tmp_path: Path, model: ModelHandle) -> Path:
    """Four records, and the current folder."""
    for name, seed in STATES.items():
        put(tmp_path / "latents", model, name, seed)
    return tmp_path / "latents"


def put(folder: Path, model: ModelHandle, name: str, seed: int, **fields: object) -> None:
    path = folder / f"{name}.dinac"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make_record(model, fields.pop("stored", name), seed, **fields))  # type: ignore[arg-type]


def export(out: Path, form: str, *folders: Path, **options: object) -> dict[str, str]:
    """Exports and returns the status of each record, by name; of a failed one, the reason."""
    shard = options.pop("shard", None)
    options.setdefault("force", form == "comfyui")  # the records are of a tiny model
    inputs = InputRequest(paths=tuple(map(str, folders)), shard=shard)  # type: ignore[arg-type]
    request = ExportRequest(inputs=inputs, out=str(out), format=form, **options)  # type: ignore[arg-type]
    return {
        result.name.removesuffix(".dinac"): result.reason or result.status.value
        for result in run_request(request)
    }


def read_tars(out: Path) -> dict[str, dict[str, bytes]]:
    """Reads all tars as webdataset does: key → extension → content. Every key exists once."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(out.glob("*.tar")):
        found: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                match = BASE.fullmatch(member.name)
                file = tar.extractfile(member)
                assert match is not None
                assert file is not None
                found.setdefault(match[1], {})[match[2]] = file.read()
        assert found.keys().isdisjoint(samples)
        samples |= found
    return samples


def read_bytes(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def list_names(out: Path) -> list[str]:
    return sorted(json.loads(sample["json"])["name"] for sample in read_tars(out).values())


def test_option_and_job_list_the_same_keys_and_types() -> None:
    assert tuple(ARRAY_TYPES) == EXPORT_DTYPES
    assert EXPORT_KEYS == KEY_KINDS


@pytest.mark.parametrize("form", SEPARATE_FORMATS)
def test_another_run_adds_what_is_new_and_replaces_what_is_stale(
    tmp_path: Path, latents: Path, model: ModelHandle, form: str
) -> None:
    out = tmp_path / "out"
    assert set(export(out, form, latents).values()) == {"written"}
    before = {path: path.stat().st_ino for path in out.rglob("*")}
    assert set(export(out, form, latents).values()) == {"done"}
    assert {path: path.stat().st_ino for path in out.rglob("*")} == before

    put(latents, model, "b.png", 20)
    put(latents, model, "aa.png", 21)
    assert export(out, form, latents) == {
        "a.jpg": "done",
        "aa.png": "written",
        "b.png": "the record has changed",
        "sub/c.d.png": "done",
        "sub/e": "done",
    }
    assert set(export(out, form, latents).values()) == {"done"}
    expected = read_latents(latents / "b.png.dinac")[0]
    np.testing.assert_array_equal(read_array(out, form, "b.png"), expected)


def read_array(
    out: Path, form: str, name: str
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    if form == "npz":
        return np.load(out / f"{name}.npz")["latents"]  # type: ignore[no-any-return]
    if form == "safetensors":
        with safe_open(out / f"{name}.safetensors", "np") as file:
            return file.get_tensor("latents")  # type: ignore[no-any-return]
    if form == "comfyui":
        return load_file(out / f"{name}.latent")["latent_tensor"][0]  # type: ignore[no-any-return]
    [sample] = [s for s in read_tars(out).values() if json.loads(s["json"])["name"] == name]
    return np.load(io.BytesIO(sample["npy"]))  # type: ignore[no-any-return]


def edit_safetensors(out: Path) -> None:
    with safe_open(out / "b.png.safetensors", "np") as file:
        metadata = {**file.metadata(), "caption": "mine"}
        save_file({"latents": file.get_tensor("latents")}, out / "b.png.safetensors", metadata)


def edit_npz(out: Path) -> None:
    arrays = dict(np.load(out / "b.png.npz"))
    np.savez(out / "b.png.npz", **arrays | {"latents": arrays["latents"] + 1})


def edit_tar(out: Path) -> None:
    with tarfile.open(out / "000000.tar") as tar:
        place = tar.getmember("00000001.npy").offset_data + 200
    content = bytearray((out / "000000.tar").read_bytes())
    content[place] ^= 1
    (out / "000000.tar").write_bytes(content)


def extend_tar(out: Path) -> None:
    with tarfile.open(out / "000000.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo("00000001.txt"))


@pytest.mark.parametrize(
    ("form", "edit"),
    [
        ("safetensors", edit_safetensors),
        ("npz", edit_npz),
        (WEBDATASET, edit_tar),
        (WEBDATASET, extend_tar),
    ],
)
def test_a_stale_file_that_somebody_changed_is_kept(
    tmp_path: Path, latents: Path, model: ModelHandle, form: str, edit: Callable[[Path], None]
) -> None:
    out = tmp_path / "out"
    export(out, form, latents)
    edit(out)
    edited = read_bytes(out)
    put(latents, model, "b.png", 20)
    try:
        [reason] = [text for text in export(out, form, latents).values() if text != "done"]
    except OutputError as exc:
        reason = str(exc)
    assert re.search(r"was not written by .*; choose another .* add --overwrite$", reason)
    assert read_bytes(out) == edited
    assert "written" in export(out, form, latents, overwrite=True).values()
    expected = read_latents(latents / "b.png.dinac")[0]
    np.testing.assert_array_equal(read_array(out, form, "b.png"), expected)


@pytest.mark.parametrize("form", SEPARATE_FORMATS)
@pytest.mark.parametrize("content", [b"", b"x" * 2000, b"\x10" + bytes(7) + b"[]" + b" " * 14])
def test_a_foreign_file_is_kept(tmp_path: Path, latents: Path, form: str, content: bytes) -> None:
    out = tmp_path / "out"
    name = "000000.tar" if form == WEBDATASET else f"b.png.{FORMS[form].suffix}"
    out.mkdir()
    (out / name).write_bytes(content)
    if form == WEBDATASET:
        with pytest.raises(OutputError, match="was not written by this version of dinac"):
            export(out, form, latents)
    else:
        assert "was not written by this version of dinac" in export(out, form, latents)["b.png"]
    assert (out / name).read_bytes() == content


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("form", SEPARATE_FORMATS)
def test_a_named_pipe_in_out_is_not_opened(tmp_path: Path, latents: Path, form: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    os.mkfifo(out / ("000000.tar" if form == WEBDATASET else f"b.png.{FORMS[form].suffix}"))
    if form == WEBDATASET:
        with pytest.raises(OutputError, match="was not written by this version of dinac"):
            export(out, form, latents)
    else:
        assert "was not written by this version of dinac" in export(out, form, latents)["b.png"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [0, 5, 300, -1])
def test_a_truncated_export_is_neither_current_nor_ours(
    tmp_path: Path, latents: Path, form: str, size: int
) -> None:
    export(tmp_path / "out", form, latents)
    path = tmp_path / f"out/a.jpg.{FORMS[form].suffix}"
    path.write_bytes(path.read_bytes()[:size])
    assert not FORMS[form].is_ours(str(path))
    assert (
        "was not written by this version of dinac"
        in export(tmp_path / "out", form, latents)["a.jpg"]
    )


@pytest.mark.parametrize("keys", KEY_KINDS)
def test_shards_share_a_folder_and_each_key_exists_once(
    tmp_path: Path, latents: Path, model: ModelHandle, keys: str
) -> None:
    out = tmp_path / "out"
    for shard in ("0/2", "1/2"):
        export(out, WEBDATASET, latents, shard=shard, keys=keys)
    assert sorted(path.name for path in out.iterdir()) == ["0of2-000000.tar", "1of2-000000.tar"]
    assert list_names(out) == sorted(STATES)
    put(latents, model, "z.png", 9)
    statuses = [export(out, WEBDATASET, latents, shard=f"{i}/3", keys=keys) for i in range(3)]
    done = {name: state for each in statuses for name, state in each.items()}
    assert done == dict.fromkeys(STATES, "done") | {"z.png": "written"}
    assert set(export(out, WEBDATASET, latents, keys=keys).values()) == {"done"}
    assert list_names(out) == sorted([*STATES, "z.png"])


def test_keys_from_names_end_before_the_first_dot(tmp_path: Path, model: ModelHandle) -> None:
    names = [
        "a.jpg",
        "a.png",
        "dir.v1/x.tar.gz",
        "50%.png",
        "50%2E.png",
        "日本語/ü.webp",
        f"{'long' * 30}/{'name' * 40}.jpg",
    ]
    for seed, name in enumerate(names):
        put(tmp_path / "latents", model, name, seed)
    export(tmp_path / "out", WEBDATASET, tmp_path / "latents", keys="name")
    samples = read_tars(tmp_path / "out")
    assert sorted(map(unquote, samples)) == sorted(names)
    for key, sample in samples.items():
        assert sample.keys() == {"npy", "json"}
        assert json.loads(sample["json"])["name"] == unquote(key)
    assert make_key("dir.v1/.a.jpg") == "dir%2Ev1/%2Ea%2Ejpg"


def test_one_folder_has_one_kind_of_keys(tmp_path: Path, latents: Path) -> None:
    export(tmp_path / "out", WEBDATASET, latents)
    with pytest.raises(UsageError, match=r"has numbers as keys, but this .* add --keys number$"):
        export(tmp_path / "out", WEBDATASET, latents, keys="name")
    with pytest.raises(UsageError, match="--keys name needs --to webdataset"):
        export(tmp_path / "npz", "npz", latents, keys="name")


def test_equal_names_of_two_folders_have_two_samples(
    tmp_path: Path, latents: Path, model: ModelHandle
) -> None:
    put(tmp_path / "more", model, "a.jpg", 7)
    folders = latents, tmp_path / "more"
    for expected in ("written", "done"):
        assert set(export(tmp_path / "out", WEBDATASET, *folders).values()) == {expected}
        assert list_names(tmp_path / "out") == sorted([*STATES, "a.jpg"])
    put(tmp_path / "more", model, "a.jpg", 8)
    export(tmp_path / "out", WEBDATASET, *folders)
    found = {sample["npy"] for sample in read_tars(tmp_path / "out").values()}
    assert len(found) == len(STATES) + 1


def test_names_that_are_escaped_alike_are_two_samples(tmp_path: Path, model: ModelHandle) -> None:
    for seed, name in enumerate(("a\x01.png", "a%01.png")):
        put(tmp_path / "latents", model, name, seed, stored="a.png")
    for expected in ("written", "done"):
        statuses = export(tmp_path / "out", WEBDATASET, tmp_path / "latents")
        assert list(statuses.values()) == [expected] * 2
    assert len({sample["npy"] for sample in read_tars(tmp_path / "out").values()}) == 2


def test_anonymous_records_put_no_name_into_a_tar(tmp_path: Path, model: ModelHandle) -> None:
    latents = tmp_path / "latents"
    for seed, name in enumerate(("secret.png", "hidden.png")):
        put(latents, model, name, seed, stored="", source_bytes=None, source_sha256=None)
    (latents / "hidden too.png.dinac").write_bytes((latents / "hidden.png.dinac").read_bytes())
    for expected, overwrite in (("written", False), ("done", False), ("written", True)):
        statuses = export(tmp_path / "out", WEBDATASET, latents, overwrite=overwrite)
        assert list(statuses.values()) == [expected] * 3
    assert len(read_tars(tmp_path / "out")) == 3
    content = (tmp_path / "out/000000.tar").read_bytes()
    assert b"secret" not in content
    assert b"hidden" not in content


@pytest.mark.parametrize("stopped_after", range(1, 5))
def test_a_stopped_run_ends_with_the_tars_of_an_uninterrupted_run(
    tmp_path: Path, latents: Path, monkeypatch: pytest.MonkeyPatch, stopped_after: int
) -> None:
    monkeypatch.setattr("dinac_cli.jobs.export.TAR_BYTES", 2500)
    export(tmp_path / "whole", WEBDATASET, latents)
    assert len(read_bytes(tmp_path / "whole")) > 1
    control = RunControl(workers=1, in_flight=1)
    output = open_output(str(tmp_path / "out"), WEBDATASET)
    output.open()

    def stop_inputs() -> Iterator[object]:
        for number, entry in enumerate(select_latents(str(latents)), start=1):
            if number == stopped_after:
                control.stop.set()
            yield entry

    list(export_inputs(stop_inputs(), output, WEBDATASET, control))  # type: ignore[arg-type]
    export(tmp_path / "out", WEBDATASET, latents)
    assert read_bytes(tmp_path / "out") == read_bytes(tmp_path / "whole")


def test_a_tar_of_another_run_is_not_replaced(tmp_path: Path) -> None:
    output = open_output(str(tmp_path), WEBDATASET)
    tars = TarSet(output, "number")
    tars.scan()
    (tmp_path / "000000.tar").write_bytes(b"another run's")
    with pytest.raises(OutputError, match="another run wrote this file meanwhile"):
        tars.add(b"this run's")
    assert (tmp_path / "000000.tar").read_bytes() == b"another run's"
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_two_runs_that_add_different_tars_lose_nothing(
    tmp_path: Path, latents: Path, model: ModelHandle
) -> None:
    put(tmp_path / "more", model, "x.png", 7)
    output = open_output(str(tmp_path / "out"), WEBDATASET)
    output.open()

    def list_inputs() -> Iterator[object]:
        yield from select_latents(str(latents))
        export(tmp_path / "out", WEBDATASET, tmp_path / "more")

    with pytest.raises(OutputError, match="another run wrote this file meanwhile"):
        list(export_inputs(list_inputs(), output, WEBDATASET, run_control()))  # type: ignore[arg-type]
    assert list_names(tmp_path / "out") == ["x.png"]
    export(tmp_path / "out", WEBDATASET, latents)
    assert list_names(tmp_path / "out") == sorted([*STATES, "x.png"])


def test_alternating_stale_samples_rewrite_each_tar_once(
    tmp_path: Path, model: ModelHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents, out = tmp_path / "latents", tmp_path / "out"
    for names in ("aceg", "bdfh"):
        for name in names:
            put(latents, model, name, ord(name))
        export(out, WEBDATASET, latents)
    replaced: list[str] = []
    replace = TarSet.replace

    def note(tars: TarSet, path: str, samples: Mapping[str, Exported]) -> None:
        replaced.append(os.path.basename(path))
        replace(tars, path, samples)

    monkeypatch.setattr(TarSet, "replace", note)
    for name in "abcdefgh":
        put(latents, model, name, 1000 + ord(name))
    assert set(export(out, WEBDATASET, latents).values()) == {"the record has changed"}
    assert replaced == ["000000.tar", "000001.tar"]
    assert set(export(out, WEBDATASET, latents).values()) == {"done"}


def test_samples_that_another_run_removed_are_no_success(tmp_path: Path, latents: Path) -> None:
    export(tmp_path / "out", WEBDATASET, latents)
    [path] = (tmp_path / "out").iterdir()
    before = path.read_bytes()
    tars = TarSet(open_output(str(tmp_path / "out"), WEBDATASET), "number")
    with pytest.raises(OutputError, match="another run wrote this file meanwhile"):
        tars.replace(str(path), {"gone.jpg": Exported({}, {})})
    assert path.read_bytes() == before


def test_results_name_their_tar(tmp_path: Path, latents: Path) -> None:
    inputs = InputRequest(paths=(str(latents),))
    request = ExportRequest(inputs=inputs, out=str(tmp_path / "out"), format=WEBDATASET)
    for status in (Status.WRITTEN, Status.DONE):
        results: list[FileResult] = list(run_request(request))
        assert {result.status for result in results} == {status}
        assert {result.output for result in results} == {str(tmp_path / "out/000000.tar")}


def test_facts_are_typed(tmp_path: Path, latents: Path) -> None:
    export(tmp_path / "out", WEBDATASET, latents)
    facts: Mapping[str, object] = json.loads(read_tars(tmp_path / "out")["00000000"]["json"])
    assert (facts["width"], facts["height"], facts["patch"]) == (30, 20, 16)
    assert facts["shape"] == list(read_latents(latents / "a.jpg.dinac")[0].shape)


def load_as_comfyui(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """What LoadLatent of ComfyUI gives to the next node: it scales files without the version."""
    tensors = load_file(path)
    scale = 1.0 if "latent_format_version_0" in tensors else 1.0 / 0.18215
    return tensors["latent_tensor"] * np.float32(scale)


def test_comfyui_loads_latents_of_d2(tmp_path: Path, model: ModelHandle) -> None:
    latents, out, d2 = tmp_path / "latents", tmp_path / "out", "data-archetype/dinac_ae_d2"
    latents.mkdir()
    headers: dict[str, dict[str, object]] = {
        "a.png": {"model": d2, "patch": 16, "shape": (128, 2, 2)},
        "b.png": {"model": f"{d2}-mine", "patch": 16, "shape": (128, 2, 2)},
        "c.png": {"model": d2},
    }
    for name, fields in headers.items():
        header = replace(make_header(model, name), **fields)  # type: ignore[arg-type]
        drawn = np.random.default_rng(1).standard_normal(header.shape).astype(np.float32)
        (latents / f"{name}.dinac").write_bytes(pack_record(header, drawn))
    statuses = export(out, "comfyui", latents, force=False)
    assert statuses.pop("a.png") == "written"
    assert all("ComfyUI reads latents of DINAC-AE-D2" in reason for reason in statuses.values())
    assert list(read_bytes(out)) == ["a.png.latent"]
    loaded = load_as_comfyui(out / "a.png.latent")
    assert (loaded.shape, str(loaded.dtype)) == ((1, 128, 2, 2), "float32")
    np.testing.assert_array_equal(loaded[0], read_latents(latents / "a.png.dinac")[0])


class WidsReader:
    """Finds samples by number, as wids does: the index says how many samples each tar has."""

    def __init__(self, index: Path) -> None:
        content = json.loads(index.read_text())
        assert (content["__kind__"], content["wids_version"]) == ("wids-shard-index-v1", 1)
        self.places = [
            (index.parent / shard["url"], number)
            for shard in content["shardlist"]
            for number in range(shard["nsamples"])
        ]
        for shard in content["shardlist"]:
            assert (index.parent / shard["url"]).stat().st_size == shard["filesize"]

    def __getitem__(self, index: int) -> dict[str, bytes]:
        path, number = self.places[index]
        samples: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                match, file = BASE.fullmatch(member.name), tar.extractfile(member)
                assert match is not None
                assert file is not None
                samples.setdefault(match[1], {})[match[2]] = file.read()
        return list(samples.values())[number]


def test_wids_finds_samples_of_float16_by_number(
    tmp_path: Path, latents: Path, model: ModelHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dinac_cli.jobs.export.TAR_BYTES", 2500)
    out = tmp_path / "out"
    export(out, WEBDATASET, latents, dtype="f16", index=True)
    put(latents, model, "z.png", 9)
    export(out, WEBDATASET, latents, dtype="f16", index=True)
    reader = WidsReader(out / "wids-meta.json")
    assert len(reader.places) == len(STATES) + 1
    assert len({path for path, _ in reader.places}) > 1
    for index, name in enumerate([*STATES, "z.png"]):
        facts = json.loads(reader[index]["json"])
        array = np.load(io.BytesIO(reader[index]["npy"]))
        expected = read_latents(latents / f"{name}.dinac")[0].astype(np.float16)
        assert (facts["name"], facts["width"], facts["height"]) == (name, 30, 20)
        assert str(array.dtype) == "float16"
        np.testing.assert_array_equal(array, expected)


def test_a_foreign_index_and_another_type_are_refused(tmp_path: Path, latents: Path) -> None:
    out = tmp_path / "out"
    export(out, WEBDATASET, latents)
    (out / "wids-meta.json").write_text("{}")
    with pytest.raises(OutputError, match=r"wids-meta\.json: was not written by this version"):
        export(out, WEBDATASET, latents, index=True)
    assert (out / "wids-meta.json").read_text() == "{}"
    with pytest.raises(UsageError, match=r"000000\.tar holds arrays of f32, but .* --dtype f32$"):
        export(out, WEBDATASET, latents, dtype="f16")
    for option in ({"dtype": "f16"}, {"index": True}):
        with pytest.raises(UsageError, match="needs --to webdataset"):
            export(tmp_path / "npz", "npz", latents, **option)


def test_stale_samples_of_float16_are_replaced(
    tmp_path: Path, latents: Path, model: ModelHandle
) -> None:
    out = tmp_path / "out"
    export(out, WEBDATASET, latents, dtype="f16")
    assert set(export(out, WEBDATASET, latents, dtype="f16").values()) == {"done"}
    put(latents, model, "b.png", 20)
    assert export(out, WEBDATASET, latents, dtype="f16")["b.png"] == "the record has changed"
    expected = read_latents(latents / "b.png.dinac")[0].astype(np.float16)
    np.testing.assert_array_equal(read_array(out, WEBDATASET, "b.png"), expected)


def test_values_too_large_for_float16_fail_alone(
    tmp_path: Path, latents: Path, model: ModelHandle
) -> None:
    header = make_header(model, "b.png")
    large = np.full(header.shape, 1e6, np.float32)
    (latents / "b.png.dinac").write_bytes(pack_record(header, large))
    statuses = export(tmp_path / "out", WEBDATASET, latents, dtype="f16")
    assert statuses.pop("b.png") == "holds values that are too large for --dtype f16; export f32"
    assert set(statuses.values()) == {"written"}


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_masks_are_arrays_of_every_sample(
    tmp_path: Path, latents: Path, model: ModelHandle, dtype: str
) -> None:
    for name, seed in STATES.items():
        put(latents, model, name, seed, image="alpha=none;mask=none")
    header = make_header(model, "b.png")
    mask = np.arange(math.prod(header.shape[1:]), dtype=np.uint8).reshape(header.shape[1:])
    images = [Encoded(np.zeros(header.shape, np.float32), mask=m) for m in (mask, mask[:, ::-1])]
    (latents / "b.png.dinac").write_bytes(pack_encoded(header, images[0], flipped=images[1]))
    out = tmp_path / "out"
    run = partial(export, out, WEBDATASET, latents, keys="name", dtype=dtype)
    assert set(run().values()) == {"written"}
    before = read_bytes(out)
    assert all(
        "mask" not in extension for sample in read_tars(out).values() for extension in sample
    )
    assert set(run(masks=True).values()) == {"it was exported without --masks"}
    assert set(run(masks=True).values()) == {"done"}
    samples = {key: dict(sample) for key, sample in read_tars(out).items()}
    for key, sample in samples.items():
        stored = np.load(io.BytesIO(sample["mask.npy"]))
        expected = mask if key == "b%2Epng" else np.full(mask.shape, 255, np.uint8)
        np.testing.assert_array_equal(stored, expected, strict=True)
    flipped = np.load(io.BytesIO(samples["b%2Epng"]["flipped_mask.npy"]))
    np.testing.assert_array_equal(flipped, mask[:, ::-1], strict=True)
    assert set(run().values()) == {"it was exported with --masks"}
    assert read_bytes(out) == before
    put(latents, model, "b.png", 0)
    assert set(run(masks=True).values()) == {
        "it was exported without --masks",
        "was encoded without masks; encode it again with --mask or --masks, or remove it with "
        "--prune=all if its image is gone",
    }
    with pytest.raises(UsageError, match="--masks needs --to webdataset"):
        export(tmp_path / "npz", "npz", latents, masks=True)


def test_a_sample_that_is_replaced_names_each_difference(
    tmp_path: Path, model: ModelHandle
) -> None:
    put(tmp_path / "latents", model, "a.jpg", 1, image="alpha=none;mask=none")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.txt").write_text("a picture")
    run = partial(export, tmp_path / "out", WEBDATASET, tmp_path / "latents")
    captions = str(tmp_path / "photos")
    assert run() == {"a.jpg": "written"}
    assert run(captions=captions) == {"a.jpg": "it was exported without --captions"}
    assert run(masks=True) == {"a.jpg": "it was exported with --captions and without --masks"}
    assert run(captions=captions, masks=True) == {"a.jpg": "it was exported without --captions"}
    assert run() == {"a.jpg": "it was exported with --captions and --masks"}
    assert run() == {"a.jpg": "done"}


def test_captions_become_prompts(tmp_path: Path, latents: Path) -> None:
    out, photos = tmp_path / "out", tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    for name in ("a", "b", "sub/c.d"):
        (photos / f"{name}.txt").write_text(f"a picture of {name}\n")
    run = partial(export, out, WEBDATASET, latents, captions=str(photos))
    statuses = run()
    assert statuses.pop("sub/e") == (
        f"has no caption (no {photos / 'sub/e.txt'}); add it, or leave out --captions"
    )
    assert set(statuses.values()) == {"written"}
    (photos / "b.txt").write_text("another text")
    (photos / "sub/e.txt").write_text("é")
    assert run() == {
        "a.jpg": "done",
        "b.png": "the caption has changed",
        "sub/c.d.png": "done",
        "sub/e": "written",
    }
    assert set(run().values()) == {"done"}
    facts = [json.loads(sample["json"]) for sample in read_tars(out).values()]
    assert {each["name"]: each["prompt"] for each in facts} == {
        "a.jpg": "a picture of a",
        "b.png": "another text",
        "sub/c.d.png": "a picture of sub/c.d",
        "sub/e": "é",
    }
    with pytest.raises(UsageError, match="--captions needs --to webdataset"):
        export(tmp_path / "npz", "npz", latents, captions=str(photos))
