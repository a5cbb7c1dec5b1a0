"""Runs all checks, in an order that a reader can follow, and judges what they found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dinac_cli import __version__
from dinac_cli.doctor import (
    arithmetic,
    gpu,
    hardware,
    installation,
    places,
    probe,
    processors,
    reference,
    room,
)
from dinac_cli.doctor.finding import Facts, Finding, Level, fail, note
from dinac_cli.doctor.inquiry import Answer, inquire
from dinac_cli.doctor.privacy import Privacy
from dinac_cli.errors import quote_error
from dinac_cli.jobs.executor.phase import Phase, Watch, ignore_phase

SCHEMA = 1
"""The version of the JSON object. It rises if the keys of the object or of a check change."""

DEFAULT_SECONDS = 300.0

_REINSTALL = "pip install --force-reinstall"
_DINAC_CUDA = f"set DINAC_CUDA=torch, or use --device cpu, and {gpu.REPORT}"
_FAULTS = {
    probe.DEVICE: ("torch cannot be used", f"{_REINSTALL} torch"),
    probe.ARITHMETIC: ("torch cannot multiply matrices", "use --dtype f32, or reinstall torch"),
    probe.FLOAT32: ("the model cannot compute", f"{_REINSTALL} torch dinac-cli"),
    probe.BFLOAT16: ("the model cannot compute in bf16", "use --dtype f32"),
    probe.EXTRAS: ("image libraries cannot be used", f"{_REINSTALL} pillow numpy simplejpeg"),
    probe.KERNELS_NANO: ("the GPU cannot compute", _DINAC_CUDA),
    probe.KERNELS_D2: ("the GPU cannot compute", _DINAC_CUDA),
    probe.BATCHES: ("the GPU cannot compute", _DINAC_CUDA),
}
"""A step without which `encode` and `decode` do not work → what that means, and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """An examination of this machine for runs on `device` that write to `folder`.

    `is_named` is true if the user named the folder. Each step in another process may take
    `seconds`.
    """

    device: str = "auto"
    folder: Path = Path()
    is_named: bool = False
    seconds: float = DEFAULT_SECONDS

    def run(self, watch: Watch = ignore_phase) -> Iterator[Finding]:
        """Yields each finding as soon as it is known. Raises OSError without a second process."""
        yield from _guard("dinac", lambda: installation.check_system(__version__))
        yield from _guard(
            "packages", lambda: installation.check_packages(installation.list_requirements())
        )
        kind = yield from self._examine_device(watch)
        yield from _guard("threads", lambda: processors.judge_threads(processors.measure_threads()))
        watch(Phase("measuring the disk"))
        yield from _guard(
            "disk", lambda: places.check_disk(self.folder.absolute(), is_named=self.is_named)
        )
        yield from _guard("temporary", places.check_temporary)
        for answer in self._inquire((probe.MODELS, probe.EXTRAS, probe.COMPILER), watch):
            yield from _judge(answer, kind)
        for extra in installation.EXTRAS:
            yield from _guard(f"extra {extra}", partial(installation.check_extra, extra))
        yield from _guard("completions", lambda: installation.check_completions(_find_home()))

    def _examine_device(self, watch: Watch) -> Generator[Finding, None, str]:
        """Yields findings about torch, the device and the model. Returns the kind of the device.

        Without a device, nothing can compute, and the kind is "cpu".
        """
        kind = "cpu"
        with contextlib.closing(self._inquire(probe.DEVICE_STEPS, watch)) as answers:
            for answer in answers:
                yield from _judge(answer, kind)
                if answer.step == probe.DEVICE:
                    if answer.facts is None or answer.facts["kind"] is None:
                        break
                    kind = answer.facts["kind"]
        return kind

    def _inquire(self, steps: Iterable[str], watch: Watch) -> Generator[Answer, None, None]:
        for one in inquire(list(steps), self.device, self.seconds):
            if isinstance(one, Answer):
                yield one
            else:
                watch(Phase("checking", detail=one))


def _find_home() -> Path:
    """Returns the home folder. Raises OSError if the system knows none, as in some containers."""
    try:
        return Path.home()
    except RuntimeError as exc:
        raise FileNotFoundError(str(exc)) from exc


def _judge(answer: Answer, kind: str) -> Iterator[Finding]:
    """Yields the findings of a step on a device of this kind: none if the step does not apply."""
    if answer.problem:
        yield judge_problem(answer, kind)
    elif (facts := answer.facts) is not None:
        yield from _guard_all(answer.step, lambda: _JUDGES[answer.step](facts, kind))


def judge_problem(answer: Answer, kind: str) -> Finding:
    """Returns the finding for a step that failed, crashed or hung on a device of this kind."""
    facts = {"problem": answer.problem, "details": list(answer.details)}
    if answer.step not in _FAULTS:
        text = f"could not be checked: {answer.problem}"
        return note(answer.step, text, answer.remedy or gpu.REPORT, facts)
    meaning, remedy = _FAULTS[answer.step]
    if kind == "cuda" and answer.step in probe.DEVICE_STEPS:
        remedy = _DINAC_CUDA
    remedy = answer.remedy or remedy
    if answer.is_late:
        remedy = f"on a busy machine, repeat with a longer --time-limit; else {remedy}"
    return fail(answer.step, f"{meaning}: {answer.problem}", remedy, facts)


def _judge_models(facts: Facts, kind: str) -> list[Finding]:
    hub = places.check_hub(
        places.inspect_place(Path(facts["hub"])),
        has_d2=facts["d2"],
        is_default=kind != "cpu",
        download_bytes=facts["d2_bytes"],
    )
    return [places.check_cache(places.inspect_place(Path(facts["cache"]))), hub]


_JUDGES: dict[str, Callable[[Facts, str], list[Finding]]] = {
    probe.DEVICE: lambda facts, kind: [hardware.judge_torch(facts), hardware.judge_device(facts)],
    probe.ARITHMETIC: lambda facts, kind: [arithmetic.judge_arithmetic(facts)],
    probe.MEMORY: lambda facts, kind: [room.judge_memory(facts, "nano" if kind == "cpu" else "d2")],
    probe.FLOAT32: lambda facts, kind: [reference.judge_parity(facts)],
    probe.BFLOAT16: lambda facts, kind: [reference.judge_parity(facts)],
    probe.KERNELS_NANO: lambda facts, kind: [gpu.judge_ladder(facts)],
    probe.KERNELS_D2: lambda facts, kind: [gpu.judge_ladder(facts)],
    probe.BATCHES: lambda facts, kind: [gpu.judge_batches(facts)],
    probe.MODELS: _judge_models,
    probe.EXTRAS: lambda facts, kind: [
        installation.judge_jpeg(facts),
        installation.judge_formats(facts),
    ],
    probe.COMPILER: lambda facts, kind: [hardware.judge_compilers(facts, kind)],
}
"""A step → the function that judges its facts on a device of a kind, such as "cpu"."""


def _guard(name: str, check: Callable[[], Finding]) -> Iterator[Finding]:
    return _guard_all(name, lambda: [check()])


def _guard_all(name: str, check: Callable[[], list[Finding]]) -> Iterator[Finding]:
    """Yields what a check found. If the system refuses the check, yields a note that says so."""
    try:
        found = check()
    except OSError as exc:
        text = f"could not be checked: {quote_error(exc)}"
        found = [note(name, text, gpu.REPORT, {"problem": quote_error(exc)})]
    yield from found


def to_document(findings: Sequence[Finding], privacy: Privacy) -> dict[str, Any]:
    """Returns the findings as one object for JSON, without private names."""
    return {
        "doctor": SCHEMA,
        "failed": count(findings, Level.FAIL),
        "notes": count(findings, Level.NOTE),
        "checks": [_round(privacy.hide(one.to_json())) for one in findings],
    }


def _round(value: Any) -> Any:
    """Returns a value for JSON, with four digits of each fraction."""
    if isinstance(value, dict):
        return {key: _round(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_round(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def count(findings: Sequence[Finding], level: Level) -> int:
    """Returns the number of findings of a level."""
    return sum(one.level is level for one in findings)
