"""Runs a task in one process and in worker processes, and compares the outcomes.

Findings are: an end other than exit code 0 or 3, a failure without one clear line, a file outside
OUT, a damaged output, a mutant without a result, a mutant that kills a worker process, and any
difference between the two runs.
"""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinac_cli.commands.screen.console import escape_unprintable
from tests.cli.conftest import read_files
from tests.cli.processes import DINAC, Finished, run_process

from .tasks import Task, must_succeed

MUTANTS_PER_RUN = 1000
PROCESSES = ("1", "2")
_SHOWN = 20

Outcome = dict[str, Any]
"""The result of one file, as `--json` shows it."""

Problem = tuple[str, str]
"""The name of a file, or "" for the run, and what is wrong with it."""


@dataclass(frozen=True)
class Program:
    """How to start the program, and the changes to its environment."""

    line: Sequence[str] = DINAC
    environment: Mapping[str, str | None] = field(default_factory=dict)


@dataclass
class Report:
    """The outcomes of a task.

    `outcomes` counts the statuses and the errors of the files. `findings` are (name of the mutant,
    problem, its bytes); for a run as a whole, the name is "run", and the bytes are all mutants.
    """

    task: str
    runs: int = 0
    mutants: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[str, str, bytes]] = field(default_factory=list)

    def describe(self) -> Iterator[str]:
        """Yields counts, outcomes, and findings as lines of text."""
        found = len(self.findings)
        yield f"{self.task}: {self.mutants} mutants, {self.runs} runs; {found} findings"
        yield "  " + ", ".join(f"{count} {name}" for name, count in self.outcomes.most_common())
        for name, problem, _ in self.findings[:_SHOWN]:
            yield f"  {name}: {problem}"


@dataclass
class Trial:
    """One run of a command: the results of its files, its outputs by name, and its problems."""

    outcomes: list[Outcome] = field(default_factory=list)
    outputs: dict[str, bytes] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def run_task(
    task: Task, count: int, seed: int, findings: Path | None, program: Program = Program()
) -> Report:
    """Puts `count` mutants through a task; writes findings to the folder `findings`."""
    report = Report(task.name)
    rng = random.Random(f"{task.name} {seed}")
    for number, start in enumerate(range(0, count, MUTANTS_PER_RUN)):
        stop = min(count, start + MUTANTS_PER_RUN)
        mutants = task.draw_mutants(rng, start, stop)
        options = task.variants[number % len(task.variants)]
        run_mutants(task, mutants, options, report, program)
        report.mutants += stop - start
    if findings is not None:
        for name, _, data in report.findings:
            findings.mkdir(exist_ok=True)
            (findings / f"{task.name}-{seed}-{name}").write_bytes(data)
    return report


def run_mutants(
    task: Task,
    mutants: Mapping[str, bytes],
    options: Sequence[str],
    report: Report,
    program: Program = Program(),
) -> None:
    """Puts the same mutants through a task with each number of processes; adds to the report."""
    trials = []
    with tempfile.TemporaryDirectory(prefix="dinac-fuzz-") as name:
        (Path(name) / "in").mkdir()
        for file, data in mutants.items():
            (Path(name) / "in" / file).write_bytes(data)
        for count in PROCESSES:
            several = ("--processes", count, "--threads", "1")
            trial = try_mutants(task, mutants, Path(name) / count, (*options, *several), program)
            trials.append(trial)
    problems = {
        (name, f"--processes {count}: {problem}")
        for count, trial in zip(PROCESSES, trials, strict=True)
        for name, problem in trial.problems
    }
    if not problems:
        problems = {(name, "the runs differ: " + problem) for name, problem in compare(*trials)}
    everything = b"".join(mutants.values())
    for name, problem in sorted(problems):
        report.findings.append((name or "run", problem, mutants.get(name, everything)))
    report.runs += len(trials)
    report.outcomes.update(str(one.get("error", one["status"])) for one in trials[-1].outcomes)


def try_mutants(
    task: Task, mutants: Mapping[str, bytes], place: Path, options: Sequence[str], program: Program
) -> Trial:
    """Runs the command of a task in the new folder `place`; checks all that needs no other run.

    The mutants are in `place / "../in"`.
    """
    place.mkdir()
    before = read_files(place.parent)
    command = (task.command, "-" if task.is_stream else "../in", "out", "--json", "-v")
    model = ("--model", "nano", "--device", "cpu", "--dtype", "f32")
    try:
        done = run_process(
            *(*command, *model, *options),
            stdin=b"".join(mutants.values()) if task.is_stream else b"",
            cwd=place,
            program=program.line,
            environment=program.environment,
        )
    except subprocess.TimeoutExpired:
        return Trial(problems=[("", "hangs")])
    if done.code not in (0, 3):
        return Trial(problems=[("", f"ended with {done.code}: {done.err[-2000:]}")])
    trial = Trial(done.objects[:-1], read_files(place / "out"))
    trial.problems += check_outcomes(task, mutants, trial.outcomes)
    trial.problems += check_messages(done, trial.outcomes)
    trial.problems += check_outputs(task, place, trial)
    after = read_files(place.parent)
    outside = {
        name: data for name, data in after.items() if not name.startswith(f"{place.name}/out/")
    }
    if outside != before:
        changed = sorted(dict(outside.items() ^ before.items()))
        trial.problems.append(("", f"changed files outside OUT: {changed}"))
    return trial


def check_outcomes(
    task: Task, mutants: Mapping[str, bytes], outcomes: Sequence[Outcome]
) -> Iterator[Problem]:
    """Yields what is wrong with the results of the files."""
    written = {one["name"] for one in outcomes if one["status"] == "written"}
    counts = Counter(find_mutant(one) for one in outcomes)
    for name in mutants:
        if not task.is_stream and counts[name] != 1 and not (task.holds_many and counts[name]):
            yield name, f"has {counts[name]} results"
        if must_succeed(name) and name not in written:
            yield name, "an undamaged record was not decoded"
    killers = [one for one in outcomes if is_killer(one)]
    for one in outcomes:
        reason = one.get("reason", "")
        # A killed worker may have written outputs without a report; they are done already then.
        if one["status"] not in ("written", "failed", *("done" for _ in killers)):
            yield find_mutant(one), f"its status is {one['status']}"
        if one["status"] == "failed" and (not reason or "\n" in reason or len(reason) > 1000):
            yield find_mutant(one), f"failed without one clear line: {reason!r}"
    for one in killers:
        yield find_mutant(one), one["reason"]


def check_messages(done: Finished, outcomes: Sequence[Outcome]) -> Iterator[Problem]:
    """Yields what is wrong with the exit code and with the lines on standard error."""
    failed = [one for one in outcomes if one["status"] == "failed"]
    if done.code != (3 if failed else 0):
        yield "", f"exit code {done.code} with {len(failed)} failures"
    lines = Counter(done.err.splitlines())
    for line in lines:
        if not line.startswith("dinac: "):
            yield "", f"a line on stderr that is no message: {line!r}"
    expected = Counter(
        escape_unprintable(f"dinac: {one['file']}: {one.get('reason')}") for one in failed
    )
    for line in expected - lines:
        yield "", f"a failure is not on stderr: {line!r}"


def check_outputs(task: Task, place: Path, trial: Trial) -> Iterator[Problem]:
    """Yields damaged outputs, and those that are in OUT or in the results only."""
    named = {one["output"]: find_mutant(one) for one in trial.outcomes if one["status"] != "failed"}
    outputs = {f"out/{name}" for name in trial.outputs}
    for output in sorted(named.keys() ^ outputs):
        yield named.get(output, ""), f"{output} is in OUT or in the results, but not in both"
    for output in sorted(named.keys() & outputs):
        try:
            task.check(place / output)
        except Exception as exc:
            yield named[output], f"{output} is damaged: {exc!r}"


def compare(first: Trial, second: Trial) -> Iterator[Problem]:
    """Yields the files whose results or outputs differ."""
    results = [
        Counter(json.dumps(one, sort_keys=True) for one in t.outcomes) for t in (first, second)
    ]
    for line in (results[0] - results[1]) + (results[1] - results[0]):
        yield find_mutant(json.loads(line)), line
    for name in first.outputs.keys() & second.outputs.keys():
        if first.outputs[name] != second.outputs[name]:
            yield "", f"the bytes of {name}"


def is_killer(outcome: Outcome) -> bool:
    """True if the file killed a worker process."""
    return str(outcome.get("reason", "")).startswith("killed the worker process")


def find_mutant(outcome: Outcome) -> str:
    """Returns the name of the mutant that a result is about. A stream has no names."""
    path = str(outcome["file"]).partition(" ")[0]  # after it, ": NAME" or " record N"
    return path.rpartition("/")[2].removesuffix(":")
