"""Finds out what an encode run would do, and prints it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from dinac_cli.codec.handle import DeviceChoice
from dinac_cli.commands.inputs import IMAGES, InputOptions, select_inputs
from dinac_cli.commands.run import EXIT_FAILURES, format_duration, format_size
from dinac_cli.commands.running import RunOptions, make_control
from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.screen.signals import SignalledStop, stop_on_signals
from dinac_cli.commands.screen.tables import align
from dinac_cli.errors import DeviceError, ModelError, UsageError
from dinac_cli.jobs.encode import EncodeOptions
from dinac_cli.jobs.freshness import is_latent_file
from dinac_cli.jobs.model_choice import choose_local_encoder, describe_mixed_latents, open_encoder
from dinac_cli.jobs.plan import WORK, Fate, Plan, PlannedFile, plan_files
from dinac_cli.jobs.request import choose_output_kind, count_inputs, require_existing
from dinac_cli.jobs.trial import TrialSample, run_trial
from dinac_cli.models.registry import choose_default
from dinac_cli.storage.naming import LATENT_SUFFIX, name_latents
from dinac_cli.storage.output import Output


@dataclass(frozen=True)
class PlanOptions:
    """The options of encode that decide what is to be done."""

    settings: EncodeOptions
    model: str
    revision: str | None
    overwrite: bool
    choice: DeviceChoice
    run: RunOptions
    quick: bool = False


@dataclass(frozen=True)
class _Time:
    """What a trial found out of the time that encoding takes, or why there was none."""

    seconds: float | None
    basis: str
    files: int = 0

    def __str__(self) -> str:
        if self.seconds is None:
            return f"not estimated ({self.basis})"
        return f"about {format_duration(self.seconds)} ({self.basis})"


def run_plan(
    inputs: InputOptions, out: str, options: PlanOptions, console: Console, as_json: bool
) -> int:
    """Plan and print; returns the exit code. Raises DinacError where encode could not run."""
    settings = options.settings
    if settings.anonymous and settings.checksum:
        raise UsageError("--anonymous records hold no hash to compare: leave out --checksum")
    selection = select_inputs(inputs, IMAGES, out)
    require_existing(selection)
    kind = choose_output_kind(out, selection.scan, (LATENT_SUFFIX,))
    output = Output(out, kind, is_latent_file, options.overwrite)
    if not os.path.lexists(out):  # one that is there is written to only where there is work
        output.require_writable()
    count_inputs(selection, output, name_latents)
    model = choose_local_encoder(options.model, options.revision, output)
    encoder = open_encoder(model, DeviceChoice(), features=settings.features)
    encoder.check(settings.precision)
    head = encoder.config.class_head if settings.features else None
    plan = Plan(
        settings.precision,
        posterior=settings.posterior,
        token_width=0 if head is None else head.model_dim,
        with_twins=settings.geometry.flip,
    )
    sample = TrialSample()
    wanted = settings.want(encoder)
    refusal = describe_mixed_latents(output, wanted)
    for file in plan_files(selection, output, wanted, settings):
        plan.add(file)
        if file.entry is not None and file.pixels is not None:
            sample.add(file.entry)
        _report_file(file, console, as_json)
    if any(plan.counts[fate].files for fate in WORK):
        output.require_writable()
    with stop_on_signals(console) as stop:
        # What nobody will see is not worth the seconds.
        is_quick = options.quick or refusal is not None or (console.quiet and not as_json)
        took = _estimate_time(sample, plan, output, replace(options, quick=is_quick), stop)
    if stop.exit_code is not None:
        return stop.exit_code
    if as_json:
        console.print_json(plan_to_json(plan, took, refusal))
    else:
        console.print_result("\n".join(describe_plan(plan, took, refusal)))
    if refusal is not None:
        return UsageError.exit_code
    return EXIT_FAILURES if plan.counts[Fate.FAILED].files else 0


def _estimate_time(
    sample: TrialSample, plan: Plan, output: Output, options: PlanOptions, stop: SignalledStop
) -> _Time:
    """Encode some of the images to nowhere with the model that would encode them all."""
    if not sample.entries:
        return _Time(None, "of unknown size" if plan.unmeasured else "")
    if options.quick or options.choice.compiled:
        return _Time(None, "--quick" if options.quick else "networks of --compile are not tried")
    try:
        default = choose_default(options.choice.device)
        model = choose_local_encoder(options.model, options.revision, output, default)
        encoder = open_encoder(model, options.choice, features=options.settings.features)
        trial = run_trial(sample, encoder, options.settings, make_control(options.run, stop))
    except (ModelError, DeviceError) as exc:
        return _Time(None, str(exc))
    if trial is None:
        return _Time(None, "those that were tried cannot be encoded")
    pixels = sum(plan.counts[fate].pixels for fate in WORK)
    basis = f"{trial.compute}, of {trial.files} tried"
    return _Time(trial.estimate_seconds(pixels), basis, trial.files)


def describe_plan(plan: Plan, took: _Time, refusal: str | None = None) -> Iterator[str]:
    """The lines that a person reads; `refusal` is why encode would not begin."""
    rows = [["state", "files", "bytes"]]
    for fate, count in plan.counts.items():
        has_bytes = fate not in (Fate.CONFLICT, Fate.FAILED)
        size = format_size(plan.estimate_bytes(fate)) if has_bytes else "-"
        rows.append([fate.value, str(count.files), size])
    yield from align(rows)
    files = sum(plan.counts[fate].files for fate in WORK)
    if refusal is not None or not files:
        yield "nothing to encode" if refusal is None else f"encode would refuse: {refusal}"
        return
    basis = "as the records that are done" if plan.is_measured else "typical of the precision"
    line = f"{files} to encode, about {format_size(plan.bytes_to_write)}"
    line += f" at {plan.bits_per_pixel:.2f} bits a pixel ({basis})"
    if plan.unmeasured:
        line += f", without {plan.unmeasured} of unknown size"
    yield line
    yield f"time: {took}"


def plan_to_json(plan: Plan, took: _Time, refusal: str | None = None) -> dict[str, Any]:
    """The summary object of a plan."""
    return {
        "summary": True,
        "refused": refusal,
        **{fate.value: count.files for fate, count in plan.counts.items()},
        "pixels": sum(plan.counts[fate].pixels for fate in WORK),
        "bits_per_pixel": plan.bits_per_pixel,
        "bits_per_pixel_measured": plan.is_measured,
        "bytes_estimated": plan.bytes_to_write,
        "unmeasured": plan.unmeasured,
        "seconds_estimated": took.seconds,
        "tried": took.files,
        "bytes_done": plan.counts[Fate.DONE].size_bytes,
        "bytes_orphaned": plan.counts[Fate.ORPHANED].size_bytes,
    }


def _report_file(file: PlannedFile, console: Console, as_json: bool) -> None:
    reason = f": {file.reason}" if file.reason else ""
    if file.fate is Fate.FAILED:
        console.fail(f"{file.file}{reason}")
    elif console.verbose:
        console.say(f"dinac: {file.fate.value} {file.file}{reason}")
    if as_json:
        console.print_json(file.to_json())
