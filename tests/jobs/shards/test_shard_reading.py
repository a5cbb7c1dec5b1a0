"""decode, verify, info, features and export read records out of tars, shards and remote places."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import re
import shutil
import tarfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from dinac_cli import LatentFolder, verify_files
from dinac_cli.container.record import read_header
from dinac_cli.errors import InputError, StorageError, UsageError
from dinac_cli.jobs.decode import DecodeRequest
from dinac_cli.jobs.encode import EncodeChoice
from dinac_cli.jobs.entries import RecordEntry, list_records
from dinac_cli.jobs.export import ExportRequest
from dinac_cli.jobs.features import FeatureOptions, FeaturesRequest
from dinac_cli.jobs.info import InfoRequest, ShardFacts
from dinac_cli.jobs.model_choice import ModelChoice
from dinac_cli.jobs.request import LATENTS, InputRequest, Request, run_request
from dinac_cli.jobs.results import FileResult, SourceState, Status
from dinac_cli.jobs.shards import record_tars
from dinac_cli.jobs.shards.record_tars import RecordFinder
from dinac_cli.jobs.verify import VerifyRequest
from dinac_cli.storage import store
from dinac_cli.storage.naming import name_latents
from dinac_cli.storage.store import open_store
from dinac_cli.storage.urls import hide_secrets

from ..hand_made import GOLDEN, make_handle, make_record, read_tree
from .shard_runs import NANO, encode, make_tar, read_index, write_file, write_photos

NAMES = ["a.jpg", "b.png", "trip/a.jpg", "trip/c.d.webp", "trip/e.png"]
TARS = ("000/000000.tar", "000/000001.tar", "000/000002.tar")


@pytest.fixture(scope="module", autouse=True)
def _no_pauses() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "PAUSE_SECONDS", (0.0, 0.0, 0.0))
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos`, one of which is broken, encoded into `shards` and into `loose`."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("work")
    write_photos(folder / "photos", NAMES)
    write_file(folder / "photos/bad.jpg", b"no image")
    encode(folder / "photos", folder / "shards", shard_size=2)
    encode(folder / "photos", folder / "loose")
    return folder


@pytest.fixture
def shards(work: Path, tmp_path: Path) -> Path:
    """A copy of the shards that a test may damage."""
    return Path(shutil.copytree(work / "shards", tmp_path / "shards"))


@pytest.fixture
def bucket() -> str:
    return f"memory://{uuid.uuid4()}"


def upload(files: dict[str, bytes], url: str) -> str:
    store = open_store(url, for_writing=True)
    for name, data in files.items():
        store.write(name, data)
    return url


def inputs(*paths: Path | str, **fields: Any) -> InputRequest:
    return InputRequest(paths=tuple(map(str, paths)), **fields)


def run(request: Request[Any]) -> list[FileResult]:
    """Runs a request as a command does, and returns its results."""
    return list(run_request(request))


def decode(out: Path, *paths: Path | str, **fields: Any) -> list[FileResult]:
    chosen = {name: fields.pop(name) for name in ("limit", "shard", "exclude") if name in fields}
    named = fields.pop("inputs", None) or inputs(*paths, **chosen)
    return run(DecodeRequest(inputs=named, out=str(out), model=NANO, processes=1, **fields))


def verify(*paths: Path | str, **fields: Any) -> list[FileResult]:
    return run(VerifyRequest(inputs=inputs(*paths), **fields))


def list_entries(*paths: Path | str, **fields: Any) -> list[RecordEntry]:
    return list(list_records(inputs(*paths, **fields).select(LATENTS), None))


def fail(results: list[FileResult], place: Path | str = "") -> dict[str, str | None]:
    """Returns the failures: the file without the place, and the reason."""
    start = os.path.join(place, "")
    return {r.file.removeprefix(start).replace(os.sep, "/"): r.reason for r in results if r.failed}


def count(results: list[FileResult], status: Status) -> int:
    return sum(result.status is status for result in results)


# The records


def test_shards_decode_to_the_files_of_loose_records(work: Path, tmp_path: Path) -> None:
    shards = decode(tmp_path / "a", work / "shards")
    loose = decode(tmp_path / "b", work / "loose")
    assert (count(shards, Status.WRITTEN), count(loose, Status.WRITTEN)) == (5, 5)
    assert read_tree(tmp_path / "a") == read_tree(tmp_path / "b")
    assert sorted(r.name for r in shards) == NAMES
    assert [r.status for r in decode(tmp_path / "a", work / "shards")] == [Status.DONE] * 5


@pytest.mark.parametrize(
    "pattern", ["000/{000000..000002}.tar", "000/*.tar", "000", "{}", "000/00000[0-2].tar"]
)
def test_tars_are_named_one_by_one_or_in_a_sharded_folder(work: Path, pattern: str) -> None:
    path = work / "shards" / pattern if pattern != "{}" else work / "shards"
    if pattern == "000":
        with pytest.raises(UsageError, match=r"name the tars in it, such as .*000000\.tar"):
            list_entries(path)
        return
    assert [entry.name for entry in list_entries(path)] == NAMES


def test_a_folder_without_run_json_keeps_its_meaning(work: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(work / "loose", tmp_path / "mixed"))
    shutil.copy(work / "shards" / TARS[0], folder)
    selection = inputs(folder).select(LATENTS)
    assert sorted(entry.name for entry in selection) == sorted(map(name_latents, NAMES))
    assert selection.scan.others == 1


def test_a_sharded_folder_below_a_folder_gives_its_name_to_the_records(work: Path) -> None:
    names = {entry.name for entry in list_entries(work, exclude=("loose/",))}
    assert names == {f"shards/{name}" for name in NAMES}


def test_a_list_names_tars(work: Path, tmp_path: Path) -> None:
    listed = f"000/000000.tar\n{work}/shards/000/000001.tar\n".encode()
    request = InputRequest(files_from="list", listed=listed, root=str(work / "shards"))
    names = [entry.name for entry in list_records(request.select(LATENTS), None)]
    assert names == [f"000/{name}" for name in NAMES[:3]]


def test_an_entry_carries_its_record_to_another_process(work: Path) -> None:
    entry = list_entries(work / "shards")[1]
    copy = pickle.loads(pickle.dumps(entry))
    assert copy.read() == (work / "loose/b.png.dinac").read_bytes()
    assert copy.held_bytes == len(copy.read())
    assert copy.origin is None


def test_limit_shard_and_exclude(work: Path) -> None:
    assert [e.name for e in list_entries(work / "shards", shard="1/2")] == NAMES[2:3]
    selection = inputs(work / "shards", limit=3).select(LATENTS)
    assert selection.count() == 3
    kept = list_entries(work / "shards", exclude=("trip/", "b.*"))
    assert [entry.name for entry in kept] == ["a.jpg"]


def test_the_index_tells_the_number_of_records(work: Path, shards: Path) -> None:
    assert inputs(work / "shards").select(LATENTS).count() == 5
    assert inputs(work / "shards" / TARS[0]).select(LATENTS).count() is None
    (shards / "index.json").unlink()
    assert inputs(shards).select(LATENTS).count() is None
    assert len(list_entries(shards)) == 5


def test_features_and_export_read_shards(work: Path, tmp_path: Path, bucket: str) -> None:
    run(ExportRequest(inputs=inputs(work / "shards"), out=str(tmp_path / "a"), format="npz"))
    run(ExportRequest(inputs=inputs(work / "loose"), out=str(tmp_path / "b"), format="npz"))
    assert read_tree(tmp_path / "a") == read_tree(tmp_path / "b")
    assert len(read_tree(tmp_path / "a")) == 5
    model = ModelChoice(model=str(GOLDEN / "tiny"), device="cpu", dtype="f32")
    records = [make_record(make_handle("tiny", "encoder"), name, 1) for name in ("x.png", "y.png")]
    write_file(tmp_path / "t.tar", make_tar({"x.dinac": records[0], "y.dinac": records[1]}))
    query = f"{upload({'q.dinac': records[0]}, bucket)}/q.dinac"
    request = FeaturesRequest(
        inputs=inputs(tmp_path / "t.tar"), model=model, options=FeatureOptions(similar=query)
    )
    assert sorted(r.facts["name"] for r in run(request) if r.facts) == ["x.png", "y.png"]
    with pytest.raises(UsageError, match=rf"^--similar {query}x: .*; name a \.dinac file"):
        run(dataclasses.replace(request, options=FeatureOptions(similar=query + "x")))


# The names


def test_the_name_of_a_record_wins_over_its_key(tmp_path: Path) -> None:
    model = make_handle("tiny", "encoder")
    files = {
        "k/1.dinac": make_record(model, "trip/a.jpg"),
        "k/2.dinac": make_record(model, ""),
        "k/2.txt": b"a caption",
        "k/2.json": b"{}",
        "k/3.jpg.dinac": make_record(model, ""),
        "._k.dinac": b"of macOS",
    }
    write_file(tmp_path / "t.tar", make_tar(files))
    entries = list_entries(tmp_path / "t.tar")
    assert [entry.name for entry in entries] == ["trip/a.jpg", "k/2", "k/3.jpg"]
    assert [entry.label for entry in entries] == [
        f"{tmp_path}/t.tar: {name}" for name in ("k/1.dinac", "k/2.dinac", "k/3.jpg.dinac")
    ]


def test_the_second_record_of_a_name_fails(work: Path, tmp_path: Path) -> None:
    shutil.copy(work / "shards" / TARS[0], tmp_path / "again.tar")
    results = decode(tmp_path / "out", work / "shards" / TARS[0], tmp_path / "again.tar")
    assert count(results, Status.WRITTEN) == 2
    assert fail(results, tmp_path) == {
        f"again.tar: {key}.dinac": f"another record of this run goes to {name}; "
        "this record is skipped"
        for key, name in (("a%2Ejpg", "a.jpg.png"), ("b%2Epng", "b.png"))
    }


def test_anonymous_records_are_named_after_their_keys(work: Path, tmp_path: Path) -> None:
    encode(work / "photos", tmp_path / "lat", EncodeChoice(anonymous=True), shard_size=9)
    decode(tmp_path / "out", tmp_path / "lat")
    names = sorted(read_tree(tmp_path / "out"))
    assert len(names) == 5
    assert all(name.startswith("000000_") and name.endswith(".png") for name in names)


def test_unsafe_files_in_a_tar_are_failures(work: Path, tmp_path: Path) -> None:
    record = (work / "loose/b.png.dinac").read_bytes()
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name in ("../up.dinac", "/top.dinac", "ok.dinac", "c:x.dinac"):
            info = tarfile.TarInfo(name)
            info.size = len(record)
            tar.addfile(info, io.BytesIO(record))
        link = tarfile.TarInfo("link.dinac")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    results = decode(tmp_path / "out", tmp_path / "t.tar")
    assert list(read_tree(tmp_path / "out")) == ["b.png"]
    assert len(fail(results)) == 4
    assert not (tmp_path / "up.png").exists()


# Damage


@pytest.mark.parametrize(
    ("cut", "read"), [("nowhere", 2), ("end mark", 2), ("second", 1), ("first", 0), ("all", 0)]
)
def test_records_before_a_cut_are_read(work: Path, tmp_path: Path, cut: str, read: int) -> None:
    whole = (work / "shards" / TARS[0]).read_bytes()
    with tarfile.open(work / "shards" / TARS[0]) as tar:
        first, second = tar.getmembers()
    sizes = {"first": first.offset_data + 9, "second": second.offset_data + 9, "all": 0}
    sizes |= {"nowhere": len(whole), "end mark": second.offset_data + -(-second.size // 512) * 512}
    write_file(tmp_path / "t.tar", whole[: sizes[cut]])
    results = verify(tmp_path / "t.tar", work / "shards" / TARS[1])
    broken = fail(results, tmp_path)
    assert list(broken) == ([] if cut == "nowhere" else ["t.tar"])
    assert all(re.match("cut off after|an empty file", reason or "") for reason in broken.values())
    assert count(results, Status.VERIFIED) == read + 1


def test_a_damaged_record_is_one_failure(work: Path, tmp_path: Path) -> None:
    records = [(work / "loose" / f"{name}.dinac").read_bytes() for name in NAMES[:2]]
    hurt = bytearray(records[0])
    hurt[-20] ^= 255
    files = {"1.dinac": bytes(hurt), "2.dinac": b"junk", "3.dinac": records[1]}
    write_file(tmp_path / "t.tar", make_tar(files))
    results = verify(tmp_path / "t.tar")
    assert list(fail(results, tmp_path)) == ["t.tar: 1.dinac", "t.tar: 2.dinac"]
    assert count(results, Status.VERIFIED) == 1


def test_a_tar_without_records_is_a_failure(tmp_path: Path) -> None:
    write_file(tmp_path / "t.tar", make_tar({"a.jpg": b"x"}))
    assert fail(verify(tmp_path / "t.tar"), tmp_path) == {
        "t.tar": "holds no records; name a tar that dinac encode wrote"
    }
    write_file(tmp_path / "empty.tar", make_tar({}))
    assert verify(tmp_path / "empty.tar") == []


def test_a_missing_tar_is_wrong_usage(tmp_path: Path, bucket: str) -> None:
    for place in (f"{tmp_path}/no.tar", f"{bucket}/no.tar", f"{bucket}/no.dinac"):
        with pytest.raises(UsageError, match=r"no such file; check its name$"):
            verify(place)
    with pytest.raises(UsageError, match="no file matches this pattern"):
        verify(f"{bucket}/*.tar")
    with pytest.raises(UsageError, match=r"^no latent files found in memory://"):
        verify(bucket)


# verify


def test_verify_accepts_a_whole_folder(work: Path) -> None:
    results = verify(work / "shards", source=str(work / "photos"))
    assert [r.status for r in results] == [Status.VERIFIED] * 5
    assert {r.source for r in results} == {SourceState.UNCHANGED}
    results = list(verify_files(work / "shards", source=work / "photos", reencode=100))
    assert [r.delta for r in results] == [0.0] * 5


def test_verify_notices_changed_sources(work: Path, tmp_path: Path) -> None:
    photos = Path(shutil.copytree(work / "photos", tmp_path / "photos"))
    (photos / "b.png").unlink()
    for place in (work / "shards", work / "shards" / TARS[0]):
        results = {r.file.rpartition(": ")[2]: r for r in verify(place, source=str(photos))}
        lost = results["b%2Epng.dinac"]
        is_strict = place == work / "shards"  # a tar alone does not tell where its images were
        assert lost.source is (SourceState.MISSING if is_strict else SourceState.UNKNOWN)
        assert lost.failed is is_strict


def test_sources_in_archives_are_unknown(work: Path, tmp_path: Path) -> None:
    photo = (work / "photos/b.png").read_bytes()
    write_file(tmp_path / "wds/p.tar", make_tar({"b.png": photo}))
    encode(tmp_path / "wds/p.tar", tmp_path / "lat")
    results = verify(tmp_path / "lat", source=str(work / "photos"))
    assert [r.source for r in results] == [SourceState.UNKNOWN]
    with pytest.raises(UsageError, match="the images must be in a local folder"):
        verify(tmp_path / "lat", source=str(tmp_path / "wds/p.tar"))


def _find_marker(shards: Path, number: int) -> Path:
    return next((shards / "_dinac/shards/000").glob(f"{number:06}.*.json"))


def _lose_tar(shards: Path) -> None:
    (shards / TARS[0]).unlink()


def _lose_marker(shards: Path) -> None:
    _find_marker(shards, 0).unlink()


def _damage_marker(shards: Path) -> None:
    _find_marker(shards, 0).write_text("{")


def _lose_index(shards: Path) -> None:
    (shards / "index.json").unlink()


def _damage_index(shards: Path) -> None:
    (shards / "index.json").write_text("{}")


def _shorten_index(shards: Path) -> None:
    index = json.loads((shards / "index.json").read_text())
    del index["shardlist"][0]
    (shards / "index.json").write_text(json.dumps(index))


def _add_to_index(shards: Path) -> None:
    index = json.loads((shards / "index.json").read_text())
    index["shardlist"].append({**index["shardlist"][0], "url": "000/000009.tar"})
    (shards / "index.json").write_text(json.dumps(index))


def _swap_tars(shards: Path) -> None:
    shutil.copy(shards / TARS[1], shards / TARS[0])


def _change_count(shards: Path) -> None:
    marker = _find_marker(shards, 0)
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "images": 1}))


def _change_settings(shards: Path) -> None:
    path = shards / "_dinac/run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "precision": "q8"}))


def _damage_settings(shards: Path) -> None:
    (shards / "_dinac/run.json").write_text("[]")


MARKER = r"_dinac/shards/000/000000\.[0-9a-f]{16}\.json"


@pytest.mark.parametrize(
    ("damage", "findings"),
    [
        (_lose_tar, {TARS[0]: "no such tar, but its marker lists it; restore it, or run"}),
        (_lose_marker, {TARS[0]: "has no marker, so it may be incomplete; run dinac encode again"}),
        (_damage_marker, {TARS[0]: f".*/{MARKER}: not a marker of dinac; delete it"}),
        (_lose_index, {"index.json": "no such index of shards; run dinac encode to its end"}),
        (_damage_index, {"index.json": "not an index of shards"}),
        (_shorten_index, {TARS[0]: r"is not in index\.json; run dinac encode again"}),
        (_add_to_index, {"000/000009.tar": r"no such tar, but index\.json lists it; restore it"}),
        (_swap_tars, {TARS[0]: f"its bytes have changed: .* not the one in {MARKER}; delete it"}),
        (_change_count, {TARS[0]: f"holds 2 records, but {MARKER} says 1; delete it and run"}),
        (_damage_settings, {"_dinac/run.json": "not the settings of a run; restore it"}),
        (
            _change_settings,
            {
                f"{TARS[0]}: {name}.dinac": "encoded with --precision bf16, which .* contradicts"
                for name in ("a%2Ejpg", "b%2Epng")
            },
        ),
    ],
)
def test_verify_finds(
    shards: Path, damage: Callable[[Path], None], findings: dict[str, str]
) -> None:
    damage(shards)
    found = fail(verify(shards), shards)
    named = {name: reason for name, reason in found.items() if name in findings}
    assert named.keys() == findings.keys()
    for name, reason in named.items():
        assert re.match(findings[name], reason or "")
    assert len(found) == (5 if damage is _change_settings else len(findings))


def test_a_swapped_tar_is_found_in_the_index_too(shards: Path) -> None:
    _swap_tars(shards)
    _lose_marker(shards)
    found = [r.reason or "" for r in verify(shards) if r.failed]
    assert any("not the one in index.json" in reason for reason in found)


def test_a_marker_of_an_earlier_state_is_no_finding(shards: Path) -> None:
    marker = _find_marker(shards, 0)
    facts = json.loads(marker.read_text())
    stale = {**facts, "fingerprint": "0" * 16, "sha256": "0" * 64}
    marker.with_name(f"000000.{'0' * 16}.json").write_text(json.dumps(stale))
    assert fail(verify(shards)) == {}


@pytest.mark.parametrize("command", [DecodeRequest, InfoRequest, ExportRequest])
def test_a_lost_shard_is_a_failure_in_every_command(
    shards: Path, tmp_path: Path, command: Callable[..., Request[Any]]
) -> None:
    _lose_tar(shards)
    fields: dict[str, Any] = {} if command is InfoRequest else {"out": str(tmp_path / "out")}
    fields |= {"model": NANO} if command is DecodeRequest else {}
    assert list(fail(run(command(inputs=inputs(shards), **fields)), shards)) == [TARS[0]]


# info


def test_info_describes_a_sharded_folder(work: Path, shards: Path) -> None:
    request = InfoRequest(inputs=inputs(work / "shards"))
    opened = request.open()
    opened.count()
    assert len(list(opened.start(request.make_control()))) == 5
    [facts] = opened.shards
    assert (facts.place, facts.shards) == (str(work / "shards"), 3)
    assert facts.size_bytes == sum(
        entry["filesize"] for entry in read_index(read_tree(work / "shards")).values()
    )
    assert facts.options == "--precision bf16 --shard-size 2"
    assert [failure.name for failure in facts.failures] == [str(work / "photos/bad.jpg")]
    assert InfoRequest(inputs=inputs(work / "loose")).open().shards == []


def test_info_survives_damaged_facts(shards: Path) -> None:
    _damage_settings(shards)
    for number in range(3):
        _find_marker(shards, number).write_text("{")
    run_ = InfoRequest(inputs=inputs(shards)).open()
    run_.count()
    [facts] = run_.shards
    assert (facts.options, facts.failures) == (None, ())
    assert facts.problem is not None
    assert "not a marker of dinac" in facts.problem


def test_facts_of_shards_are_json(work: Path) -> None:
    facts = ShardFacts(
        place="a", shards=1, size_bytes=2, options=None, compute="", problem="unreadable"
    )
    assert json.loads(json.dumps(facts.to_json())) == {
        "place": "a",
        "shards": 1,
        "bytes": 2,
        "options": None,
        "compute": "",
        "failures": [],
        "problem": "unreadable",
    }


# Remote places


def test_remote_shards_are_read_as_local_ones(work: Path, tmp_path: Path, bucket: str) -> None:
    place = upload(read_tree(work / "shards"), f"{bucket}/shards")
    assert fail(verify(place)) == {}
    decode(tmp_path / "a", place + "/")
    decode(tmp_path / "b", f"{place}/000/{{000000..000002}}.tar")
    decode(tmp_path / "c", f"{place}/000/*.tar")
    decode(tmp_path / "d", work / "loose")
    expected = read_tree(tmp_path / "d")
    assert len(expected) == 5
    assert [read_tree(tmp_path / name) == expected for name in "abc"] == [True] * 3
    (_, _, label, *_) = (r.file for r in verify(place))
    assert label == f"{place}/{TARS[1]}: trip/a%2Ejpg.dinac"


def test_loose_remote_records_are_read(work: Path, tmp_path: Path, bucket: str) -> None:
    place = upload(read_tree(work / "loose"), f"{bucket}/loose")
    upload({"notes.txt": b"", "x.tar": b"", ".hidden.dinac": b""}, place)
    decode(tmp_path / "a", place)
    decode(tmp_path / "b", work / "loose")
    assert read_tree(tmp_path / "a") == read_tree(tmp_path / "b")
    selection = inputs(place).select(LATENTS)
    assert selection.count() == 5
    assert selection.scan.others == 2
    [entry] = list_entries(f"{place}/trip/e.png.dinac")
    assert (entry.name, entry.path) == ("e.png.dinac", None)
    assert read_header(entry.read()).name == "trip/e.png"
    decode(tmp_path / "one.png", f"{place}/trip/e.png.dinac")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "b/trip/e.png").read_bytes()
    decode(tmp_path / "c", f"{place}/trip/*.dinac")
    assert len(read_tree(tmp_path / "c")) == 3


def test_tars_without_records_are_not_advised(work: Path, tmp_path: Path) -> None:
    write_file(tmp_path / "wds/000000.tar", make_tar({"0.npy": b""}))
    message = r"the tars in it, such as .*000000\.tar, hold no records; name the OUT of dinac enco"
    with pytest.raises(UsageError, match=message):
        list_entries(tmp_path / "wds")


def test_a_remote_tar_without_run_json_must_be_named(work: Path, bucket: str) -> None:
    place = upload({"x.tar": (work / "shards" / TARS[0]).read_bytes()}, bucket)
    with pytest.raises(UsageError, match=r"name the tars in it, such as memory://.*/x\.tar$"):
        verify(place)
    assert len(verify(f"{place}/x.tar")) == 2


class _Flaky:
    """A store whose files stop answering after some reads, a number of times."""

    def __init__(self, place: str, failures: int) -> None:
        self._store = open_store(place)
        self.failures = failures

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def open(self, name: str) -> BinaryIO:
        return _FlakyFile(self, self._store.open(name))  # type: ignore[return-value]


class _FlakyFile:
    def __init__(self, store: _Flaky, file: BinaryIO) -> None:
        self._store, self._file, self._reads = store, file, 0

    def read(self, size: int) -> bytes:
        self._reads += 1
        if self._reads > 4 and self._store.failures:
            self._store.failures -= 1
            raise StorageError("does not answer")
        return self._file.read(size)

    def close(self) -> None:
        self._file.close()


@pytest.mark.parametrize(("failures", "read"), [(3, 5), (4, 4)])
def test_a_tar_is_opened_again_if_its_place_does_not_answer(
    work: Path, monkeypatch: pytest.MonkeyPatch, failures: int, read: int
) -> None:
    flaky: dict[str, _Flaky] = {}

    def open_flaky(place: str) -> Any:
        return flaky.setdefault(place, _Flaky(place, failures))

    monkeypatch.setattr(record_tars, "open_folder", open_flaky)
    entries = list_entries(work / "shards")
    names = [entry.name for entry in entries if entry.error is None]
    assert names == (NAMES if read == 5 else NAMES[:1] + NAMES[2:])
    broken = [entry.label for entry in entries if entry.error is not None]
    assert broken == ([] if read == 5 else [str(work / "shards" / TARS[0])])


def test_a_place_that_is_down_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tars = [str(write_file(tmp_path / f"{n}.tar", make_tar({}))) for n in range(3)]
    monkeypatch.setattr(record_tars, "MOST_LOST_TARS", 2)

    class _Down:
        def stat(self, name: str) -> object:
            return name

        def open(self, name: str) -> BinaryIO:
            raise StorageError(f"{tmp_path}/{name}: does not answer")

    monkeypatch.setattr(record_tars, "open_folder", lambda place: _Down())
    entries = list_records(inputs(str(tmp_path / "*.tar")).select(LATENTS), None)
    first = next(entries)
    assert (first.label, str(first.error)) == (tars[0], "does not answer")
    with pytest.raises(StorageError):
        next(entries)


def test_labels_hold_no_secrets(monkeypatch: pytest.MonkeyPatch, work: Path) -> None:
    data = (work / "shards" / TARS[0]).read_bytes()

    class _Web:
        def stat(self, name: str) -> object:
            return name

        def open(self, name: str) -> BinaryIO:
            return io.BytesIO(data)

    monkeypatch.setattr(record_tars, "open_folder", lambda place: _Web())
    url = "https://me:password@host/a/x.tar?X-Amz-Signature=secret"
    found = list(RecordFinder().find(url) or ())
    assert [(entry.path, entry.label) for entry in found] == [(url, "https://host/a/x.tar")]
    labels = [entry.label for entry in list_records(found, None)]
    assert labels == [
        "https://host/a/x.tar: a%2Ejpg.dinac",
        "https://host/a/x.tar: b%2Epng.dinac",
    ]
    assert hide_secrets(url) == "https://host/a/x.tar"


# What is not meant for shards


def test_out_of_decode_is_a_local_folder_without_shards(work: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"^memory://b/x: this command writes to local folders only; name"
    ):
        DecodeRequest(inputs=inputs(work / "shards"), out="memory://b/x").open()
    with pytest.raises(UsageError, match="holds shards of latents; choose another OUT"):
        DecodeRequest(inputs=inputs(work / "loose"), out=str(work / "shards")).open()
    with pytest.raises(UsageError, match="--prune needs folders of loose records"):
        decode(tmp_path, work / "shards", prune="some")
    with pytest.raises(UsageError, match="named like a file, but the input is not one file"):
        decode(tmp_path / "a.png", work / "shards" / TARS[0])


def test_decode_refuses_other_settings_at_once(work: Path, tmp_path: Path) -> None:
    decode(tmp_path / "out", work / "loose")
    options = dataclasses.replace(DecodeRequest(inputs=inputs("x"), out="y").options, steps=2)
    with pytest.raises(UsageError, match="holds images decoded with --steps 1; you asked for"):
        decode(tmp_path / "out", work / "shards", options=options)


def test_latent_folder_names_latent_shards(work: Path, bucket: str) -> None:
    for place in (work / "shards", bucket):
        with pytest.raises(UsageError, match=r"LatentShards$"):
            LatentFolder(place)


def test_a_file_that_vanishes_is_one_failure(shards: Path) -> None:
    selection = inputs(shards).select(LATENTS)
    listed = list(selection)
    (shards / TARS[1]).unlink()
    entries = list(list_records(listed, None))
    assert [entry.label for entry in entries if entry.error] == [str(shards / TARS[1])]
    error = next(entry.error for entry in entries if entry.error)
    assert isinstance(error, InputError)
    assert str(shards) not in str(error)
