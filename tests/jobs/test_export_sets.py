"""Exports of whole training sets, read back by the rules of the tools that they are for."""

from __future__ import annotations

import io
import json
import random
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.commands.export import EXPORT_LABELS
from dinac_cli.container.record import pack_encoded, read_record
from dinac_cli.container.tensors import LOGSNR, Encoded
from dinac_cli.errors import OutputError, UsageError
from dinac_cli.jobs import edm2_places, lightningdit_set
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.export import TRAINING_SETS, ExportRequest, export_inputs, open_output
from dinac_cli.jobs.export_items import ExportOutcome
from dinac_cli.jobs.request import InputRequest, run_request
from dinac_cli.jobs.training_set import LABEL_KINDS
from dinac_cli.models.aliases import HUB_ALIASES
from dinac_cli.models.registry import resolve_model

from .hand_made import make_handle, make_header, make_record, select_latents

NAMES = ("ant/a.png", "ant/b.png", "bee/1/a.png", "bee/2/a.png", "cat/z.png")
CLASSES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def model() -> ModelHandle:
    return make_handle("tiny", "decoder")


@pytest.fixture
def latents(tmp_path: Path, model: ModelHandle) -> Path:
    """Five records with twins, in three class folders."""
    for seed, name in enumerate(NAMES):
        put(tmp_path / "latents", model, name, seed)
    return tmp_path / "latents"


def put(
    folder: Path, model: ModelHandle, name: str, seed: int, *, logsnr: bool = False, **fields: int
) -> None:
    """Writes a record with a twin; `fields` are fields of its header."""
    header = make_header(model, name, **fields)
    draw = np.random.default_rng(seed)
    own, flipped, noise = draw.standard_normal((3, *header.shape)).astype(np.float32)
    views = [Encoded(each, noise if logsnr else None) for each in (own, flipped)]
    path = folder / f"{name}.dinac"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pack_encoded(header, views[0], flipped=views[1]))


def export(out: Path, form: str, *folders: Path, **options: object) -> dict[str, str]:
    """Exports and returns the status of each record, by name; of a failed one, the reason."""
    options.setdefault("labels", "folders")
    inputs = InputRequest(paths=tuple(map(str, folders)))
    request = ExportRequest(inputs=inputs, out=str(out), format=form, **options)  # type: ignore[arg-type]
    return {
        result.name.removesuffix(".dinac"): result.reason or result.status.value
        for result in run_request(request)
    }


def read_bytes(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


class LightningDitReader:
    """Reads a folder as LightningDiT does.

    The shards are sorted by name. An item opens its shard, slices one row of `latents` or, in half
    of all cases, of `latents_flip`, and is normalised with the statistics.
    """

    def __init__(self, folder: Path) -> None:
        self.shards = sorted(folder.glob("*.safetensors"))
        self.places: list[tuple[Path, int]] = []
        for shard in self.shards:
            with safe_open(shard, "pt") as file:
                [count] = file.get_slice("labels").get_shape()
            self.places += [(shard, row) for row in range(count)]
        statistics = torch.load(folder / "latents_stats.pt", weights_only=True)
        self.mean, self.std = statistics["mean"], statistics["std"]

    def get(self, index: int, name: str) -> tuple[torch.Tensor, int]:
        shard, row = self.places[index]
        with safe_open(shard, "pt") as file:
            feature = file.get_slice(name)[row : row + 1]
            label = file.get_slice("labels")[row : row + 1]
        feature = (feature - self.mean) / self.std
        assert label.dtype == torch.int64
        return feature.squeeze(0), int(label.squeeze(0))

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.get(index, "latents" if random.random() > 0.5 else "latents_flip")


@pytest.fixture
def two_per_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightningdit_set, "SHARD_IMAGES", 2)


@pytest.mark.usefixtures("two_per_shard")
def test_lightningdit_reads_latents_twins_and_labels(tmp_path: Path, latents: Path) -> None:
    statuses = export(tmp_path / "out", "lightningdit", latents)
    assert statuses == dict.fromkeys(NAMES, "written")
    reader = LightningDitReader(tmp_path / "out")
    names = [f"latents_rank00_shard00{number}.safetensors" for number in range(3)]
    assert [path.name for path in reader.shards] == names
    assert len(reader.places) == len(NAMES)
    drawn = set()
    for index, name in enumerate(NAMES):
        record = read_record(latents / f"{name}.dinac", with_twin=True)
        assert record.flipped is not None
        views = {"latents": record.latents, "latents_flip": record.flipped.latents}
        for key, expected in views.items():
            feature, label = reader.get(index, key)
            np.testing.assert_array_equal(feature.numpy(), expected)
            assert CLASSES[label] == name.partition("/")[0]
        rows = [reader[index][0] for _ in range(16)]
        drawn |= {
            any(torch.equal(row, torch.tensor(view)) for view in views.values()) for row in rows
        }
    assert drawn == {True}
    with safe_open(reader.shards[-1], "np") as file:
        metadata = file.metadata()
    assert (metadata["total_size"], metadata["dtype"]) == ("1", "torch.float32")
    assert json.loads(metadata["classes"]) == list(CLASSES)


def test_ranks_follow_after_a_thousand_shards() -> None:
    names = [lightningdit_set.name_shard(number) for number in (0, 999, 1000, 2001)]
    assert names == sorted(names)
    assert names[2:] == [f"latents_rank0{at}.safetensors" for at in ("1_shard000", "2_shard001")]


@pytest.mark.usefixtures("two_per_shard")
def test_lightningdit_keeps_shards_of_the_same_records(
    tmp_path: Path, latents: Path, model: ModelHandle
) -> None:
    out = tmp_path / "out"
    export(out, "lightningdit", latents)
    before = {path.name: path.stat().st_ino for path in out.iterdir()}
    assert set(export(out, "lightningdit", latents).values()) == {"done"}
    assert {path.name: path.stat().st_ino for path in out.iterdir()} == before
    put(latents, model, "cat/z.png", 20)
    assert list(export(out, "lightningdit", latents).values()) == ["done"] * 4 + ["written"]
    export(tmp_path / "new", "lightningdit", latents)
    assert read_bytes(out) == read_bytes(tmp_path / "new")


@pytest.mark.usefixtures("two_per_shard")
def test_lightningdit_replaces_and_reads_no_foreign_shard(
    tmp_path: Path, latents: Path, model: ModelHandle
) -> None:
    out = tmp_path / "out"
    export(out, "lightningdit", latents)
    name = "latents_rank00_shard001.safetensors"
    content = bytearray((out / name).read_bytes())
    content[-9] ^= 1
    (out / name).write_bytes(content)
    put(latents, model, "bee/1/a.png", 20)
    with pytest.raises(OutputError, match=r"shard001\.safetensors: was not written by this"):
        export(out, "lightningdit", latents)
    assert (out / name).read_bytes() == content
    export(out, "lightningdit", latents, overwrite=True)
    (latents / "cat/z.png.dinac").unlink()
    with pytest.raises(OutputError, match=r"shard002\.safetensors: is no shard of this export"):
        export(out, "lightningdit", latents)


@pytest.mark.usefixtures("two_per_shard")
def test_a_bad_record_fails_alone(tmp_path: Path, latents: Path) -> None:
    whole = (latents / NAMES[1]).with_suffix(".png.dinac")
    whole.write_bytes(whole.read_bytes()[:-3])
    statuses = export(tmp_path / "out", "lightningdit", latents)
    assert [name for name, status in statuses.items() if status != "written"] == [NAMES[1]]
    reader = LightningDitReader(tmp_path / "out")
    assert [reader.get(index, "latents")[1] for index in range(4)] == [0, 1, 1, 2]


@pytest.mark.usefixtures("two_per_shard")
def test_a_stopped_run_ends_with_the_shards_of_an_uninterrupted_run(
    tmp_path: Path, latents: Path
) -> None:
    control = RunControl(workers=1, in_flight=1)
    output = open_output(str(tmp_path / "out"), "lightningdit")
    output.open()
    for result in export_inputs(
        select_latents(latents), output, "lightningdit", control, labels="folders"
    ):
        assert result.status.value == "written"
        control.stop.set()
    assert "latents_stats.pt" not in read_bytes(tmp_path / "out")
    export(tmp_path / "out", "lightningdit", latents)
    export(tmp_path / "whole", "lightningdit", latents)
    assert read_bytes(tmp_path / "out") == read_bytes(tmp_path / "whole")


@pytest.mark.parametrize("form", TRAINING_SETS)
def test_what_a_set_lacks_is_said_before_anything_is_written(
    tmp_path: Path, latents: Path, model: ModelHandle, form: str
) -> None:
    out = tmp_path / "out"
    put(latents, model, "cat/y.png", 9, width=90, shape=(model.traits.channels, 2, 6))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"cat.y.png.dinac: latents of .*needs one size"):
        export(out, form, latents)
    (latents / "cat/y.png.dinac").unlink()
    put(latents, model, "cat/y.png", 9, latent_space="0" * 16)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs one model"):
        export(out, form, latents)
    (latents / "cat/y.png.dinac").unlink()
    put(latents, model, "y.png", 9)
    with pytest.raises(UsageError, match=r"y\.png\.dinac: is in no folder, so it has no class"):
        export(out, form, latents)
    assert not out.exists()


def test_lightningdit_needs_twins_and_labels(
    tmp_path: Path, latents: Path, model: ModelHandle
) -> None:
    with pytest.raises(UsageError, match="needs a class for each image; add --labels folders"):
        export(tmp_path / "out", "lightningdit", latents, labels="none")
    (latents / "cat/y.png.dinac").write_bytes(make_record(model, "y.png"))
    with pytest.raises(UsageError, match=r"y\.png\.dinac: holds no mirrored image.*--flip"):
        export(tmp_path / "out", "lightningdit", latents)


def test_requests_that_make_no_set_are_refused(tmp_path: Path, latents: Path) -> None:
    assert EXPORT_LABELS == LABEL_KINDS
    inputs = InputRequest(paths=(str(latents),), shard="0/2")
    make = partial(ExportRequest, out=str(tmp_path), format="lightningdit", labels="folders")
    with pytest.raises(UsageError, match="it cannot take one --shard"):
        make(inputs=inputs).open()
    with pytest.raises(UsageError, match="reads its inputs twice; name files or folders"):
        make(inputs=InputRequest(paths=("-",))).open()
    with pytest.raises(UsageError, match="--labels folders needs --to lightningdit or edm2"):
        export(tmp_path / "out", "npz", latents)


def test_lightningdit_uses_no_foreign_statistics(tmp_path: Path, latents: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    channels = read_record(latents / f"{NAMES[0]}.dinac").latents.shape[0]
    statistics = {"mean": torch.ones(1, channels, 1, 1), "std": torch.ones(1, channels, 1, 1)}
    foreign = out / lightningdit_set.STATISTICS_NAME
    for content in (statistics, {"mean": torch.zeros(1, 4, 1, 1)}, None):
        foreign.write_bytes(b"no zip") if content is None else torch.save(content, foreign)
        before = foreign.read_bytes()
        with pytest.raises(
            OutputError, match=r"latents_stats\.pt: was not written by dinac .*--overwrite"
        ):
            export(out, "lightningdit", latents)
        assert read_bytes(out) == {foreign.name: before}
    export(out, "lightningdit", latents, overwrite=True)
    assert LightningDitReader(out).mean.abs().max() == 0
    with zipfile.ZipFile(foreign) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(foreign, "w") as archive:  # as another version of torch might write it
        for name in sorted(files):
            archive.writestr(name, files[name])
        archive.writestr("archive/.something_new", b"")
    assert set(export(out, "lightningdit", latents).values()) == {"done"}


class Edm2Reader:
    """Reads a folder as EDM2 and REPA do, or a zip as EDM2 does.

    All arrays in it are sorted by name, and have one shape. The labels are found by the names. Half
    of an array is the mean, the other half the deviation.
    """

    def __init__(self, place: Path) -> None:
        if place.is_dir():
            self._files = read_bytes(place)
        else:
            with zipfile.ZipFile(place) as archive:
                assert archive.testzip() is None
                assert all(each.compress_type == 0 for each in archive.infolist())
                self._files = {name: archive.read(name) for name in archive.namelist()}
        self.names = sorted(name for name in self._files if name.endswith(".npy"))
        labels = json.loads(self._files["dataset.json"])["labels"]
        found = None if labels is None else dict(labels)
        self.labels = None if found is None else [found[name] for name in self.names]
        self.shape = self._load(0).shape

    def _load(self, index: int) -> np.ndarray[Any, Any]:
        array: np.ndarray[Any, Any] = np.load(io.BytesIO(self._files[self.names[index]]))
        return array

    def get_moments(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        array = self._load(index)
        assert array.shape == self.shape
        assert str(array.dtype) == "float32"
        mean, deviation = torch.from_numpy(array).chunk(2)
        return mean, deviation

    def sample(self, index: int) -> torch.Tensor:
        mean, deviation = self.get_moments(index)
        return mean + deviation * torch.randn_like(mean)


def test_edm2_reads_means_and_labels(tmp_path: Path, latents: Path) -> None:
    assert export(tmp_path / "out", "edm2", latents) == dict.fromkeys(NAMES, "written")
    reader = Edm2Reader(tmp_path / "out")
    assert reader.names == [f"00000/img-mean-std-0000000{number}.npy" for number in range(5)]
    assert reader.labels == [CLASSES.index(name.partition("/")[0]) for name in NAMES]
    for index, name in enumerate(NAMES):
        expected = read_record(latents / f"{name}.dinac").latents
        np.testing.assert_array_equal(reader.sample(index).numpy(), expected)
    export(tmp_path / "unlabelled", "edm2", latents, labels="none")
    assert Edm2Reader(tmp_path / "unlabelled").labels is None
    assert edm2_places.name_array(1281166) == "01281/img-mean-std-01281166.npy"


def read_zip(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_edm2_reads_a_zip_of_the_same_files(tmp_path: Path, latents: Path) -> None:
    out = tmp_path / "out.zip"
    assert export(out, "edm2", latents) == dict.fromkeys(NAMES, "written")
    reader = Edm2Reader(out)
    assert reader.labels == [CLASSES.index(name.partition("/")[0]) for name in NAMES]
    export(tmp_path / "folder", "edm2", latents)
    assert read_zip(out) == read_bytes(tmp_path / "folder")
    export(tmp_path / "again.zip", "edm2", latents)
    assert (tmp_path / "again.zip").read_bytes() == out.read_bytes()
    assert "labels" in json.loads(read_zip(out)["dataset.json"])


def test_edm2_zip_is_kept_or_renewed(tmp_path: Path, latents: Path, model: ModelHandle) -> None:
    out = tmp_path / "out.zip"
    export(out, "edm2", latents)
    number = out.stat().st_ino
    assert set(export(out, "edm2", latents).values()) == {"done"}
    assert out.stat().st_ino == number
    put(latents, model, "bee/2/a.png", 20)
    assert list(export(out, "edm2", latents).values()) == ["done"] * 3 + ["written"] * 2
    (latents / "cat/z.png.dinac").unlink()
    with pytest.raises(OutputError, match=r"out\.zip: holds 5 arrays, but this .* 4 records; exp"):
        export(out, "edm2", latents)
    assert len(Edm2Reader(out).names) == len(NAMES)
    export(out, "edm2", latents, overwrite=True)
    assert Edm2Reader(out).labels == [0, 0, 1, 1]
    export(tmp_path / "new.zip", "edm2", latents)
    assert out.read_bytes() == (tmp_path / "new.zip").read_bytes()


@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_edm2_loses_no_labels_unasked(tmp_path: Path, latents: Path, name: str) -> None:
    out = tmp_path / name
    export(out, "edm2", latents)
    with pytest.raises(
        OutputError, match=rf"{name}: holds labels; add --labels folders, or --overwrite to rem"
    ):
        export(out, "edm2", latents, labels="none")
    assert Edm2Reader(out).labels == [0, 0, 1, 1, 2]
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    export(out, "edm2", latents, labels="none", overwrite=True)
    assert Edm2Reader(out).labels is None
    assert set(export(out, "edm2", latents, labels="none").values()) == {"done"}
    export(out, "edm2", latents)
    assert Edm2Reader(out).labels == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("form", "name"), [("lightningdit", "out"), ("edm2", "out"), ("edm2", "out.zip")]
)
def test_classes_with_other_numbers_are_listed(
    tmp_path: Path, latents: Path, model: ModelHandle, form: str, name: str
) -> None:
    def list_changes() -> list[tuple[int, str, str]]:
        inputs = InputRequest(paths=(str(latents),))
        request = ExportRequest(
            inputs=inputs, out=str(tmp_path / name), format=form, labels="folders", overwrite=True
        )
        run = request.open()
        run.count()
        results = run.start(request.make_control())
        assert {each.status.value for each in results} <= {"written", "done"}
        return run.outcome.renumbered

    assert list_changes() == []
    put(latents, model, "dog/a.png", 30)
    assert list_changes() == []  # it sorts last
    put(latents, model, "bat/a.png", 31)
    assert list_changes() == [(1, "bee", "bat"), (2, "cat", "bee"), (3, "dog", "cat")]
    assert list_changes() == []


@pytest.mark.usefixtures("two_per_shard")
def test_classes_are_compared_after_a_stopped_run_too(
    tmp_path: Path, latents: Path, model: ModelHandle
) -> None:
    export(tmp_path / "out", "lightningdit", latents)
    put(latents, model, "bat/a.png", 31)
    for stops in (True, False):
        control, outcome = RunControl(workers=1, in_flight=1), ExportOutcome()
        output = open_output(str(tmp_path / "out"), "lightningdit")
        output.open()
        for _ in export_inputs(
            select_latents(latents),
            output,
            "lightningdit",
            control,
            labels="folders",
            outcome=outcome,
        ):
            if stops:
                control.stop.set()
        assert outcome.renumbered[0] == (1, "bee", "bat")


def test_edm2_replaces_no_foreign_zip(tmp_path: Path, latents: Path, model: ModelHandle) -> None:
    out = tmp_path / "out.zip"
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("mine", b"")
    before = out.read_bytes()
    with pytest.raises(OutputError, match=r"out\.zip: was not written by this version"):
        export(out, "edm2", latents)
    assert out.read_bytes() == before
    export(out, "edm2", latents, overwrite=True)
    changed = bytearray(out.read_bytes())
    changed[-200] ^= 1
    out.write_bytes(changed)
    with pytest.raises(OutputError, match=r"out\.zip: was not written by this version"):
        export(out, "edm2", latents)
    assert out.read_bytes() == changed
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_edm2_zip_of_a_stopped_run_is_begun_again(tmp_path: Path, latents: Path) -> None:
    out = tmp_path / "out.zip"
    for _ in range(2):
        control, outcome = RunControl(workers=1, in_flight=1), ExportOutcome()
        output = open_output(str(out), "edm2")
        output.open()
        for result in export_inputs(
            select_latents(latents), output, "edm2", control, labels="folders", outcome=outcome
        ):
            assert result.status.value == "written"
            control.stop.set()
        assert outcome.is_unwritten
        assert sorted(path.name for path in tmp_path.iterdir()) == ["latents"]
    export(out, "edm2", latents)
    assert len(Edm2Reader(out).names) == len(NAMES)


def test_edm2_zip_leaves_a_gap_for_a_bad_record(tmp_path: Path, latents: Path) -> None:
    damaged = latents / f"{NAMES[1]}.dinac"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    statuses = export(tmp_path / "out.zip", "edm2", latents)
    assert [name for name, status in statuses.items() if status != "written"] == [NAMES[1]]
    assert Edm2Reader(tmp_path / "out.zip").labels == [0, 1, 1, 2]


def test_only_edm2_writes_a_zip(tmp_path: Path, latents: Path) -> None:
    for name in ("out.zip", "out.ZIP"):
        with pytest.raises(UsageError, match=rf"{name}: OUT must be a folder .*only --to edm2 w"):
            export(tmp_path / name, "lightningdit", latents)
    (tmp_path / "out.zip").mkdir()
    export(tmp_path / "out.zip", "edm2", latents)
    assert Edm2Reader(tmp_path / "out.zip").labels == [0, 0, 1, 1, 2]


def test_a_smaller_set_says_what_to_do(tmp_path: Path, latents: Path) -> None:
    out = tmp_path / "out"
    export(out, "edm2", latents)
    for path in (latents / "bee").rglob("*.dinac"):
        path.unlink()
    with pytest.raises(
        OutputError,
        match=r"00000003\.npy: is not an array of this export of 3 records, .*choose another OUT",
    ):
        export(out, "edm2", latents)


def test_edm2_reads_the_deviation_of_the_posterior(tmp_path: Path) -> None:
    nano = ModelHandle(resolve_model("nano"), "decoder", DeviceChoice(device="cpu"))
    put(tmp_path / "latents", nano, "ant/a.png", 1, logsnr=True)
    put(tmp_path / "latents", nano, "bee/a.png", 2)
    export(tmp_path / "out", "edm2", tmp_path / "latents")
    reader = Edm2Reader(tmp_path / "out")
    record = read_record(tmp_path / "latents/ant/a.png.dinac", (LOGSNR,))
    assert record.logsnr is not None
    with safe_open(nano.resolved.path / "model.safetensors", "np") as file:
        variance = file.get_tensor("latent_norm_running_var").astype(np.float64) + 1e-4
    noise = 1 / (1 + np.exp(record.logsnr.astype(np.float64)))
    expected = np.sqrt(noise / variance[:, None, None])
    mean, deviation = reader.get_moments(0)
    np.testing.assert_array_equal(mean.numpy(), record.latents)
    np.testing.assert_allclose(deviation.numpy(), expected, rtol=1e-5)
    assert not reader.get_moments(1)[1].any()


def test_edm2_needs_the_model_of_posteriors(tmp_path: Path, model: ModelHandle) -> None:
    put(tmp_path / "latents", model, "a.png", 1, logsnr=True)
    with pytest.raises(UsageError, match=r"need the model tiny, but .*encode with --no-posterior$"):
        export(tmp_path / "out", "edm2", tmp_path / "latents", labels="none")
    header = replace(make_header(model, "a.png"), model=HUB_ALIASES["d2"])
    zeros = np.zeros(header.shape, np.float32)
    (tmp_path / "latents/a.png.dinac").write_bytes(pack_encoded(header, Encoded(zeros, zeros)))
    with pytest.raises(UsageError, match=r"dinac models pull data-archetype/dinac_ae_d2, or "):
        export(tmp_path / "out", "edm2", tmp_path / "latents", labels="none")


def test_edm2_keeps_equal_arrays_and_replaces_none_without_overwrite(
    tmp_path: Path, latents: Path, model: ModelHandle
) -> None:
    out = tmp_path / "out"
    export(out, "edm2", latents)
    before = {path: path.stat().st_ino for path in out.rglob("*")}
    assert set(export(out, "edm2", latents).values()) == {"done"}
    assert {path: path.stat().st_ino for path in out.rglob("*")} == before
    put(latents, model, "dog/a.png", 30)
    statuses = export(out, "edm2", latents)
    assert statuses.pop("dog/a.png") == "written"
    assert set(statuses.values()) == {"done"}
    put(latents, model, "ant/b.png", 31)
    with pytest.raises(OutputError, match=r"00000001\.npy: holds something else"):
        export(out, "edm2", latents)
    export(out, "edm2", latents, overwrite=True)
    export(tmp_path / "new", "edm2", latents)
    assert read_bytes(out) == read_bytes(tmp_path / "new")


def test_edm2_leaves_a_set_that_it_cannot_extend(
    tmp_path: Path, latents: Path, model: ModelHandle
) -> None:
    whole = (latents / f"{NAMES[1]}.dinac").read_bytes()
    (latents / f"{NAMES[1]}.dinac").write_bytes(whole[:-3])
    out = tmp_path / "out"
    export(out, "edm2", latents)  # with a gap
    before = read_bytes(out)
    (latents / f"{NAMES[1]}.dinac").write_bytes(whole)
    put(latents, model, "bat/a.png", 30)  # after the gap, before other arrays
    put(latents, model, "dog/a.png", 31)
    with pytest.raises(OutputError, match=r"02\.npy: .*, so no array and no label was"):
        export(out, "edm2", latents)
    assert read_bytes(out) == before
    assert Edm2Reader(out).labels == [0, 1, 1, 2]


def test_edm2_reads_no_foreign_array(tmp_path: Path, latents: Path, model: ModelHandle) -> None:
    out = tmp_path / "out"
    export(out, "edm2", latents)
    (out / "dataset.json").write_text("{}")
    with pytest.raises(OutputError, match=r"dataset\.json: was not written by this version"):
        export(out, "edm2", latents)
    assert (out / "dataset.json").read_text() == "{}"
    put(latents, model, "dog/a.png", 30)
    with pytest.raises(OutputError, match=r"dataset\.json: was not written by this version"):
        export(out, "edm2", latents)
    assert not (out / "00000/img-mean-std-00000005.npy").exists()  # it would have no label
    (latents / "dog/a.png.dinac").unlink()
    export(out, "edm2", latents, overwrite=True)
    (latents / "cat/z.png.dinac").unlink()
    with pytest.raises(OutputError, match=r"00000004\.npy: is not an array of this export"):
        export(out, "edm2", latents)


def test_edm2_leaves_a_gap_for_a_bad_record(tmp_path: Path, latents: Path) -> None:
    damaged = latents / f"{NAMES[1]}.dinac"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    statuses = export(tmp_path / "out", "edm2", latents)
    assert [name for name, status in statuses.items() if status != "written"] == [NAMES[1]]
    reader = Edm2Reader(tmp_path / "out")
    assert [name[-5:] for name in reader.names] == ["0.npy", "2.npy", "3.npy", "4.npy"]
    assert reader.labels == [0, 1, 1, 2]


def test_edm2_keeps_no_array_of_a_record_that_went_bad(
    tmp_path: Path, latents: Path, model: ModelHandle
) -> None:
    out = tmp_path / "out"
    export(out, "edm2", latents)
    put(latents, model, "dog/a.png", 31)
    (latents / f"{NAMES[1]}.dinac").write_bytes(b"cut")
    before = read_bytes(out)
    with pytest.raises(OutputError, match=r"01\.npy: belongs to a record that cannot be exported"):
        export(out, "edm2", latents)
    assert read_bytes(out) == before  # every array has its label
    (out / "00000/img-mean-std-00000001.npy").unlink()
    export(out, "edm2", latents)
    assert Edm2Reader(out).labels == [0, 1, 1, 2, 3]


def test_edm2_overwrites_an_array_of_a_bad_record_with_a_gap(tmp_path: Path, latents: Path) -> None:
    out = tmp_path / "out"
    export(out, "edm2", latents)
    (latents / f"{NAMES[1]}.dinac").write_bytes(b"cut")
    statuses = export(out, "edm2", latents, overwrite=True)
    assert [name for name, status in statuses.items() if status != "written"] == [NAMES[1]]
    assert Edm2Reader(out).labels == [0, 1, 1, 2]
