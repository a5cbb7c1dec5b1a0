"""Which model encodes, which decodes, and what is refused before any work."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.codec.records import Source, build_record
from dinac_cli.commands.screen.console import Console
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import read_header
from dinac_cli.container.tensors import Encoded
from dinac_cli.errors import ModelError, UsageError
from dinac_cli.jobs.freshness import WantedLatents, is_latent_file
from dinac_cli.jobs.model_choice import (
    choose_decoders,
    choose_encoder,
    choose_encoders,
    refuse_mixed_latents,
    resolve_named,
)
from dinac_cli.models import registry
from dinac_cli.models.identity import cache_folder
from dinac_cli.models.registry import HUB_ALIASES, ResolvedModel, resolve_model
from dinac_cli.storage.output import Output, OutputKind

TINY = Path(__file__).parent.parent / "golden/tiny"
CHOICE = DeviceChoice("cpu", "f32")


def make_record(model: ModelHandle, precision: str = "bf16") -> bytes:
    source = Source("a.jpg", 1, "0" * 64, "alpha=none", 16, 16)
    latents = np.zeros((model.config.bottleneck_dim, 1, 1), np.float32)
    return build_record(source, Encoded(latents), model, "cpu/f32", precision)


def make_output(
    path: Path, kind: OutputKind = OutputKind.FOLDER, *, overwrite: bool = False
) -> Output:
    return Output(str(path), kind, is_latent_file, overwrite)


@pytest.fixture
def tiny() -> ModelHandle:
    return ModelHandle(ResolvedModel(TINY, "tiny"), "encoder", CHOICE)


@pytest.fixture
def nano() -> ModelHandle:
    return ModelHandle(resolve_model("nano"), "encoder", CHOICE)


def choose(output: Output, model: str = "auto", revision: str | None = None) -> ModelHandle:
    return choose_encoder(model, revision, CHOICE, output, Console())


def watch_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files of models that are opened from now on."""
    opened: list[Path] = []
    real = Path.open

    def note(path: Path, *args: Any, **options: Any) -> Any:
        opened.append(path.resolve())
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "open", note)
    return opened


def watch_the_hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The repositories that its cache, and nothing but its cache, is asked for from now on."""
    asked: list[str] = []

    def look(repository: str, *, local_files_only: bool = False, **options: Any) -> str:
        assert local_files_only, "the Hub was asked"
        asked.append(repository)
        raise LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", look)
    return asked


@pytest.fixture(autouse=True)
def nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> object:
        raise AssertionError("fetched")

    monkeypatch.setattr(registry, "_download", refuse)


class TestEncoder:
    def test_named(self, tmp_path: Path) -> None:
        chosen = choose(make_output(tmp_path), str(TINY))
        assert (chosen.label, chosen.part, chosen.choice) == ("tiny", "encoder", CHOICE)

    def test_of_an_empty_out_is_the_machines(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for out in (tmp_path, tmp_path / "gone"):
            assert choose(make_output(out)).label == "nano"
        monkeypatch.setattr("dinac_cli.jobs.model_choice.choose_default", lambda device: str(TINY))
        assert choose(make_output(tmp_path)).label == "tiny"

    @pytest.mark.parametrize("kind", [OutputKind.FOLDER, OutputKind.FILE])
    def test_of_outs_records(
        self, tmp_path: Path, nano: ModelHandle, kind: OutputKind, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "out/a.dinac"
        path.parent.mkdir()
        path.write_bytes(make_record(nano))
        monkeypatch.setattr("dinac_cli.jobs.model_choice.choose_default", lambda device: str(TINY))
        out = path if kind is OutputKind.FILE else path.parent
        assert choose(make_output(out, kind)).label == "nano"
        assert choose(make_output(out, kind, overwrite=True)).label == "tiny"

    def test_of_outs_records_is_not_at_hand(self, tmp_path: Path, tiny: ModelHandle) -> None:
        (tmp_path / "a.dinac").write_bytes(make_record(tiny))
        with pytest.raises(ModelError) as caught:
            choose(make_output(tmp_path))
        assert str(caught.value) == (
            f"{tmp_path / 'a.dinac'} was encoded with model tiny (latent space "
            f"{tiny.identity.latent_space}), which is not at hand: "
            "name it with --model, or choose another OUT"
        )

    def test_of_a_stream(self) -> None:
        assert choose(make_output(Path("-"), OutputKind.STREAM)).label == "nano"

    def test_revision_needs_a_repository(self, tmp_path: Path, nano: ModelHandle) -> None:
        with pytest.raises(UsageError, match="--revision abc: nano is no Hub repository"):
            choose(make_output(tmp_path), revision="abc")
        (tmp_path / "a.dinac").write_bytes(make_record(nano))
        with pytest.raises(UsageError, match="--revision abc: say with --model"):
            choose(make_output(tmp_path), revision="abc")


class TestMixedLatents:
    def refuse(self, output: Output, model: ModelHandle, precision: str = "bf16") -> None:
        refuse_mixed_latents(output, WantedLatents(model, precision, "#ffffff"))

    def test_same_ones_pass(self, tmp_path: Path, nano: ModelHandle) -> None:
        self.refuse(make_output(tmp_path / "gone"), nano)
        self.refuse(make_output(tmp_path), nano)
        (tmp_path / "a.dinac").write_bytes(make_record(nano))
        self.refuse(make_output(tmp_path), nano)

    def test_other_model(self, tmp_path: Path, nano: ModelHandle, tiny: ModelHandle) -> None:
        (tmp_path / "a.dinac").write_bytes(make_record(tiny))
        with pytest.raises(UsageError) as caught:
            self.refuse(make_output(tmp_path), nano)
        assert str(caught.value) == (
            f"{tmp_path} already holds model tiny (latent space {tiny.identity.latent_space}), "
            f"not nano (latent space {nano.identity.latent_space}) ({tmp_path / 'a.dinac'}): "
            "choose another OUT, or add --overwrite to encode all anew"
        )
        self.refuse(make_output(tmp_path, overwrite=True), nano)

    def test_other_precision(self, tmp_path: Path, nano: ModelHandle) -> None:
        (tmp_path / "a.dinac").write_bytes(make_record(nano))
        for out, kind in ((tmp_path, OutputKind.FOLDER), (tmp_path / "a.dinac", OutputKind.FILE)):
            with pytest.raises(UsageError, match="already holds precision bf16, not q8"):
                self.refuse(make_output(out, kind), nano, "q8")


class TestDecoders:
    def header(self, model: ModelHandle) -> RecordHeader:
        return read_header(make_record(model))

    def test_named_one_is_for_all(self, nano: ModelHandle, tiny: ModelHandle) -> None:
        find = choose_decoders(str(TINY), None, CHOICE, Console())
        assert find(self.header(nano)) is find(self.header(tiny))
        assert find(self.header(nano)).label == "tiny"
        assert find(self.header(nano)).part == "decoder"

    def test_that_of_the_records_is_found_once(
        self, nano: ModelHandle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        find = choose_decoders("auto", None, CHOICE, Console())
        found = find(self.header(nano))
        assert found.label == "nano"
        monkeypatch.setattr("dinac_cli.jobs.model_choice.find_model", None)
        assert find(self.header(nano)) is found

    def test_unknown_one_is_refused_and_never_fetched(self, tiny: ModelHandle) -> None:
        find = choose_decoders("auto", None, CHOICE, Console())
        for _ in range(2):
            with pytest.raises(ModelError) as caught:
                find(self.header(tiny))
        assert str(caught.value) == (
            f"encoded with model tiny (latent space {tiny.identity.latent_space}), "
            "which is neither embedded nor cached: name it with --model"
        )

    @pytest.mark.parametrize(
        "name",
        [
            "/etc/passwd",
            "owner/model",
            "data-archetype/dinac_ae_d2",
            "https://example.org/model.safetensors",
            "../tiny",
            str(TINY),  # a checkpoint of this very latent space
            str(TINY / "model.safetensors"),
        ],
    )
    def test_what_a_record_names_is_neither_opened_nor_fetched(
        self, tiny: ModelHandle, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        header = dataclasses.replace(self.header(tiny), model=name, revision="main")
        monkeypatch.chdir(TINY.parent)
        opened, asked = watch_reads(monkeypatch), watch_the_hub(monkeypatch)
        with pytest.raises(ModelError, match=r"neither embedded nor cached: name it with --model$"):
            choose_decoders("auto", None, CHOICE, Console())(header)
        assert {path.parent for path in opened} <= {resolve_model("nano").path, cache_folder()}
        assert asked == list(HUB_ALIASES.values())

    def test_an_alias_in_a_record_is_no_request_for_it(
        self, nano: ModelHandle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The latent space decides: this record is of `nano`, whatever it says."""
        asked = watch_the_hub(monkeypatch)
        header = dataclasses.replace(self.header(nano), model="d2", revision="0" * 40)
        assert choose_decoders("auto", None, CHOICE, Console())(header).label == "nano"
        assert asked == []

    def test_revision_needs_a_repository(self) -> None:
        with pytest.raises(UsageError, match="--revision abc: say with --model"):
            choose_decoders("auto", "abc", CHOICE, Console())

    def test_checkpoint_that_is_none_ends_the_run(self, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").write_bytes(b"text")
        with pytest.raises(ModelError):
            choose_decoders(str(tmp_path), None, CHOICE, Console())


class TestEncodersOfRecords:
    def header(self, model: ModelHandle, compute: str = "cpu/f32") -> RecordHeader:
        return dataclasses.replace(read_header(make_record(model)), compute=compute)

    def test_that_of_the_latents_in_its_own_arithmetic(self, nano: ModelHandle) -> None:
        find = choose_encoders(None, DeviceChoice("cpu", "auto"))
        dtypes = {
            compute: find(self.header(nano, compute)).choice.dtype
            for compute in ("cpu/f32", "cuda/bf16", "cpu/bf16/compiled", "cpu/f8", "")
        }
        assert list(dtypes.values()) == ["f32", "bf16", "bf16", "auto", "auto"]
        found = find(self.header(nano))
        assert (found.label, found.part) == ("nano", "encoder")
        assert find(self.header(nano)) is found  # and is loaded once

    def test_dtype_that_is_asked_for(self, nano: ModelHandle) -> None:
        find = choose_encoders(None, DeviceChoice("cpu", "bf16"))
        assert find(self.header(nano)).choice.dtype == "bf16"

    def test_named_one(self, nano: ModelHandle) -> None:
        named = resolve_named(str(TINY), None, Console())
        assert choose_encoders(named, CHOICE)(self.header(nano)).label == "tiny"

    def test_unknown_one_is_never_fetched(self, tiny: ModelHandle) -> None:
        with pytest.raises(ModelError, match="neither embedded nor cached: name it with --model"):
            choose_encoders(None, CHOICE)(self.header(tiny))

    def test_none_is_named(self) -> None:
        assert resolve_named("auto", None, Console()) is None
        with pytest.raises(UsageError, match="--revision abc: say with --model"):
            resolve_named("auto", "abc", Console())
