"""Functions compiled by torch, once for each size of image; results are in its cache on disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

_SIZES_AT_MOST = 2**20


def compile_for_sizes(function: Callable[P, R]) -> Callable[P, R]:
    """`function` compiled for every combination of shapes that it is called with.

    The first call with a combination takes 5 to 15 seconds, a second where torch has met it in an
    earlier run. Raises RuntimeError where there is no compiler.
    """
    compiled = torch.compile(function, dynamic=False)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        # After a few combinations torch would go on uncompiled, with other roundings: what an
        # image comes out as must not depend on those before it.
        with torch._dynamo.config.patch(
            recompile_limit=_SIZES_AT_MOST, accumulated_recompile_limit=_SIZES_AT_MOST
        ):
            return compiled(*args, **kwargs)

    return call
