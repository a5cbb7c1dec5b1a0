"""Compilation by torch, once for each image size; torch caches the results on disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

_SIZES_AT_MOST = 2**20


def compile_for_sizes(function: Callable[P, R]) -> Callable[P, R]:
    """Returns `function`, compiled for every combination of input shapes on its first call.

    That call takes 5 to 15 seconds, or one second if the combination is in torch's cache on disk.
    The call raises RuntimeError if there is no C++ compiler.
    """
    compiled = torch.compile(function, dynamic=False)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        # After a few combinations torch would stop compiling, which rounds differently: the result
        # for an image must not depend on the images before it.
        with torch._dynamo.config.patch(
            recompile_limit=_SIZES_AT_MOST, accumulated_recompile_limit=_SIZES_AT_MOST
        ):
            return compiled(*args, **kwargs)

    return call
