"""Prints the plan of a run into shards, for `dinac plan` and `dinac encode --dry-run`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dinac_cli.commands.bucket_table import buckets_to_json, describe_buckets
from dinac_cli.commands.mask_count import describe_unmasked
from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.screen.file_lines import FileLines, Topic
from dinac_cli.commands.screen.progress import show_phases
from dinac_cli.commands.screen.signals import stop_on_signals
from dinac_cli.commands.screen.tables import (
    align,
    count_images,
    format_duration,
    format_size,
)
from dinac_cli.commands.size_advice import advise_on_sizes
from dinac_cli.errors import Exit

if TYPE_CHECKING:
    from dinac_cli.commands.run import ScreenOptions
    from dinac_cli.jobs.executor.phase import Watch
    from dinac_cli.jobs.plan import PlanRequest
    from dinac_cli.jobs.shards.bucket_counts import BucketCounts
    from dinac_cli.jobs.shards.forecast import ShardEstimate, ShardForecast
    from dinac_cli.jobs.shards.shard_run import ShardPlan
    from dinac_cli.jobs.shards.speed import SpeedEstimate


def print_shard_plan(
    request: PlanRequest, screen: ScreenOptions, *, reports_work: bool = False
) -> int:
    """Makes a plan of shards and prints it; returns the exit code.

    If `reports_work` is set, the exit code also says whether there is anything left to encode.
    Raises DinacError if encode cannot run.
    """
    from dinac_cli.commands.run import tune_process
    from dinac_cli.jobs.executor.phase import Phase
    from dinac_cli.jobs.shards.forecast import open_forecast

    console = screen.open_console()
    with show_phases(console, "plan") as watch:
        forecast = open_forecast(request, console.say, watch)
        _list_shards(forecast, console, watch, as_json=screen.json)
    if not console.quiet or screen.json:  # otherwise, nobody reads the estimate
        tune_process(request.encode)
        with stop_on_signals(console) as stop, show_phases(console, "plan", stop) as watch:
            watch(Phase("reading and encoding a sample"))
            estimate = forecast.estimate(request.encode.make_control(stop))
        if stop.exit_code is not None:
            return stop.exit_code
        if screen.json:
            console.print_json(forecast_to_json(forecast, estimate))
        else:
            console.print_result("\n".join(describe_forecast(forecast, estimate)))
    return _choose_exit(forecast, reports_work=reports_work)


def _list_shards(forecast: ShardForecast, console: Console, watch: Watch, *, as_json: bool) -> None:
    from dinac_cli.jobs.executor.phase import watch_items
    from dinac_cli.jobs.shards.shard_states import ShardState

    problems = (ShardState.FAILED, ShardState.CONFLICT)
    shards = watch_items(forecast.list_shards(), watch, "comparing with OUT", forecast.shards)
    with closing(FileLines(console)) as lines:
        for planned in shards:
            if planned.state in problems:
                lines.add(Topic.FAILURE, planned.label, planned.reason or "")
            elif console.verbose:
                reason = f": {planned.reason}" if planned.reason else ""
                console.say(f"{planned.state.value} {planned.label}{reason}")
            if as_json:
                console.print_json(planned.to_json())


def _choose_exit(forecast: ShardForecast, *, reports_work: bool) -> Exit:
    from dinac_cli.jobs.shards.shard_states import TODO, ShardState

    reported = [ShardState.FAILED, ShardState.CONFLICT, *(TODO if reports_work else ())]
    totals = forecast.totals
    has_reported = any(totals.counts[state].shards for state in reported)
    return Exit.FAILURES if has_reported or totals.failed else Exit.DONE


def describe_forecast(forecast: ShardForecast, estimate: ShardEstimate) -> Iterator[str]:
    """Yields the plan as lines."""
    yield from align(list(_tabulate(forecast)))
    yield from _describe_images(forecast)
    if forecast.buckets is not None:
        yield from _describe_buckets(forecast.buckets)
    todo = forecast.totals.todo
    if not todo.shards:
        yield "nothing to encode"
        return
    yield _describe_work(forecast, estimate)
    for problem in estimate.problems:
        yield f"not in the sample: {problem}"
    yield from _describe_speed(forecast, estimate)
    if forecast.demand is not None:
        yield f"Ray: {_count(todo.shards, 'task')}, each with {forecast.demand}"
    yield from _describe_traffic(forecast)


def _tabulate(forecast: ShardForecast) -> Iterator[list[str]]:
    from dinac_cli.jobs.shards.shard_states import ShardState

    yield ["state", "shards", "images", "bytes in", "bytes out"]
    rare = (ShardState.DAMAGED, ShardState.RETRIED, ShardState.CONFLICT)
    for state, count in forecast.totals.counts.items():
        if state in rare and not count.shards:
            continue
        images = "-" if count.unknown else str(count.images)
        is_done = state is ShardState.DONE
        bytes_in = "-" if is_done else format_size(count.bytes_in)
        bytes_out = format_size(count.bytes_out) if is_done else "-"
        yield [state.value, str(count.shards), images, bytes_in, bytes_out]


def _describe_images(forecast: ShardForecast) -> Iterator[str]:
    plan, totals = forecast.setup.plan, forecast.totals
    if plan.changed:
        yield f"changed since they were encoded: {count_images(plan.changed)}"
    if plan.vanished:
        records = "its record stays" if plan.vanished == 1 else "their records stay"
        lost = f", but not in the shards to encode, where {count_images(totals.gone)} will fail"
        yield (
            f"gone from the inputs: {count_images(plan.vanished)}; {records}"
            f"{lost if totals.gone else ''}"
        )
    if totals.failed:
        shards = _count(totals.failed_shards, "shard")
        yield (
            f"failed in earlier runs: {count_images(totals.failed)}; --retry-failed would encode "
            f"{shards} with {count_images(totals.retried_images)} again"
        )
    if totals.skipped:
        yield f"skipped in earlier runs: {count_images(totals.skipped)}"
    if plan.inputs.masks is not None and plan.unmasked:
        images = None if plan.inputs.archives else plan.loose.images
        yield describe_unmasked(plan.unmasked, images, plan.inputs.masks)


def _describe_buckets(counts: BucketCounts) -> Iterator[str]:
    """Yields the buckets of the images to encode, and why some images are not counted."""
    options = counts.options
    yield from advise_on_sizes(
        "{} would be scaled up",
        counts.upscaled,
        0 if options.skip_small else counts.small,
        options.geometry,
    )
    yield from describe_buckets(counts.sizes)
    if options.skip_small and counts.small:
        yield f"skipped because they are smaller than their bucket: {count_images(counts.small)}"
    if counts.decoded:
        yield f"skipped because dinac decoded them: {count_images(counts.decoded)}"
    if counts.unreadable:
        yield (
            f"of unknown bucket: {count_images(counts.unreadable)}, such as {counts.first_problem}"
        )
    if counts.remote:
        yield (
            f"not in the table of buckets: {count_images(counts.remote)} at URLs; the sizes are "
            "known once a run has downloaded them"
        )
    if counts.archives:
        yield (
            f"not in the table of buckets: the images of {_count(counts.archives, 'archive')}; a "
            "plan does not read archives to their end"
        )


def _describe_work(forecast: ShardForecast, estimate: ShardEstimate) -> str:
    todo = forecast.totals.todo
    shards = f"{_count(todo.shards, 'shard')} to encode"
    if estimate.images is None:
        return f"{shards}, {format_size(todo.bytes_in)} in; the number of images is unknown"
    about = "" if estimate.is_counted else "about "
    images = (
        f"{shards} with {about}{count_images(estimate.images)}, {format_size(todo.bytes_in)} in"
    )
    if estimate.image_bytes is None or estimate.bytes_out is None:
        return f"{images}; the size of their records is {estimate.bytes_basis}"
    return (
        f"{images}; about {format_size(estimate.bytes_out)} out, at "
        f"{format_size(estimate.image_bytes)} an image ({estimate.bytes_basis})"
    )


def _describe_speed(forecast: ShardForecast, estimate: ShardEstimate) -> Iterator[str]:
    speed = estimate.speed
    if speed.seconds is None:
        yield f"time: not estimated ({speed.basis})"
    else:
        limit = f"; limited by: {speed.limit}" if speed.limit else ""
        yield f"time: about {format_duration(speed.seconds)} ({speed.basis}){limit}"
    yield from _describe_device(speed, forecast.process_cpus)
    if forecast.setup.plan.store.is_remote and estimate.upload_rate is not None:
        rate = format_size(estimate.upload_rate)
        yield f"upload: limits the run below {rate} per second; the network was not measured"


def _describe_device(speed: SpeedEstimate, cpus: int) -> Iterator[str]:
    """Yields what an image costs the processor, and what keeps a device busy."""
    if speed.host_seconds is None:
        return
    yield f"processor: about {1000 * speed.host_seconds:.1f} ms of one core for each image"
    cores, processes = speed.cores, speed.count_processes(cpus)
    if cores is not None and processes is not None:
        how = "assumed" if speed.is_assumed else "measured"
        yield (
            f"each device: {_count(cores, 'core')}, such as {_count(processes, 'process')} with "
            f"{_count(cpus, 'CPU')}, for {speed.device_rate:.0f} images/s ({how})"
        )


def _describe_traffic(forecast: ShardForecast) -> Iterator[str]:
    traffic, plan = forecast.traffic, forecast.setup.plan
    yield f"objects to write: {traffic.objects}"
    source, out = traffic.source.describe(), traffic.out.describe()
    if (source, out) != ("none", "none"):
        yield f"requests, predicted, without retries: inputs {source}; OUT {out}"
    if traffic.tar_requests > 1:
        yield f"upload of a tar: about {traffic.tar_requests} PUT requests, in parts"
    if (advice := traffic.advise(plan.settings.shard_size)) is not None:
        yield advice


def forecast_to_json(forecast: ShardForecast, estimate: ShardEstimate) -> dict[str, Any]:
    """Returns the summary object of a plan of shards."""
    from dinac_cli.jobs.shards.shard_states import ShardState

    totals, plan, speed = forecast.totals, forecast.setup.plan, estimate.speed
    demand = forecast.demand
    traffic, todo, done = forecast.traffic, totals.todo, totals.counts[ShardState.DONE]
    return {
        "summary": True,
        "shards": {state.value: count.shards for state, count in totals.counts.items()},
        "images_done": done.images,
        "images_to_encode": estimate.images,
        "images_counted": estimate.is_counted,
        "images_changed": plan.changed,
        "images_gone": plan.vanished,
        "images_failed": totals.failed,
        "images_skipped": totals.skipped,
        **_unmasked_to_json(plan),
        **({} if forecast.buckets is None else _buckets_to_json(forecast.buckets)),
        "retry_failed": {"shards": totals.failed_shards, "images": totals.retried_images},
        "bytes_in": todo.bytes_in,
        "bytes_done": done.bytes_out,
        "bytes_estimated": estimate.bytes_out,
        "bytes_basis": estimate.bytes_basis,
        "sampled": estimate.sampled,
        "sample_problems": list(estimate.problems),
        "seconds_estimated": speed.seconds,
        "seconds_basis": speed.basis,
        "tried": speed.tried,
        "limit": speed.limit,
        "core_seconds_per_image": speed.host_seconds,
        "device_images_per_second": speed.device_rate,
        "device_rate_assumed": speed.is_assumed,
        "cores_per_device": speed.cores,
        "processes_per_device": speed.count_processes(forecast.process_cpus),
        "cpus_per_process": forecast.process_cpus,
        "ray": None
        if demand is None
        else {
            "tasks": todo.shards,
            "cpus_per_task": demand.cpus,
            "gpus_per_task": float(demand.gpus),
            "uses_gpus": demand.may_use_gpus,
        },
        "upload_bytes_per_second": estimate.upload_rate,
        "objects_to_write": traffic.objects,
        "requests_of_a_tar": traffic.tar_requests,
        "requests_predicted": {"inputs": asdict(traffic.source), "out": asdict(traffic.out)},
        "advice": traffic.advise(plan.settings.shard_size),
    }


def _unmasked_to_json(plan: ShardPlan) -> dict[str, int | None]:
    """Returns the number of images without a mask: null if images in archives may be more."""
    if plan.inputs.masks is None:
        return {}
    return {"unmasked": None if plan.inputs.archives else plan.unmasked}


def _buckets_to_json(counts: BucketCounts) -> dict[str, Any]:
    return {
        "buckets": buckets_to_json(counts.sizes),
        "buckets_complete": counts.is_complete,
        "upscaled": counts.upscaled,
        "too_small": counts.small,
    }


def _count(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
