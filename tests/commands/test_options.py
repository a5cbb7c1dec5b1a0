"""Each option is spelled once, and its choices are those of the code behind it.

Commands repeat some choices, so that --help does not import that code.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterable, Iterator
from inspect import signature
from typing import Any, get_args

import pytest
import typer

from dinac_cli import commands
from dinac_cli.bench.contenders import FLUX2
from dinac_cli.cli import app
from dinac_cli.commands import bench, decode, export, options, train
from dinac_cli.commands.models import models
from dinac_cli.container.header import PRECISIONS
from dinac_cli.images.formats import OUTPUT_FORMATS
from dinac_cli.jobs.export import FORMATS
from dinac_cli.models.aliases import AUTO, HUB_ALIASES, NANO
from dinac_cli.models.device import _DTYPES
from dinac_cli.models.dinac.config import RELEASED
from dinac_cli.models.dinac.sampling import SAMPLERS
from dinac_cli.models.interface import SCHEDULES
from dinac_cli.training.session import KLT

MODULES = [
    f"{commands.__name__}.{module.name}" for module in pkgutil.iter_modules(commands.__path__)
]


def list_spelled() -> Iterator[tuple[str, Any]]:
    """Yields the name and the annotation of every argument and option that the modules spell."""
    for module in MODULES:
        for name, value in vars(importlib.import_module(module)).items():
            if hasattr(value, "__metadata__"):
                yield f"{module}.{name}", value


def list_used() -> Iterator[Any]:
    """Yields the annotations of all parameters of all commands."""
    for group in (app, models):
        for command in group.registered_commands:
            assert command.callback is not None
            parameters = signature(command.callback, eval_str=True).parameters.values()
            yield from (p.annotation for p in parameters if p.annotation is not typer.Context)


def get_info(option: Any) -> Any:
    return get_args(option)[1]


def test_no_option_is_spelled_twice() -> None:
    texts = Counter(get_info(option).help for _, option in list_spelled())
    assert len(texts) > 80
    assert [text for text, count in texts.items() if count > 1] == []


def test_every_option_is_used() -> None:
    used = {id(get_info(option)) for option in list_used()}
    assert [name for name, option in list_spelled() if id(get_info(option)) not in used] == []


@pytest.mark.parametrize(
    ("option", "choices"),
    [
        (export.ExportFormat, FORMATS),
        (decode.Format, OUTPUT_FORMATS),
        (decode.Sampler, (name.replace("_", "-") for name in SAMPLERS)),
        (decode.Schedule, SCHEDULES),
        (options.PrecisionOption, PRECISIONS),
        (options.Dtype, ("auto", *_DTYPES)),
        (options.Model, (AUTO, NANO, *HUB_ALIASES)),  # not checked: it may also be a path
        (bench.RandomWeights, RELEASED),
        (bench.Compare, (FLUX2,)),
        (train.Init, (NANO, "d2", KLT)),
    ],
)
def test_choices_are_those_of_the_code(option: Any, choices: Iterable[str]) -> None:
    info = get_info(option)
    expected = list(choices)
    assert info.autocompletion("") == expected
    if info.callback is not None and option is not options.Model:
        assert [info.callback(choice) for choice in expected] == expected
