"""The nodes of a Ray cluster, and their check before a run begins."""

from __future__ import annotations

import pickle
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import dinac_cli
from dinac_cli.errors import ClusterError, DinacError
from dinac_cli.jobs.executor.cluster import Node, Share
from dinac_cli.jobs.executor.ray_task import (
    Facts,
    TaskSetup,
    find_differences,
    inspect_node,
    read_versions,
)

INSPECT_SECONDS = 120.0
"""A node must answer the check within this time."""

_POLL_SECONDS = 0.1


def list_nodes(ray: Any) -> list[Node]:
    """Returns the nodes that are alive."""
    return [
        Node(
            node["NodeID"],
            node["NodeManagerAddress"],
            node["Resources"].get("CPU", 0),
            node["Resources"].get("GPU", 0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def inspect_nodes(
    ray: Any, nodes: Sequence[Node], tasks: TaskSetup, share: Share, look: Callable[[], object]
) -> Facts:
    """Checks every node, and returns the facts that all of them have.

    Nodes that have left the cluster do not count. Calls `look` while it waits. Raises
    ClusterError, which names all nodes that differ or fail the check.
    """
    answers = _ask(ray, nodes, tasks, share, look)
    if not answers:
        raise ClusterError("all nodes left the cluster; check it with `ray status`")
    expected = _choose_expected([a for a in answers.values() if not isinstance(a, str)])
    problems = {node: _find_problem(answer, expected) for node, answer in answers.items()}
    odd = [f"{node.address} ({problem})" for node, problem in problems.items() if problem]
    if odd:
        cannot = "1 node cannot" if len(odd) == 1 else f"{len(odd)} nodes cannot"
        raise ClusterError(
            f"{cannot} take part: {', '.join(odd)}; correct this there, or leave such nodes out "
            "of the cluster"
        )
    return expected


def _ask(
    ray: Any, nodes: Sequence[Node], tasks: TaskSetup, share: Share, look: Callable[[], object]
) -> dict[Node, Facts | str]:
    """Returns the facts of each node, or why there are none. Leaves out nodes that are gone."""
    asked = _submit(ray, nodes, tasks, share)
    silence = f"does not answer within {INSPECT_SECONDS:.0f} s"
    answers: dict[Node, Facts | str] = dict.fromkeys(nodes, silence)
    waiting, deadline = list(asked), time.monotonic() + INSPECT_SECONDS
    while waiting and time.monotonic() < deadline:
        look()
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=_POLL_SECONDS)
        for ref in ready:
            if (answer := _read_answer(ray, ref)) is None:
                del answers[asked[ref]]
            else:
                answers[asked[ref]] = answer
    return answers


def _submit(ray: Any, nodes: Sequence[Node], tasks: TaskSetup, share: Share) -> dict[Any, Node]:
    """Starts the check on each node, also if other work occupies the node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # A process that has looked for GPUs without having one would not find one later.
    most_calls = 1 if share.gpus else 0
    task = ray.remote(num_cpus=0, max_calls=most_calls, max_retries=1)(inspect_node)
    pickled = ray.put(pickle.dumps(tasks))
    asked = {}
    for node in nodes:
        place = NodeAffinitySchedulingStrategy(node.identity, soft=False)
        asked[task.options(scheduling_strategy=place).remote(pickled)] = node
    return asked


def _read_answer(ray: Any, ref: Any) -> Facts | str | None:
    errors = ray.exceptions
    try:
        answer: Facts | DinacError = ray.get(ref)
    except errors.RayTaskError as exc:
        return f"cannot run dinac {dinac_cli.__version__}: {quote_cause(exc)}"
    except (errors.TaskUnschedulableError, errors.NodeDiedError):
        return None
    except errors.RayError as exc:
        return f"the check ended with {type(exc).__name__}"
    return str(answer) if isinstance(answer, DinacError) else answer


def _choose_expected(answers: Sequence[Facts]) -> Facts:
    """Returns what every node must have: the versions of this process, and of the other facts
    those that most nodes have. The driver may run on a machine that computes nothing."""
    expected: dict[str, str] = {}
    for name in dict.fromkeys(name for answer in answers for name in answer):
        values = Counter(answer[name] for answer in answers if name in answer)
        expected[name] = values.most_common(1)[0][0]
    mine = read_versions()
    return expected | {name: mine[name] for name in ("dinac", "Python")}


def _find_problem(answer: Facts | str, expected: Facts) -> str:
    """Says why a node cannot take part; "" if it can."""
    return answer if isinstance(answer, str) else ", ".join(find_differences(answer, expected))


def quote_cause(exc: BaseException) -> str:
    """Returns the last line of a remote error, which names the cause."""
    lines = [line for line in str(exc).splitlines() if line.strip()]
    return lines[-1].strip()[:160] if lines else type(exc).__name__
