"""Predicts a run into shards, without running it. Writes nothing. Does not import torch.

Lists OUT and the inputs once. No request looks at a single image, except for a sample of them.
With buckets, also reads the headers of all local images to encode.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from dinac_cli.codec.compute import refuse_devices
from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.codec.machine import count_processors
from dinac_cli.errors import DeviceError, MissingLibraryError, ModelError
from dinac_cli.jobs.executor.cluster import USUAL_CPUS, Demand
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.phase import Watch, ignore_phase
from dinac_cli.jobs.held import HeldRecord
from dinac_cli.jobs.model_choice import choose_local_encoder, open_encoder
from dinac_cli.jobs.plan import Fate, Plan, PlannedFile, PlanRequest
from dinac_cli.jobs.request import Announce, keep_quiet
from dinac_cli.jobs.shards.bucket_counts import BucketCounts
from dinac_cli.jobs.shards.sample_images import Probe, ProbeChoice
from dinac_cli.jobs.shards.shard_run import ShardSetup, choose_cluster, prepare_shards
from dinac_cli.jobs.shards.shard_states import (
    PlannedShard,
    ShardState,
    ShardTotals,
    plan_shards,
)
from dinac_cli.jobs.shards.speed import (
    SampleSizes,
    SpeedEstimate,
    SpeedTrial,
    assume_speed,
    measure_samples,
)
from dinac_cli.jobs.shards.traffic import Traffic
from dinac_cli.models.registry import choose_default

MEMBER_BYTES = 768
"""What a file in a tar takes beside its content: its header, and on average half a block."""


@dataclass(frozen=True, kw_only=True)
class ShardEstimate:
    """What a plan cannot know, and predicts. None stands for an unknown number.

    `images` is the number of images to encode. If `is_counted` is not set, those in archives are
    estimated. Each takes about `image_bytes` in OUT; `bytes_basis` says how that was found.
    `sampled` images were read. `problems` say what could not be read.
    """

    images: int | None
    is_counted: bool
    image_bytes: float | None
    bytes_basis: str
    speed: SpeedEstimate
    sampled: int = 0
    problems: tuple[str, ...] = ()

    @property
    def bytes_out(self) -> int | None:
        """The bytes that the run writes to OUT."""
        if self.images is None or self.image_bytes is None:
            return None
        return round(self.images * self.image_bytes)

    @property
    def upload_rate(self) -> float | None:
        """The bytes per second that OUT must take so that writing does not limit the run."""
        if self.bytes_out is None or not self.speed.seconds:
            return None
        return self.bytes_out / self.speed.seconds


def open_forecast(
    request: PlanRequest, announce: Announce = keep_quiet, watch: Watch = ignore_phase
) -> ShardForecast:
    """Checks a request that needs shards, and lists OUT and the inputs. Downloads nothing.

    Raises UsageError if the request names several devices. Otherwise, raises UsageError,
    ModelError, OutputError, InputError or StorageError only if encode would raise the same error.
    """
    refuse_devices(request.encode.model.device, "a plan")

    def choose(held: HeldRecord | None, companions: Collection[str]) -> ModelHandle:
        resolved = choose_local_encoder(request.encode.model, held)
        return open_encoder(resolved, DeviceChoice(), companions)

    setup = prepare_shards(request.encode, announce, choose)
    setup.plan.make(watch)
    return ShardForecast(request, setup)


@dataclass
class ShardForecast:
    """A plan of shards. Take all of `list_shards`, then `estimate`; then everything is counted.

    `buckets` is None if the run has none.
    """

    request: PlanRequest
    setup: ShardSetup
    totals: ShardTotals = field(default_factory=ShardTotals, init=False)
    traffic: Traffic = field(default_factory=Traffic, init=False)
    buckets: BucketCounts | None = field(default=None, init=False)
    _probe: ProbeChoice = field(default_factory=ProbeChoice, init=False)

    def __post_init__(self) -> None:
        if self.setup.options.geometry.buckets is not None:
            self.buckets = BucketCounts(self.setup.options)

    @property
    def demand(self) -> Demand | None:
        """What each task asks of the Ray cluster; None if the run uses none."""
        encode = self.request.encode
        return Demand.of(choose_cluster(encode)) if encode.engine == "ray" else None

    @property
    def process_cpus(self) -> int:
        """The cores of each process: as many as the user says, or as one usually keeps busy."""
        return self.request.encode.cluster.cpus_per_process or USUAL_CPUS

    @property
    def shards(self) -> int:
        """The number of shards."""
        return self.setup.plan.shards

    def list_shards(self) -> Iterator[PlannedShard]:
        """Yields each shard with its state, and counts it. Raises InputError, StorageError."""
        for planned in plan_shards(self.setup.plan):
            self.totals.add(planned)
            self.traffic.add(self.setup.plan, planned)
            self._probe.add(planned)
            if self.buckets is not None:
                self.buckets.add(planned)
            yield planned

    def estimate(self, control: RunControl) -> ShardEstimate:
        """Reads a sample, and encodes it unless the plan is quick. Then finishes `traffic`."""
        setup = self.setup
        probe = self._probe.read(setup.choice)
        sizes = measure_samples(probe, setup.model, setup.options, setup.choice)
        images = self._count_images(probe.images_per_byte)
        speed = self._estimate_speed(probe, sizes, images, control)
        image_bytes, basis = self._estimate_bytes(sizes, speed.record_bytes)
        todo = self.totals.todo
        estimate = ShardEstimate(
            images=images,
            is_counted=not todo.unknown,
            image_bytes=image_bytes,
            bytes_basis=basis,
            speed=speed,
            sampled=0 if sizes is None else sizes.images,
            problems=tuple(probe.problems),
        )
        bytes_out = estimate.bytes_out
        self.traffic.finish(setup.plan, bytes_out / todo.shards if bytes_out else None)
        return estimate

    def _count_images(self, images_per_byte: float | None) -> int | None:
        todo = self.totals.todo
        if not todo.unknown:
            return todo.images
        if images_per_byte is None:
            return None
        return todo.images + round(todo.unknown_bytes * images_per_byte)

    def _estimate_speed(
        self,
        probe: Probe,
        sizes: SampleSizes | None,
        images: int | None,
        control: RunControl,
    ) -> SpeedEstimate:
        encode, rate = self.request.encode, self.request.model_rate
        if sizes is None or not images:
            why = "no image of the sample can be read" if self.totals.todo.shards else ""
            return SpeedEstimate(seconds=None, basis=why)
        is_here = encode.engine == "here"
        if rate is not None:
            return assume_speed(rate, images, sizes, count_processors() if is_here else None)
        reasons = {
            "--quick": self.request.quick,
            "compiled models are not tried": encode.model.compiled,
            "the speed of the cluster is unknown here; give --model-rate": not is_here,
        }
        why = next((reason for reason, holds in reasons.items() if holds), "")
        if not why:
            try:
                return self._open_trial(probe, sizes).estimate(images, control)
            except (ModelError, DeviceError, MissingLibraryError) as exc:
                why = str(exc)
        return SpeedEstimate(seconds=None, basis=why, host_seconds=sizes.host_seconds)

    def _open_trial(self, probe: Probe, sizes: SampleSizes) -> SpeedTrial:
        encode, setup = self.request.encode, self.setup
        default = choose_default(encode.model.device)
        resolved = choose_local_encoder(encode.model, setup.held, default)
        return SpeedTrial(
            probe=probe,
            sizes=sizes,
            model=open_encoder(resolved, encode.model, setup.options.companions),
            options=setup.options,
            choice=setup.choice,
        )

    def _estimate_bytes(
        self, sizes: SampleSizes | None, record_bytes: float | None
    ) -> tuple[float | None, str]:
        """Returns the bytes that an image takes in a tar of OUT, and how they were found."""
        done = self.totals.counts[ShardState.DONE]
        if done.images:
            return done.bytes_out / done.images, "from finished shards"
        if sizes is None:
            return None, "unknown until images are read"
        beside = MEMBER_BYTES + sizes.kept_bytes
        if record_bytes is not None:
            return record_bytes + beside, f"from a sample of {sizes.images}"
        return self._guess_record(sizes) + beside, "typical of this precision"

    def _guess_record(self, sizes: SampleSizes) -> int:
        options = self.setup.options
        width = self.setup.model.traits.feature_dim if options.features else None
        plan = Plan(
            options.precision,
            posterior=options.posterior,
            token_width=width or 0,
            with_twins=options.geometry.flip,
        )
        plan.add(PlannedFile("", Fate.NEW, pixels=round(sizes.pixels)))
        return plan.bytes_to_write
