"""The part of the tests of requests that runs in a spawned process; imports little by itself."""

from __future__ import annotations

import pickle
from typing import Any

from dinac_cli.jobs.request import run_request
from dinac_cli.jobs.results import FileResult


def receive_and_run(pickled: list[bytes]) -> tuple[list[bytes], list[FileResult]]:
    """Unpickles requests and runs the first; returns all of them pickled again, and its results."""
    requests: list[Any] = [pickle.loads(data) for data in pickled]
    return [pickle.dumps(request) for request in requests], list(run_request(requests[0]))
