"""The decorators of compiled functions (kernels): Numba's `njit`, with types that a checker keeps.

A kernel is compiled when it is first called with arguments of new types, and kept on disk for later
runs. It runs without Python's lock, so that threads run at once.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compiles a function of arrays and numbers."""
    return cast(Function, numba.njit(cache=True, nogil=True)(function))


def inlined(function: Function) -> Function:
    """The same for a short function, which is put into each kernel that calls it."""
    return cast(Function, numba.njit(cache=True, nogil=True, inline="always")(function))


def thread_count() -> int:
    """How many threads to use where none are asked for: all of Numba's."""
    return int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
