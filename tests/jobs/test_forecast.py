"""The plan of a run into shards: what it says, what it asks for, and that it writes nothing."""

from __future__ import annotations

import io
import math
import re
import tarfile
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from PIL import Image

from dinac_cli.commands.shard_plan import describe_forecast
from dinac_cli.errors import UsageError
from dinac_cli.images.buckets import choose_buckets
from dinac_cli.images.geometry import GeometryChoice
from dinac_cli.jobs.encode import EncodeChoice, EncodeOptions, EncodeRequest
from dinac_cli.jobs.executor.cluster import Cluster, Demand
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.model_choice import ModelChoice
from dinac_cli.jobs.plan import PlanRequest
from dinac_cli.jobs.request import InputRequest, run_request
from dinac_cli.jobs.shards import speed
from dinac_cli.jobs.shards.forecast import ShardEstimate, ShardForecast, open_forecast
from dinac_cli.jobs.shards.sample import SampleChoice
from dinac_cli.jobs.shards.sample_images import Probe, ProbeChoice
from dinac_cli.jobs.shards.shard import LooseFile, Shard, ShardKind
from dinac_cli.jobs.shards.shard_states import PlannedShard, ShardState
from dinac_cli.jobs.shards.speed import SampleSizes, SpeedEstimate, SpeedTrial, assume_speed
from dinac_cli.jobs.shards.traffic import Requests, Traffic, count_parts
from dinac_cli.jobs.trial import Trial
from dinac_cli.storage.remote import UPLOAD_PART_BYTES, RemoteStore
from dinac_cli.storage.store import open_store

from ..s3 import FaultyS3
from .hand_made import GOLDEN, draw, make_handle, write_images


def make_jpeg(seed: int = 0, side: int = 32) -> bytes:
    """Returns a square JPEG."""
    file = io.BytesIO()
    Image.fromarray(draw(seed, side, side)).save(file, "JPEG")
    return file.getvalue()


def make_tar(files: Mapping[str, bytes]) -> bytes:
    """Returns a tar of files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def ask(inputs: Path | str, out: Path | str, **more: Any) -> EncodeRequest:
    """Returns a request that encodes with a tiny model, alone in this process."""
    return EncodeRequest(
        inputs=InputRequest(paths=(str(inputs),)),
        out=str(out),
        model=ModelChoice(model=str(GOLDEN / "tiny"), device="cpu", dtype="f32"),
        workers=1,
        processes=1,
        **more,
    )


def encode(request: EncodeRequest) -> None:
    for _ in run_request(request):
        pass


def foresee(
    request: EncodeRequest, *, quick: bool = True, model_rate: float | None = None
) -> tuple[ShardForecast, ShardEstimate, dict[str, PlannedShard]]:
    """Returns a plan, its estimate and its shards by name."""
    forecast = open_forecast(PlanRequest(encode=request, quick=quick, model_rate=model_rate))
    shards = {planned.name: planned for planned in forecast.list_shards()}
    return forecast, forecast.estimate(request.make_control()), shards


def list_states(shards: Mapping[str, PlannedShard]) -> dict[str, str]:
    return {name: planned.state.value for name, planned in shards.items()}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts what is asked of remote stores, by method."""
    counted: Counter[str] = Counter()

    def count(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            counted[name] += 1
            return method(*args, **named)

        return call

    for name in ("list", "stat", "read", "open", "write", "spool", "put", "remove"):
        monkeypatch.setattr(RemoteStore, name, count(name, getattr(RemoteStore, name)))
    return counted


@pytest.fixture
def place() -> str:
    """An empty remote place."""
    return f"memory://{uuid.uuid4()}"


BUCKETS = EncodeChoice(geometry=GeometryChoice(buckets=choose_buckets("32x32:16")))


def test_buckets_are_counted_without_downloads(
    tmp_path: Path, place: str, calls: Counter[str]
) -> None:
    store = open_store(f"{place}/in", for_writing=True)
    store.write("far.jpg", make_jpeg())
    store.write("far.tar", make_tar({"a.jpg": make_jpeg()}))
    write_images(tmp_path / "photos", "near.png", height=32, width=32)
    write_images(tmp_path / "photos", "wide.png", height=40, width=90)
    photos = (str(tmp_path / "photos"), f"{place}/in", f"{place}/in/far.tar")
    request = replace(
        ask("", tmp_path / "out", shard_size=2, options=BUCKETS), inputs=InputRequest(paths=photos)
    )
    calls.clear()
    forecast = open_forecast(PlanRequest(encode=request, quick=True))
    list(forecast.list_shards())
    assert calls["open"] == calls["read"] == 0
    assert forecast.buckets is not None
    assert forecast.buckets.sizes == {(32, 32): 1, (48, 16): 1}
    assert (forecast.buckets.remote, forecast.buckets.archives) == (1, 1)
    assert not forecast.buckets.is_complete
    lines = list(describe_forecast(forecast, forecast.estimate(request.make_control())))
    assert (
        "not in the table of buckets: 1 image at URLs; the sizes are known once a run has do"
        in ("\n".join(lines))
    )


def test_thousands_of_objects_take_a_few_requests(calls: Counter[str], place: str) -> None:
    photos = open_store(f"{place}/in", for_writing=True)
    data = make_jpeg()
    for number in range(2000):
        photos.write(f"{number // 100}/{number}.jpg", data)
    calls.clear()
    forecast, estimate, shards = foresee(ask(f"{place}/in/", f"{place}/out/", shard_size=700))
    # OUT and the inputs; run.json and the index; and a sample of the images.
    assert calls == {"list": 2, "stat": 2, "read": 32}
    assert [planned.images for planned in shards.values()] == [700, 700, 600]
    assert estimate.images == 2000
    assert estimate.is_counted
    assert forecast.totals.todo.bytes_in == 2000 * len(data)
    assert forecast.traffic.source == Requests(list=2, get=2000)
    assert not list(open_store(f"{place}/out").list())


def classify(requests: list[str]) -> dict[str, Requests]:
    """Counts requests to S3 by the first folder of their keys."""
    found = {"in": Requests(), "out": Requests()}
    for line in requests:
        match = re.fullmatch(r"(\w+) /bucket/?([^?]*)\??(.*)", line)
        assert match is not None
        method, key, query = match.groups()
        is_list = "list-type" in query
        folder = (parse_qs(query)["prefix"][0] if is_list else key).partition("/")[0]
        kind = "list" if is_list else {"POST": "put"}.get(method, method.lower())
        setattr(found[folder], kind, getattr(found[folder], kind) + 1)
    return found


def compare_requests(server: FaultyS3, request: EncodeRequest) -> Requests:
    """Checks that a run makes the requests that its plan says. Returns those to OUT."""
    forecast, _, _ = foresee(request)
    server.requests.clear()
    encode(request)
    made = classify(server.requests)
    assert (made["in"], made["out"]) == (forecast.traffic.source, forecast.traffic.out)
    writes = {line for line in server.requests if line.startswith("PUT")}
    assert len(writes) == forecast.traffic.objects
    return made["out"]


def test_a_run_makes_the_requests_of_its_plan(faulty_s3: FaultyS3) -> None:
    for number in range(7):
        faulty_s3.put(f"in/{number}.jpg", make_jpeg(number))
    faulty_s3.put("in/7.jpg", b"no image")
    request = ask("s3://bucket/in/", "s3://bucket/out/", shard_size=3)
    first = compare_requests(faulty_s3, request)
    assert (first.put, first.delete) == (2 * 3 + 3 + 2, 0)
    faulty_s3.put("in/3.jpg", make_jpeg(33))
    changed = compare_requests(faulty_s3, request)
    assert (changed.put, changed.delete) == (2 + 1 + 1, 1)
    assert compare_requests(faulty_s3, request).put == 0
    compare_requests(faulty_s3, replace(request, retry_failed=True))


def test_archives_are_read_in_blocks(faulty_s3: FaultyS3) -> None:
    images = {f"{number}.jpg": make_jpeg(number) for number in range(3)}
    for name in ("0", "1"):
        data = make_tar({**images, "large.bin": bytes(9 * 2**20)})
        faulty_s3.put(f"in/{name}.tar", data)
    compare_requests(faulty_s3, ask("s3://bucket/in/*.tar", "s3://bucket/out/"))
    compare_requests(faulty_s3, ask("s3://bucket/in/{0..1}.tar", "s3://bucket/out/"))


@pytest.mark.parametrize("shares", [0.5, 1.99])
def test_a_small_tar_takes_one_request(shares: float) -> None:
    assert count_parts(shares * UPLOAD_PART_BYTES) == 1


def test_a_large_tar_is_uploaded_in_parts() -> None:
    assert count_parts(2 * UPLOAD_PART_BYTES) == 2 + 2
    assert count_parts(2.1 * UPLOAD_PART_BYTES) == 3 + 2


def test_the_plan_counts_the_parts_of_large_tars(place: str) -> None:
    open_store(f"{place}/in", for_writing=True).write("0.jpg", make_jpeg())
    forecast, _, _ = foresee(ask(f"{place}/in/", f"{place}/out/"))
    assert (forecast.traffic.tar_requests, forecast.traffic.out.put) == (1, 5)
    forecast = open_forecast(PlanRequest(encode=ask(f"{place}/in/", f"{place}/out/")))
    assert len(list(forecast.list_shards())) == 1
    forecast.traffic.finish(forecast.setup.plan, 10.0 * UPLOAD_PART_BYTES)
    assert (forecast.traffic.tar_requests, forecast.traffic.out.put) == (12, 5 + 11)


def test_too_many_loose_objects_should_be_packed() -> None:
    assert Traffic(loose=10_000_000, loose_bytes=10**12).advise(5000) is None
    assert Traffic(loose=12_000_000, loose_bytes=10**12).advise(5000) == (
        "12000000 loose objects take 12000 LIST requests in every run, and 12000000 GET requests; "
        "pack them into tars first: 2400 tars of 5000 images take 3 LIST and about 119210 GET "
        "requests"
    )


def test_each_state_is_reported_and_nothing_changes(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    write_images(photos, *(f"{number:02}.png" for number in range(8)))
    (photos / "07.png").write_bytes(b"no image")
    request = ask(photos, out, shard_size=2)
    forecast, _, shards = foresee(request)
    assert not out.exists()
    assert set(list_states(shards).values()) == {"new"}
    assert forecast.traffic.objects == 3 * 4 + 2
    encode(request)
    write_images(photos, "00.png", height=40)
    (photos / "01.png").unlink()
    (photos / "05.png").unlink()
    write_images(photos, "08.png")
    (out / "000/000001.tar").unlink()
    (out / "000/000004.tar").write_bytes(b"mine")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    forecast, estimate, shards = foresee(request)
    assert list_states(shards) == {
        "000/000000": "stale",
        "000/000001": "damaged",
        "000/000002": "done",
        "000/000003": "done",
        "000/000004": "conflict",
    }
    stale, failed = shards["000/000000"], shards["000/000003"]
    assert (stale.images, stale.gone) == (1, 1)
    assert stale.bytes_in == (photos / "00.png").stat().st_size
    assert (failed.images, failed.failed) == (1, 1)
    plan, totals = forecast.setup.plan, forecast.totals
    assert (plan.changed, plan.vanished, totals.gone) == (1, 2, 1)
    assert (totals.failed, totals.failed_shards, totals.retried_images) == (1, 1, 2)
    assert estimate.images == 1 + 2
    assert list_states(foresee(replace(request, retry_failed=True))[2])["000/000003"] == "retried"
    fates = list_states(foresee(replace(request, overwrite=True))[2])
    assert set(fates.values()) == {"stale"}
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_the_size_of_records_comes_from_finished_shards(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    write_images(photos, "0.png", "1.png")
    request = ask(photos, out, shard_size=2)
    assert foresee(request)[1].bytes_basis == "typical of this precision"
    tried = foresee(request, quick=False)[1]
    assert tried.bytes_basis == "from a sample of 2"
    encode(request)
    write_images(photos, "2.png")
    estimate = foresee(request)[1]
    size = (out / "000/000000.tar").stat().st_size
    assert (estimate.image_bytes, estimate.bytes_basis) == (size / 2, "from finished shards")
    record = (tried.image_bytes or 0) - 768
    assert 0 < record <= size / 2


def test_a_trial_encodes_a_sample_of_an_archive(tmp_path: Path) -> None:
    images = {f"{number:04}.jpg": make_jpeg(number) for number in range(200)}
    (tmp_path / "a.tar").write_bytes(make_tar(images))
    before = (tmp_path / "a.tar").stat()
    _, estimate, shards = foresee(ask(tmp_path / "a.tar", tmp_path / "out"), quick=False)
    assert shards["a"].images is None
    assert not estimate.is_counted
    assert estimate.images is not None
    assert 190 <= estimate.images <= 220
    assert estimate.sampled == estimate.speed.tried == 32
    assert estimate.speed.basis == "cpu/f32, from a sample of 32 images"
    assert estimate.speed.seconds
    assert estimate.speed.cores is None  # a CPU is no device that cores feed
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "a.tar").stat().st_mtime_ns == before.st_mtime_ns


def test_a_short_archive_and_the_rows_of_parquet_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(make_tar({f"{n}.jpg": make_jpeg(n) for n in range(5)}))
    assert foresee(ask(tmp_path / "a.tar", tmp_path / "out"))[1].images == 5
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"bytes": make_jpeg(number), "path": None} for number in range(50)]
    parquet.write_table(pyarrow.table({"image": rows}), tmp_path / "b.parquet")
    estimate = foresee(ask(tmp_path / "b.parquet", tmp_path / "out"))[1]
    assert (estimate.images, estimate.sampled) == (50, 32)


def test_an_archive_that_cannot_be_read_is_unknown_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no tar" * 1000)
    _, estimate, shards = foresee(ask(tmp_path / "a.tar", tmp_path / "out"), quick=False)
    assert shards["a"].state.value == "new"  # only reading it shows the damage
    assert estimate.images is estimate.bytes_out is estimate.speed.seconds is None
    assert estimate.bytes_basis == "unknown until images are read"
    [problem] = estimate.problems
    assert problem.startswith(f"{tmp_path / 'a.tar'}: not a tar, or damaged at its start")


def test_a_missing_archive_fails(tmp_path: Path) -> None:
    _, _, shards = foresee(ask(tmp_path / "a.tar", tmp_path / "out"))
    assert list_states(shards) == {"a": "failed"}
    assert shards["a"].reason == "no such file; check its name"


def test_a_share_of_the_shards_is_planned(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", *(f"{number}.png" for number in range(6)))
    request = ask(tmp_path / "photos", tmp_path / "out", shard_size=2)
    request = replace(request, inputs=replace(request.inputs, shard="1/2"))
    forecast, estimate, shards = foresee(request)
    assert (list(shards), forecast.shards, estimate.images) == (["000/000001"], 1, 2)


def test_a_plan_refuses_what_the_run_refuses(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", "0.png")
    request = ask(tmp_path / "photos", tmp_path / "out", shard_size=2)
    encode(request)
    other = replace(request, options=EncodeChoice(precision="q6"))
    with pytest.raises(UsageError) as planned:
        foresee(other)
    with pytest.raises(UsageError) as run:
        other.open()
    assert str(planned.value) == str(run.value)
    with pytest.raises(UsageError, match=r"^--model-rate needs shards"):
        PlanRequest(encode=ask(tmp_path / "photos", tmp_path / "loose"), model_rate=1.0).open()


SIZES = SampleSizes(images=32, pixels=2.0**16, bytes_in=2e4, kept_bytes=0, read_seconds=0.3e-3)


def test_the_slower_of_device_and_cores_decides() -> None:
    fed = assume_speed(1000.0, 1e6, SIZES, processors=16)
    assert (fed.seconds, fed.limit, fed.is_assumed) == (1000.0, "device", True)
    starved = assume_speed(1e5, 1e6, SIZES, processors=1)
    assert (starved.seconds, starved.limit) == (1e6 * SIZES.host_seconds, "decode")
    cluster = assume_speed(1e5, 1e6, SIZES, processors=None)
    assert (cluster.seconds, cluster.limit) == (10.0, "device")


@pytest.mark.parametrize(
    ("stage", "limit"), [("read", "decode"), ("model", "device"), ("write", "pack")]
)
def test_a_trial_on_a_gpu_measures_the_device(
    monkeypatch: pytest.MonkeyPatch, stage: str, limit: str
) -> None:
    control = RunControl()

    def encode(*_: object) -> Trial:
        control.clock.add_busy("", [(1.0, 1.03), (2.0, 2.02)])
        control.clock.seconds[stage] = 9.0
        return Trial(32, 3.0, 1e-8, "cuda/bf16", encoded=100, record_bytes=45_000.0)

    monkeypatch.setattr(speed, "run_trial", encode)
    trial = SpeedTrial(
        probe=Probe(),
        sizes=SIZES,
        model=make_handle("tiny", "encoder"),
        options=EncodeOptions(),
        choice=SampleChoice(),
    )
    estimate = trial.estimate(1e6, control)
    assert estimate.seconds == 3.0 + 1e6 * 2**16 * 1e-8
    assert estimate.basis == "cuda/bf16, from a sample of 32 images"
    assert estimate.device_rate == pytest.approx(2000)
    assert not estimate.is_assumed
    assert (estimate.limit, estimate.record_bytes) == (limit, 45_000.0)
    assert estimate.cores == math.ceil((estimate.device_rate or 0) * SIZES.host_seconds)


def test_the_sample_of_many_shards_is_that_of_one(tmp_path: Path) -> None:
    files = tuple(LooseFile(f"{n}.jpg", f"{n}.jpg", 1, "") for n in range(1000))
    choices = []
    for count in (1, 7, 500):
        choice = ProbeChoice()
        for first in range(0, 1000, -(-1000 // count)):
            part = files[first : first + -(-1000 // count)]
            shard = Shard(name="0", kind=ShardKind.LOOSE, fingerprint="0" * 16, files=part)
            choice.add(PlannedShard(name="0", state=ShardState.NEW, output="", shard=shard))
        choices.append(choice.read(SampleChoice()))
    names = [sorted(entry.name for entry in probe.entries) for probe in choices]
    assert names[0] == names[1] == names[2]
    assert len(names[0]) == 32
    assert not any(probe.is_all for probe in choices)


def test_a_fast_device_needs_many_cores_and_several_processes() -> None:
    fast = SpeedEstimate(seconds=1.0, basis="", device_rate=11_800.0, host_seconds=1.0e-3)
    assert (fast.cores, fast.count_processes(2), fast.count_processes(8)) == (12, 6, 2)
    unknown = SpeedEstimate(seconds=1.0, basis="", host_seconds=1.0e-3)
    assert unknown.cores is unknown.count_processes(2) is None


def test_ray_tasks_are_described_without_ray(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", "0.png", "1.png", "2.png")
    cluster = Cluster(address="127.0.0.1:1", processes_per_gpu=2, cpus_per_process=3)
    request = ask(
        tmp_path / "photos", tmp_path / "out", shard_size=1, engine="ray", cluster=cluster
    )
    forecast, estimate, _ = foresee(request, quick=False)
    assert forecast.demand == Demand(3, Fraction(1, 2), False)  # --device cpu
    assert forecast.totals.todo.shards == 3
    assert estimate.speed.basis == "the speed of the cluster is unknown here; give --model-rate"
    assert str(Demand.of(Cluster())) == (
        "2 CPUs (1 on nodes with only 1) and 1/4 GPU, if a node has a GPU"
    )
