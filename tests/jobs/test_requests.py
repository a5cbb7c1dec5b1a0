"""A request is plain data: it pickles, runs in another process, and has named fields only."""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import dinac_cli
from dinac_cli.codec import machine
from dinac_cli.codec.handle import DeviceChoice
from dinac_cli.compare.comparison import CompareRequest
from dinac_cli.errors import UsageError
from dinac_cli.images.geometry import Geometry, GeometryChoice
from dinac_cli.jobs import request as request_module
from dinac_cli.jobs.color_fit import ColorFitRequest
from dinac_cli.jobs.decode import DecodeChoice, DecodeRequest
from dinac_cli.jobs.encode import EncodeChoice, EncodeOptions, EncodeRequest
from dinac_cli.jobs.executor.cluster import Cluster
from dinac_cli.jobs.export import WEBDATASET, ExportRequest
from dinac_cli.jobs.features import FeatureOptions, FeaturesRequest
from dinac_cli.jobs.info import InfoRequest
from dinac_cli.jobs.measures import MetricChoice
from dinac_cli.jobs.model_choice import ModelChoice
from dinac_cli.jobs.plan import PlanRequest
from dinac_cli.jobs.preview import PreviewRequest
from dinac_cli.jobs.psnr import MeasureOptions, PsnrRequest
from dinac_cli.jobs.request import (
    InputRequest,
    ProcessRequest,
    Request,
    keep_quiet,
    run_request,
)
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.jobs.verify import VerifyRequest
from dinac_cli.report.report import ReportRequest

from .hand_made import GOLDEN, make_handle, make_record, statuses, write_images
from .other_process import receive_and_run

PATIENCE_SECONDS = 120.0

INPUTS = InputRequest(
    paths=("photos", "more/*.jpg"),
    files_from="list.txt",
    listed=b"a.jpg\0b.jpg\0",
    null=True,
    root="photos",
    exclude=("*.tmp", "!keep.tmp"),
    limit=7,
    shard="1/3",
    left_out=("masks",),
)
GEOMETRY = Geometry(resize=64, crop=(48, 32), flip=True, upscale=False)
MODEL = ModelChoice(
    model="owner/model", revision="0" * 40, device="cuda:1", dtype="bf16", compiled=True
)
MEASURE = MeasureOptions(
    background=(1, 2, 3), max_pixels=1000, geometry=GEOMETRY, hdr="clip", damaged="warn"
)
ENCODE = EncodeRequest(
    inputs=INPUTS,
    out="latents",
    options=EncodeChoice(
        precision="q5",
        background=(1, 2, 3),
        max_pixels=1000,
        checksum=True,
        anonymous=True,
        features=True,
        posterior=True,
        geometry=GeometryChoice(resize=64, crop=(48, 32), flip=True, upscale=False),
        damaged="warn",
        skip_small=True,
        hdr="clip",
        masks="masks",
    ),
    model=MODEL,
    overwrite=True,
    fsync=True,
    prune="all",
    workers=3,
    in_flight=5,
    processes=2,
    threads=3,
    shard_size=25,
    keep=("txt",),
    image_column="photo",
    retry_failed=True,
    engine="ray",
    cluster=Cluster(
        address="head:6379",
        processes=9,
        processes_per_gpu=2,
        cpus_per_process=3,
        uses_gpus=True,
    ),
)
POPULATED: list[Any] = [
    ENCODE,
    DecodeRequest(
        inputs=INPUTS,
        out="images",
        options=DecodeChoice(
            steps=4,
            sampler="dpmpp-2m",
            schedule="cosine",
            guidance=1.5,
            strength=0.5,
            seed=7,
            format="webp",
            quality=80,
            flipped=True,
        ),
        model=MODEL,
        allow_other_model=True,
        overwrite=True,
        fsync=True,
        prune="all",
        workers=3,
        in_flight=5,
        processes=2,
        threads=3,
    ),
    VerifyRequest(
        inputs=INPUTS,
        source="photos",
        masks="masks",
        reencode=5.0,
        max_delta=0.5,
        model=MODEL,
        workers=3,
        in_flight=5,
    ),
    FeaturesRequest(
        inputs=INPUTS,
        out="features.safetensors",
        options=FeatureOptions(spatial=True, similar="a.jpg.dinac"),
        model=MODEL,
        overwrite=True,
        fsync=True,
        workers=3,
        in_flight=5,
    ),
    ExportRequest(
        inputs=INPUTS,
        out="tars",
        format=WEBDATASET,
        keys="name",
        force=True,
        labels="folders",
        dtype="f16",
        index=True,
        captions="photos",
        masks=True,
        overwrite=True,
        fsync=True,
        workers=3,
        in_flight=5,
    ),
    PsnrRequest(
        first="photos",
        second="images",
        exclude=("*.tmp",),
        column="picture",
        options=MEASURE,
        metrics=MetricChoice(
            names=("lpips", "rfid"),
            lpips_weights="a.safetensors",
            inception_weights="b.safetensors",
        ),
        workers=3,
        in_flight=5,
    ),
    InfoRequest(inputs=INPUTS, workers=3, in_flight=5),
    PreviewRequest(
        inputs=INPUTS, out="a.png", map_file="m.json", overwrite=True, workers=3, in_flight=5
    ),
    ColorFitRequest(
        inputs=INPUTS, out="m.json", model=MODEL, overwrite=True, workers=3, in_flight=5
    ),
    PlanRequest(encode=ENCODE, quick=True, model_rate=1840.0),
    CompareRequest(
        inputs=INPUTS,
        out="comparison",
        models=("nano", "owner/model"),
        precisions=("bf16", "q6"),
        steps=(1, 4),
        options=EncodeOptions(
            precision="q5",
            background=(1, 2, 3),
            max_pixels=1000,
            checksum=True,
            anonymous=True,
            features=True,
            posterior=True,
            geometry=GEOMETRY,
            skip_small=True,
            hdr="clip",
            damaged="warn",
            mask=True,
            masks="masks",
        ),
        device=DeviceChoice(device="cuda:1", dtype="bf16", compiled=True),
        baseline="nano",
        seed=7,
        shown=3,
        speed=False,
        overwrite=True,
        command_line="dinac compare photos comparison",
        workers=3,
        in_flight=5,
    ),
    ReportRequest(
        originals="photos",
        reconstructions=("one", "two"),
        out="page.html",
        latents=("latents",),
        assets="assets",
        title="A title",
        exclude=("*.tmp",),
        options=MEASURE,
        overwrite=True,
        workers=3,
        in_flight=5,
    ),
]


def list_defaults(value: Any, path: str) -> Iterator[str]:
    """Yields the fields of a dataclass, and of the dataclasses in it, that have their default."""
    for field in dataclasses.fields(value):
        held = getattr(value, field.name)
        if held == field.default or (
            field.default_factory is not dataclasses.MISSING and held == field.default_factory()
        ):
            yield f"{path}.{field.name}"
        if dataclasses.is_dataclass(held):
            yield from list_defaults(held, f"{path}.{field.name}")


def find_dataclasses(*suffixes: str) -> Iterator[type[Any]]:
    """Yields the dataclasses of the package whose names have one of these suffixes."""
    root = Path(dinac_cli.__file__).parent
    pattern = re.compile(rf"^class (\w+(?:{'|'.join(suffixes)}))\b", re.MULTILINE)
    for path in sorted(root.rglob("*.py")):
        names = pattern.findall(path.read_text(encoding="utf-8"))
        if names:  # importing every module would take seconds
            parts = ("dinac_cli", *path.relative_to(root).with_suffix("").parts)
            module = import_module(".".join(parts).removesuffix(".__init__"))
            found = [getattr(module, name) for name in names]
            yield from filter(dataclasses.is_dataclass, found)


def test_the_requests_below_are_all_and_have_no_default_left() -> None:
    found = {
        kind
        for kind in find_dataclasses("Request")
        if kind.__module__.startswith(
            ("dinac_cli.jobs.", "dinac_cli.report.", "dinac_cli.compare.")
        )
    }
    assert {type(request) for request in POPULATED} == found - {
        Request,
        ProcessRequest,
        InputRequest,
    }
    for request in POPULATED:
        defaults = list(list_defaults(request, type(request).__name__))
        # `resize` and `masks` exclude these
        excluded = ("geometry.max_side", "geometry.buckets", ".options.mask")
        assert [name for name in defaults if not name.endswith(excluded)] == []


def test_requests_run_in_a_spawned_process(tmp_path: Path) -> None:
    """One process for all: it takes seconds to import torch."""
    write_images(tmp_path / "in", "a.png", "trip/b.png")
    (tmp_path / "in/c.png").write_bytes(b"text")
    request = EncodeRequest(
        inputs=InputRequest(paths=(str(tmp_path / "in"),)),
        out=str(tmp_path / "out"),
        model=ModelChoice(model=str(GOLDEN / "tiny"), device="cpu", dtype="f32"),
    )
    pickled = [pickle.dumps(each) for each in (request, *POPULATED)]
    assert [pickle.loads(data) for data in pickled] == [request, *POPULATED]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        returned, results = pool.submit(receive_and_run, pickled).result(PATIENCE_SECONDS)
    assert [pickle.loads(data) for data in returned] == [request, *POPULATED]
    again = list(run_request(request))
    assert statuses(results) == {
        "a.png": Status.WRITTEN,
        "b.png": Status.WRITTEN,
        "c.png": Status.FAILED,
    }
    assert statuses(again) == {
        "a.png": Status.DONE,
        "b.png": Status.DONE,
        "c.png": Status.FAILED,
    }
    failures: list[FileResult] = [result for result in (*results, *again) if result.failed]
    assert failures[0] == failures[1]
    assert failures[0].error == "ImageError"


@pytest.mark.parametrize("limit", [0, -1])
def test_limits_must_be_positive(limit: int) -> None:
    with pytest.raises(UsageError, match=f"--workers {limit}: expected 1 or more"):
        dataclasses.replace(ENCODE, workers=limit)
    with pytest.raises(UsageError, match=f"--batch-size {limit}: expected 1 or more"):
        dataclasses.replace(ENCODE, in_flight=limit)


def test_requests_options_and_choices_have_no_positional_fields() -> None:
    """Two of several booleans would be swapped unnoticed."""
    found = list(find_dataclasses("Request", "Options", "Choice"))
    assert {InputRequest, EncodeOptions, EncodeChoice, ModelChoice} <= set(found)
    for kind in found:
        assert [field.name for field in dataclasses.fields(kind) if not field.kw_only] == [], kind
        with pytest.raises(TypeError):
            kind("positional")


def test_export_of_equal_names_in_two_folders_is_refused_only_for_equal_outputs(
    tmp_path: Path,
) -> None:
    """A WebDataset numbers its samples, so their names do not matter."""
    model = make_handle("tiny", "encoder")
    for seed in range(2):
        (tmp_path / f"{seed}").mkdir()
        (tmp_path / f"{seed}/a.dinac").write_bytes(make_record(model, "a", seed))
    inputs = InputRequest(paths=(str(tmp_path / "0"), str(tmp_path / "1")))
    for form, last in ((WEBDATASET, Status.WRITTEN), ("npz", Status.FAILED)):
        request = ExportRequest(inputs=inputs, out=str(tmp_path / form), format=form)
        results = list(run_request(request))
        assert [result.status for result in results] == [Status.WRITTEN, last]


def test_an_image_from_standard_input_is_encoded_in_one_process() -> None:
    """So that `threads` holds for it, and the run has the threads that read and write."""
    request = EncodeRequest(
        inputs=InputRequest(paths=("-", "a.png")), out="out", processes=2, threads=3
    )
    control = request.make_control()
    assert (control.processes, control.threads, control.workers > 0) == (1, 3, True)
    decode = DecodeRequest(inputs=InputRequest(paths=("-",)), out="out", processes=2)
    assert decode.make_control().processes == 2


def test_a_process_that_may_turn_out_to_work_alone_has_all_processors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the worker knows whether there is a GPU; on a CPU, no other worker follows."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(request_module, "may_use_gpu", lambda device: True)
    monkeypatch.setattr(request_module, "count_processors", lambda: 16)
    monkeypatch.setattr(machine, "count_processors", lambda: 16)
    inputs = InputRequest(paths=("in",))
    control = EncodeRequest(inputs=inputs, out="out").make_control()
    assert (control.fits_device, control.processes, control.threads) == (True, 8, None)
    assert control.cpu_limits == (16, 64)  # if it does work alone, threads read for it
    control = EncodeRequest(inputs=inputs, out="out", processes=4).make_control()
    assert (control.fits_device, control.processes, control.threads) == (False, 4, 4)
    assert control.cpu_limits is None


@pytest.mark.parametrize(
    ("processors", "processes", "expected"),
    [(64, None, 24), (20, None, 20), (2, None, 3), (64, 3, 3), (2, 7, 7)],
)
def test_the_processes_of_several_devices(
    monkeypatch: pytest.MonkeyPatch, processors: int, processes: int | None, expected: int
) -> None:
    """By default, up to 8 per device, up to one per processor, and at least one per device."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(request_module, "count_processors", lambda: processors)
    monkeypatch.setattr(machine, "count_processors", lambda: processors)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA H200")
    request = EncodeRequest(
        inputs=InputRequest(paths=("in",)),
        out="out",
        model=ModelChoice(device="all"),
        processes=processes,
    )
    assert request.choose_device(keep_quiet) == "cuda:0"
    control = request.make_control()
    assert (control.processes, control.devices) == (expected, ("cuda:0", "cuda:1", "cuda:2"))
    assert control.fits_device is (processes is None)
    assert control.threads == max(1, processors // expected)


def test_all_is_one_device_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_module, "count_processors", lambda: 16)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA H200")
    inputs = InputRequest(paths=("in",))
    all_, one = (
        DecodeRequest(inputs=inputs, out="out", model=ModelChoice(device=device))
        for device in ("all", "cuda:0")
    )
    assert all_.choose_device(keep_quiet) == "cuda:0"
    for request in (all_, one):
        control = request.make_control()
        assert (control.processes, control.devices, control.fits_device) == (8, (), True)
    alone = dataclasses.replace(all_, processes=1).make_control()
    assert (alone.processes, alone.workers) == (1, 16)


def test_unlike_devices_are_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ("NVIDIA H200", "NVIDIA L4")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: kinds[device.index])
    said: list[str] = []
    request = DecodeRequest(
        inputs=InputRequest(paths=("in",)), out="out", model=ModelChoice(device="cuda:1,cuda:0")
    )
    assert request.choose_device(said.append) == "cuda:1"
    assert said == [
        "the devices differ: cuda:1 (NVIDIA L4), cuda:0 (NVIDIA H200); "
        "the bytes of their outputs may differ"
    ]
