"""Compiles functions with torch, once per image size. Torch caches compiled code on disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

_SIZES_AT_MOST = 2**20


def compile_for_sizes(function: Callable[P, R]) -> Callable[P, R]:
    """Returns a form of `function` that is compiled once per combination of input shapes.

    The first call with a combination takes 5 to 15 seconds. If torch's cache has the compiled code,
    this call takes one second. The first call raises RuntimeError if there is no C++ compiler.
    """
    compiled = torch.compile(function, dynamic=False)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        # By default, torch stops compiling after a few combinations. Code that is not compiled
        # rounds differently, but the result for an image must not depend on earlier images.
        with torch._dynamo.config.patch(
            recompile_limit=_SIZES_AT_MOST, accumulated_recompile_limit=_SIZES_AT_MOST
        ):
            return compiled(*args, **kwargs)

    return call
