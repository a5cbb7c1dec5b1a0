"""What a run asks of a Ray cluster, and how many processes the nodes have room for.

Plain data and arithmetic, without Ray.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from dinac_cli.errors import ClusterError, UsageError

LOCAL = "local"
"""The address of a cluster that a run starts on this machine, and stops at its end."""

_HOST_PORT = re.compile(r"[^\s/]+:[0-9]{1,5}")

USUAL_CPUS = 2
"""The CPUs of a process, if a node has that many."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The cluster of a run, and what each process of the run takes there.

    `address` is that of the head node (HOST:PORT), "auto" for the cluster that this machine is part
    of, or `LOCAL`; None stands for RAY_ADDRESS. At most `processes` entries are computed at a time;
    if it is None, as many as the cluster has room for. If the run uses GPUs, each process takes
    1 / `processes_per_gpu` of a GPU. A process takes `cpus_per_process` CPUs; if it is None, 2, or
    1 on nodes that have only 1. If `uses_gpus` is None, the run uses GPUs if a node has one.
    """

    address: str | None = None
    processes: int | None = None
    processes_per_gpu: int = 4
    cpus_per_process: int | None = None
    uses_gpus: bool | None = None

    def __post_init__(self) -> None:
        """Raises UsageError if a number is less than 1."""
        for name in ("processes", "processes_per_gpu", "cpus_per_process"):
            number = getattr(self, name)
            if number is not None and number < 1:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} must be 1 or more, not {number}")

    def find_address(self) -> str:
        """Returns the address. Raises UsageError if it is missing or invalid, or of Ray Client."""
        address = self.address or os.environ.get("RAY_ADDRESS", "")
        if not address:
            raise UsageError(
                "--engine ray needs a cluster; use --address HOST:6379 or RAY_ADDRESS to join "
                f"one, or --address {LOCAL} to start one on this machine"
            )
        if "://" in address:
            raise UsageError(
                f"{address} is an address for Ray Client or Ray Jobs; run dinac on a node of the "
                "cluster, with --address auto"
            )
        if address not in ("auto", LOCAL) and not _HOST_PORT.fullmatch(address):
            raise UsageError(f"--address {address}: expected HOST:PORT, auto or {LOCAL}")
        return address


@dataclass(frozen=True)
class Node:
    """A node of a cluster: its identity and address, and all of its CPUs and GPUs."""

    identity: str
    address: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Share:
    """What one process takes of a node. `gpus` is a part of one GPU, or 0."""

    cpus: int
    gpus: Fraction

    def count_on(self, node: Node) -> int:
        """Returns how many processes a node has room for if nothing else runs there."""
        count = int(node.cpus) // self.cpus
        return min(count, int(node.gpus) * self.gpus.denominator) if self.gpus else count

    def __str__(self) -> str:
        cpus = _count(self.cpus, "CPU")
        return f"{cpus} and {self.gpus} GPU" if self.gpus else cpus


@dataclass(frozen=True)
class Demand:
    """What each task asks of a cluster whose nodes are unknown. `gpus` is a part of one GPU.

    If `cpus` is None, it is `USUAL_CPUS`, or 1 on nodes with only 1. If `may_use_gpus` is None, the
    tasks use GPUs if a node has one.
    """

    cpus: int | None
    gpus: Fraction
    may_use_gpus: bool | None

    @classmethod
    def of(cls, cluster: Cluster) -> Demand:
        """Returns the demand of each task of a run."""
        gpus = Fraction(1, cluster.processes_per_gpu)
        return cls(cluster.cpus_per_process, gpus, cluster.uses_gpus)

    def __str__(self) -> str:
        usual = f"{USUAL_CPUS} CPUs (1 on nodes with only 1)"
        cpus = usual if self.cpus is None else _count(self.cpus, "CPU")
        if self.may_use_gpus is False:
            return cpus
        condition = "" if self.may_use_gpus else ", if a node has a GPU"
        return f"{cpus} and {self.gpus} GPU{condition}"


def choose_share(cluster: Cluster, nodes: Sequence[Node]) -> Share:
    """Returns what each process takes. Raises ClusterError if no node has room for one."""
    uses_gpus = cluster.uses_gpus
    if uses_gpus is None:
        uses_gpus = any(node.gpus >= 1 for node in nodes)
    able = [node for node in nodes if not uses_gpus or node.gpus >= 1]
    if not able:
        raise ClusterError(
            f"none of the {_count(len(nodes), 'node')} of the cluster has a GPU; use --device cpu, "
            "or add a node with a GPU"
        )
    most_cpus = int(max(node.cpus for node in able))
    cpus = cluster.cpus_per_process or max(1, min(USUAL_CPUS, most_cpus))
    if cpus > most_cpus:
        kind = " with a GPU" if uses_gpus else ""
        advice = f"use --cpus-per-process {most_cpus}" if most_cpus else "add a node with CPUs"
        raise ClusterError(
            f"no node has room for a process of {_count(cpus, 'CPU')}: the largest node{kind} has "
            f"{_count(most_cpus, 'CPU')}; {advice}"
        )
    return Share(cpus, Fraction(1, cluster.processes_per_gpu) if uses_gpus else Fraction(0))


def count_in_flight(cluster: Cluster, share: Share, nodes: Sequence[Node]) -> int:
    """Returns how many entries the cluster may hold at a time.

    Two for each process, so that no process waits for its next entry; but if the cluster has room
    for more processes than the run may use, one for each.
    """
    slots = max(1, sum(share.count_on(node) for node in nodes))
    if cluster.processes is not None and cluster.processes < slots:
        return cluster.processes
    return 2 * slots


def describe(cluster: Cluster, share: Share, nodes: Sequence[Node]) -> str:
    """Says how many processes compute on how many nodes."""
    counts = [count for node in nodes if (count := share.count_on(node))]
    processes = min(sum(counts), cluster.processes or sum(counts))
    where = _count(len(counts), "node")
    return (
        f"Ray: {where} of {len(nodes)} with room for {sum(counts)} processes of {share} each; "
        f"the run uses {processes}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
