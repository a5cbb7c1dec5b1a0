"""The choice of the models that encode and decode, and what is refused before any work."""

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
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import pack_record, read_header
from dinac_cli.container.tensors import Encoded
from dinac_cli.errors import ModelError, UsageError
from dinac_cli.jobs.freshness import WantedLatents, is_latent_file
from dinac_cli.jobs.held import find_held_record
from dinac_cli.jobs.model_choice import (
    ModelChoice,
    ModelFinder,
    choose_encoder,
    choose_encoders,
    choose_models,
    explain_default,
    refuse_mixed_latents,
)
from dinac_cli.jobs.request import keep_quiet
from dinac_cli.models import registry
from dinac_cli.models.aliases import HUB_ALIASES
from dinac_cli.models.dinac.model import DinacModel
from dinac_cli.models.identity import cache_folder
from dinac_cli.models.registry import find_cached, resolve_model
from dinac_cli.storage.output import Output, OutputKind

TINY = Path(__file__).parent.parent / "golden/tiny"
CHOICE = DeviceChoice(device="cpu", dtype="f32")


def make_record(model: ModelHandle, precision: str = "bf16") -> bytes:
    source = Source("a.jpg", 1, "0" * 64, "alpha=none", 16, 16)
    latents = np.zeros((model.traits.channels, 1, 1), np.float32)
    return build_record(source, Encoded(latents), model, "cpu/f32", precision)


def make_output(
    path: Path, kind: OutputKind = OutputKind.FOLDER, *, overwrite: bool = False
) -> Output:
    return Output(str(path), kind, is_latent_file, overwrite)


@pytest.fixture
def tiny() -> ModelHandle:
    return ModelHandle(DinacModel(TINY, "tiny"), "encoder", CHOICE)


@pytest.fixture
def nano() -> ModelHandle:
    return ModelHandle(resolve_model("nano"), "encoder", CHOICE)


def choose(output: Output, model: str = "auto", revision: str | None = None) -> ModelHandle:
    return choose_encoder(make_choice(model, revision), find_held_record(output), keep_quiet)


def make_choice(model: str = "auto", revision: str | None = None) -> ModelChoice:
    return ModelChoice(model=model, revision=revision, device=CHOICE.device, dtype=CHOICE.dtype)


def find_decoders(model: str = "auto", revision: str | None = None) -> ModelFinder:
    return choose_models("decoder", make_choice(model, revision), keep_quiet)


def watch_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Records which files of models are opened from now on."""
    opened: list[Path] = []
    real = Path.open

    def note(path: Path, *args: Any, **options: Any) -> Any:
        opened.append(path.resolve())
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "open", note)
    return opened


def watch_the_hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records which repositories are looked for in the Hub's cache; a download fails the test."""
    looked_for: list[str] = []

    def look(repository: str, *, local_files_only: bool = False, **options: Any) -> str:
        assert local_files_only, "the Hub was accessed"
        looked_for.append(repository)
        raise LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", look)
    return looked_for


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> object:
        raise AssertionError("downloaded")

    monkeypatch.setattr(registry, "_download", refuse)


class TestEncoder:
    def test_the_named_model_is_chosen(self, tmp_path: Path) -> None:
        chosen = choose(make_output(tmp_path), str(TINY))
        assert (chosen.label, chosen.part) == ("tiny", "encoder")
        assert (chosen.choice.device, chosen.choice.dtype) == ("cpu", "f32")

    def test_an_empty_out_gets_the_machines_default(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for out in (tmp_path, tmp_path / "gone"):
            assert choose(make_output(out)).label == "nano"
        monkeypatch.setattr("dinac_cli.jobs.model_choice.choose_default", lambda device: str(TINY))
        assert choose(make_output(tmp_path)).label == "tiny"

    @pytest.mark.parametrize("kind", [OutputKind.FOLDER, OutputKind.FILE])
    def test_the_model_of_outs_records_is_kept_unless_overwritten(
        self, tmp_path: Path, nano: ModelHandle, kind: OutputKind, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "out/a.dinac"
        path.parent.mkdir()
        path.write_bytes(make_record(nano))
        monkeypatch.setattr("dinac_cli.jobs.model_choice.choose_default", lambda device: str(TINY))
        out = path if kind is OutputKind.FILE else path.parent
        assert choose(make_output(out, kind)).label == "nano"
        assert choose(make_output(out, kind, overwrite=True)).label == "tiny"

    def test_a_missing_model_of_outs_records_is_an_error(
        self, tmp_path: Path, tiny: ModelHandle
    ) -> None:
        (tmp_path / "a.dinac").write_bytes(make_record(tiny))
        with pytest.raises(ModelError) as caught:
            choose(make_output(tmp_path))
        assert str(caught.value) == (
            f"{tmp_path / 'a.dinac'} was encoded with model tiny (latent space "
            f"{tiny.identity.latent_space}), which is not available here; "
            "name it with --model, or choose another OUT"
        )

    def test_a_missing_model_of_the_hub_is_named_in_the_remedy(
        self, tmp_path: Path, tiny: ModelHandle
    ) -> None:
        header = dataclasses.replace(read_header(make_record(tiny)), model="owner/name/vae")
        latents = np.zeros(header.shape, np.float32)
        (tmp_path / "a.dinac").write_bytes(pack_record(header, latents))
        with pytest.raises(ModelError, match="here; add --model owner/name/vae, or choose another"):
            choose(make_output(tmp_path))

    def test_a_stream_gets_the_machines_default(self) -> None:
        assert choose(make_output(Path("-"), OutputKind.STREAM)).label == "nano"

    def test_revision_needs_a_repository(self, tmp_path: Path, nano: ModelHandle) -> None:
        with pytest.raises(UsageError, match="--revision abc: nano is not a Hub repository"):
            choose(make_output(tmp_path), revision="abc")
        (tmp_path / "a.dinac").write_bytes(make_record(nano))
        with pytest.raises(UsageError, match="--revision abc: name its model with --model"):
            choose(make_output(tmp_path), revision="abc")


def test_the_machines_default_is_explained(
    tmp_path: Path, nano: ModelHandle, tiny: ModelHandle
) -> None:
    (tmp_path / "a.dinac").write_bytes(make_record(nano))
    held = find_held_record(make_output(tmp_path))
    assert explain_default(make_choice(), None, nano) == "default on a CPU"
    assert explain_default(make_choice(), None, tiny) == "default on a GPU"
    assert explain_default(make_choice("nano"), None, nano) is None
    assert explain_default(make_choice(), held, nano) is None


class TestMixedLatents:
    def refuse(self, output: Output, model: ModelHandle, precision: str = "bf16") -> None:
        wanted = WantedLatents(model, precision, "#ffffff")
        refuse_mixed_latents(output, find_held_record(output), wanted)

    def test_latents_of_the_same_model_pass(self, tmp_path: Path, nano: ModelHandle) -> None:
        self.refuse(make_output(tmp_path / "gone"), nano)
        self.refuse(make_output(tmp_path), nano)
        (tmp_path / "a.dinac").write_bytes(make_record(nano))
        self.refuse(make_output(tmp_path), nano)

    def test_latents_of_another_model_are_refused(
        self, tmp_path: Path, nano: ModelHandle, tiny: ModelHandle
    ) -> None:
        (tmp_path / "a.dinac").write_bytes(make_record(tiny))
        with pytest.raises(UsageError) as caught:
            self.refuse(make_output(tmp_path), nano)
        assert str(caught.value) == (
            f"{tmp_path} holds latents of model tiny (latent space {tiny.identity.latent_space}); "
            f"you asked for --model nano (latent space {nano.identity.latent_space}) "
            f"({tmp_path / 'a.dinac'}); "
            "choose another OUT, or add --overwrite to re-encode everything"
        )
        self.refuse(make_output(tmp_path, overwrite=True), nano)

    def test_latents_of_another_precision_are_refused(
        self, tmp_path: Path, nano: ModelHandle
    ) -> None:
        (tmp_path / "a.dinac").write_bytes(make_record(nano))
        for out, kind in ((tmp_path, OutputKind.FOLDER), (tmp_path / "a.dinac", OutputKind.FILE)):
            with pytest.raises(
                UsageError, match="holds bf16 latents; you asked for --precision q8"
            ):
                self.refuse(make_output(out, kind), nano, "q8")


class TestDecoders:
    def header(self, model: ModelHandle) -> RecordHeader:
        return read_header(make_record(model))

    def test_the_named_model_decodes_all_records(
        self, nano: ModelHandle, tiny: ModelHandle
    ) -> None:
        models = find_decoders(str(TINY))
        assert models.find(self.header(nano)) is models.find(self.header(tiny))
        assert models.find(self.header(nano)).label == "tiny"
        assert models.find(self.header(nano)).part == "decoder"

    def test_the_model_of_the_records_is_looked_for_once(
        self, nano: ModelHandle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        models = find_decoders()
        found = models.find(self.header(nano))
        assert found.label == "nano"
        monkeypatch.setattr("dinac_cli.jobs.model_choice.find_model", None)
        assert models.find(self.header(nano)) is found

    def test_an_unknown_model_is_refused_and_never_downloaded(self, tiny: ModelHandle) -> None:
        models = find_decoders()
        for _ in range(2):
            with pytest.raises(ModelError) as caught:
                models.find(self.header(tiny))
        assert str(caught.value) == (
            f"encoded with model tiny (latent space {tiny.identity.latent_space}), "
            "which is neither embedded nor cached; name it with --model"
        )

    @pytest.mark.parametrize(
        "name",
        [
            "/etc/passwd",
            "owner/model",
            "data-archetype/dinac_ae_d2",
            "https://example.org/model.safetensors",
            "../tiny",
            str(TINY),  # a checkpoint of the record's latent space
            str(TINY / "model.safetensors"),
        ],
    )
    def test_the_model_that_a_record_names_is_neither_opened_nor_downloaded(
        self, tiny: ModelHandle, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        header = dataclasses.replace(self.header(tiny), model=name, revision="main")
        monkeypatch.chdir(TINY.parent)
        find_cached("owner/model")  # imports the Hub's client, which reads files of its own
        opened, looked_for = watch_reads(monkeypatch), watch_the_hub(monkeypatch)
        refusal = r"neither embedded nor cached; name it with --model$"
        if name == "owner/model":
            refusal = r"which dinac does not look for by itself; add --model owner/model$"
        with pytest.raises(ModelError, match=refusal):
            find_decoders().find(header)
        assert {path.parent for path in opened} <= {resolve_model("nano").path, cache_folder()}
        assert looked_for == list(HUB_ALIASES.values())

    def test_an_alias_in_a_record_does_not_matter(
        self, nano: ModelHandle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The latent space decides: this record is of `nano`, whatever model it names."""
        looked_for = watch_the_hub(monkeypatch)
        header = dataclasses.replace(self.header(nano), model="d2", revision="0" * 40)
        assert find_decoders().find(header).label == "nano"
        assert looked_for == []

    def test_revision_needs_a_repository(self) -> None:
        with pytest.raises(UsageError, match="--revision abc: name its model with --model"):
            find_decoders(revision="abc")

    def test_an_invalid_checkpoint_ends_the_run(self, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").write_bytes(b"text")
        with pytest.raises(ModelError):
            find_decoders(str(tmp_path))


class TestEncodersOfRecords:
    def header(self, model: ModelHandle, compute: str = "cpu/f32") -> RecordHeader:
        return dataclasses.replace(read_header(make_record(model)), compute=compute)

    def test_the_model_of_the_latents_runs_in_the_records_dtype(self, nano: ModelHandle) -> None:
        models = choose_encoders(None, DeviceChoice(device="cpu", dtype="auto"))
        dtypes = {
            compute: models.find(self.header(nano, compute)).choice.dtype
            for compute in ("cpu/f32", "cuda/bf16", "cpu/bf16/compiled", "cpu/f8", "")
        }
        assert list(dtypes.values()) == ["f32", "bf16", "bf16", "auto", "auto"]
        found = models.find(self.header(nano))
        assert (found.label, found.part) == ("nano", "encoder")
        assert models.find(self.header(nano)) is found  # so it is loaded once

    def test_a_requested_dtype_wins(self, nano: ModelHandle) -> None:
        models = choose_encoders(None, DeviceChoice(device="cpu", dtype="bf16"))
        assert models.find(self.header(nano)).choice.dtype == "bf16"

    def test_the_named_model_wins(self, nano: ModelHandle) -> None:
        named = make_choice(str(TINY)).resolve(keep_quiet)
        assert choose_encoders(named, CHOICE).find(self.header(nano)).label == "tiny"

    def test_an_unknown_model_is_never_downloaded(self, tiny: ModelHandle) -> None:
        with pytest.raises(ModelError, match="neither embedded nor cached; name it with --model"):
            choose_encoders(None, CHOICE).find(self.header(tiny))

    def test_auto_names_no_model(self) -> None:
        assert make_choice().resolve(keep_quiet) is None
        with pytest.raises(UsageError, match="--revision abc: name its model with --model"):
            make_choice(revision="abc").resolve(keep_quiet)


class TestClassHeads:
    def test_a_named_model_without_a_class_head_is_refused_at_once(self) -> None:
        with pytest.raises(UsageError, match="nano has no class head"):
            choose_models("class_head", make_choice("nano"), keep_quiet)

    def test_a_records_model_without_a_class_head_is_refused_for_that_record(
        self, nano: ModelHandle
    ) -> None:
        models = choose_models("class_head", make_choice(), keep_quiet)
        with pytest.raises(UsageError, match="nano has no class head"):
            models.find(read_header(make_record(nano)))

    def test_a_model_with_a_class_head_is_found_once(self, tiny: ModelHandle) -> None:
        models = choose_models("class_head", make_choice(str(TINY)), keep_quiet)
        found = models.find(read_header(make_record(tiny)))
        assert (found.label, found.part) == ("tiny", "class_head")
        assert models.find(read_header(make_record(tiny))) is found
