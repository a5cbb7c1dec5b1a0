"""A Ray cluster of several nodes on this machine, for tests.

It lives in a process of its own, because Ray takes over signals and prints to the screen.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
STORE_BYTES = 80 * 2**20


class RayCluster:
    """A cluster with a head node of one CPU. `variables` let a driver join it.

    The name of `folder` must be short, because Ray keeps its sockets there.
    """

    def __init__(self, folder: str) -> None:
        # "localhost" without a token would be open to every user of this machine.
        self.variables = {
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_TMPDIR": folder,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._log = Path(folder, "cluster.log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.jobs.ray_cluster"],
                env=os.environ | self.variables,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.address: str = self._read()["address"]

    def add_node(self, cpus: int = 1, gpus: int = 0, **variables: str) -> int:
        """Adds a node, whose processes have further variables. Returns its number."""
        return int(self._ask(action="add", cpus=cpus, gpus=gpus, variables=variables)["number"])

    def remove_node(self, number: int, *, gracefully: bool = False) -> None:
        """Kills the processes of a node, or lets it say goodbye to the others."""
        self._ask(action="remove", number=number, gracefully=gracefully)

    def kill_head(self) -> None:
        """Kills the processes of the head node, which ends the cluster."""
        self._ask(action="kill head")

    def close(self) -> None:
        """Ends all processes of the cluster."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._process.stdout, suppress(OSError):
            self._process.stdin.close()
            self._process.wait(60)

    def _ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or '{"error": "end"}')
        assert "error" not in answer, self._log.read_text()
        return answer


def main() -> None:
    """Obeys the lines of standard input until it ends."""
    from ray.cluster_utils import Cluster

    os.dup2(2, 1)  # Ray prints; the answers go to the copy
    node = {"object_store_memory": STORE_BYTES}
    head = {**node, "num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes: list[Any] = []
    answer({"address": cluster.address})
    for line in sys.stdin:
        question = json.loads(line)
        if question["action"] == "add":
            added = cluster.add_node(
                **node,
                num_cpus=question["cpus"],
                num_gpus=question["gpus"],
                env_vars=question["variables"],
            )
            nodes.append(added)
            answer({"number": len(nodes) - 1})
        elif question["action"] == "kill head":
            cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
            answer({})
        else:
            cluster.remove_node(nodes[question["number"]], allow_graceful=question["gracefully"])
            answer({})
    cluster.shutdown()


def answer(message: dict[str, Any]) -> None:
    os.write(ANSWERS, (json.dumps(message) + "\n").encode())


if __name__ == "__main__":
    ANSWERS = os.dup(1)
    main()
