"""The share of a node that each process of a run on a cluster takes."""

from __future__ import annotations

import pytest

from dinac_cli.errors import ClusterError, UsageError
from dinac_cli.jobs.executor.cluster import (
    Cluster,
    Node,
    Share,
    choose_share,
    count_in_flight,
    describe,
)

HEAD = Node("a", "10.0.0.1", 0, 0)
SMALL = Node("b", "10.0.0.2", 1, 0)
LARGE = Node("c", "10.0.0.3", 96, 8)
NODES = (HEAD, SMALL, LARGE)


@pytest.mark.parametrize(
    ("cluster", "nodes", "share", "counts"),
    [
        (Cluster(), NODES, "2 CPUs and 1/4 GPU", [0, 0, 32]),
        (Cluster(cpus_per_process=24), NODES, "24 CPUs and 1/4 GPU", [0, 0, 4]),
        (Cluster(processes_per_gpu=1), NODES, "2 CPUs and 1 GPU", [0, 0, 8]),
        (Cluster(uses_gpus=False), NODES, "2 CPUs", [0, 0, 48]),
        (Cluster(uses_gpus=False, cpus_per_process=1), NODES, "1 CPU", [0, 1, 96]),
        (Cluster(), (HEAD, SMALL), "1 CPU", [0, 1]),
    ],
)
def test_share(cluster: Cluster, nodes: tuple[Node, ...], share: str, counts: list[int]) -> None:
    chosen = choose_share(cluster, nodes)
    assert str(chosen) == share
    assert [chosen.count_on(node) for node in nodes] == counts


@pytest.mark.parametrize(
    ("cluster", "nodes", "message"),
    [
        (
            Cluster(cpus_per_process=4),
            (HEAD, SMALL),
            "no node has room for a process of 4 CPUs: the largest node has 1 CPU; "
            "use --cpus-per-process 1",
        ),
        (
            Cluster(cpus_per_process=97),
            NODES,
            "no node has room for a process of 97 CPUs: the largest node with a GPU has 96 CPUs; "
            "use --cpus-per-process 96",
        ),
        (
            Cluster(),
            (HEAD,),
            "no node has room for a process of 1 CPU: the largest node has 0 CPUs; "
            "add a node with CPUs",
        ),
        (
            Cluster(uses_gpus=True),
            (HEAD, SMALL),
            "none of the 2 nodes of the cluster has a GPU; use --device cpu, "
            "or add a node with a GPU",
        ),
    ],
)
def test_a_process_that_fits_no_node_is_refused(
    cluster: Cluster, nodes: tuple[Node, ...], message: str
) -> None:
    with pytest.raises(ClusterError) as caught:
        choose_share(cluster, nodes)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("processes", "count"), [(None, 64), (1, 1), (31, 31), (32, 64), (1000, 64)]
)
def test_two_entries_a_process_unless_the_run_may_use_fewer(
    processes: int | None, count: int
) -> None:
    cluster = Cluster(processes=processes)
    assert count_in_flight(cluster, choose_share(cluster, NODES), NODES) == count


def test_entries_wait_for_a_node_if_all_have_left() -> None:
    share: Share = choose_share(Cluster(), (SMALL,))
    assert count_in_flight(Cluster(), share, (HEAD,)) == 2


def test_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert Cluster().find_address() == "10.0.0.1:6379"
    assert Cluster(address="local").find_address() == "local"
    for address in ("ray://10.0.0.1:10001", "http://10.0.0.1:8265"):
        with pytest.raises(UsageError, match="run dinac on a node of the cluster"):
            Cluster(address=address).find_address()
    for address in ("10.0.0.1", "locl", ":6379", "a b:6379", "10.0.0.1:port"):
        with pytest.raises(UsageError, match="expected HOST:PORT, auto or local"):
            Cluster(address=address).find_address()


def test_numbers_are_checked() -> None:
    with pytest.raises(UsageError, match="--processes-per-gpu must be 1 or more, not 0"):
        Cluster(processes_per_gpu=0)


def test_description() -> None:
    share = choose_share(Cluster(), NODES)
    room = "Ray: 1 node of 3 with room for 32 processes of 2 CPUs and 1/4 GPU each; the run uses "
    assert describe(Cluster(), share, NODES) == f"{room}32"
    assert describe(Cluster(processes=8), share, NODES) == f"{room}8"
