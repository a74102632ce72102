"""Numba kernels on torch's own threads.

Numba's threading layers do not suit a library inside a served, forked program: `workqueue` aborts when two Python
threads enter it, `omp` aborts in a forked child, and either one is a second pool beside torch's, whose idle threads
spin on the cores for a while after each torch operation. (Measured on two cores with DCNv3 right after a `linear`: the
second thread of a separate pool gains nothing.) Kernels therefore run in the OpenMP team of torch itself, and
`torch.set_num_threads` governs both. As in torch, two Python threads have a team each. Where torch's OpenMP has no GNU
interface (macOS, Windows), and in a forked child, where no OpenMP team survives, Python threads do the same work.

A kernel takes an int64 array that holds one zero as its first argument, and fetches units of work from it with `take`
until none is left. It returns nothing, raises nothing, and writes the result of each unit to a place of its own, so
results do not depend on the number of threads.

Each kernel has a function `_NAME_team` beside it that does nothing but `in_team(openmp, threads, kernel, args)`: Numba
caches compiled code on disk by function, so a generic one would be compiled again in each process.

State of this module: the pool of Python threads, made once per process.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from upernet.ops.runtime.openmp import parallel
from upernet.ops.runtime.waiting import adapt_waiting

MAX_NESTED = 8  # kernels that call each other; each is compiled and cached by itself


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="upernet-ops")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


def jit(function: Callable[..., Any]) -> Any:
    """Compile a kernel with `numba.njit`, without the GIL, and cache it on disk if any location is writable.

    Numba tries NUMBA_CACHE_DIR, then `__pycache__` beside the source, then the user's cache directory.
    """
    compile_ = functools.partial(numba.njit, nogil=True, error_model="numpy")
    try:
        return compile_(cache=True)(function)
    except RuntimeError:  # no writable location
        return compile_()(function)


@intrinsic
def take(typing: Any, counter: Any) -> Any:
    """Return the number of the next unit of work; no two threads get the same."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = context.make_array(counter)(context, builder, args[0]).data
        return builder.atomic_rmw("add", address, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), generate


@intrinsic
def in_team(typing: Any, openmp: Any, threads: Any, kernel: Any, args: Any) -> Any:
    """Call kernel(*args) once in each of `threads` threads; `openmp` is the address of GOMP_parallel."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        call = kernel.get_call_type(context.typing_context, args.types, {})
        compiled = kernel.dispatcher.get_compile_result(call)
        context.active_code_library.add_linking_library(compiled.library)

        pointer, integer = ir.IntType(8).as_pointer(), ir.IntType(32)
        shared = cgutils.alloca_once_value(builder, values[3])
        body = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [pointer]), builder.function.name + ".thread")
        body.linkage = "internal"
        inner = ir.IRBuilder(body.append_basic_block())
        arguments = cgutils.unpack_tuple(inner, inner.load(inner.bitcast(body.args[0], shared.type)))
        context.call_internal_no_propagate(inner, compiled.fndesc, call, arguments)
        inner.ret_void()

        region = ir.FunctionType(ir.VoidType(), [body.type, pointer, integer, integer])
        flags = ir.Constant(integer, 0)
        address = builder.inttoptr(values[0], region.as_pointer())
        builder.call(address, [body, builder.bitcast(shared, pointer), values[1], flags])
        return context.get_dummy_value()

    return types.none(types.intp, types.int32, kernel, args), generate


def run(kernel: Any, team: Any, units: int, *args: Any) -> None:
    """Run `units` units of work of kernel(counter, *args) on `torch.get_num_threads()` threads.

    Args:
        kernel: the compiled kernel.
        team: the function beside it that calls `in_team(openmp, threads, kernel, args)`.
        units: how many units of work there are.
        args: the kernel's arguments after the counter.
    """
    adapt_waiting()
    args = (np.zeros(1, np.int64), *args)
    threads = min(torch.get_num_threads(), units)
    if threads <= 1:
        _call(kernel, *args)
    elif address := parallel():
        _call(team, address, threads, args)
    else:
        helpers = [_pool().submit(_call, kernel, *args) for _ in range(threads - 1)]
        _call(kernel, *args)
        for helper in helpers:
            if not helper.cancel():  # a helper that has not begun has nothing left to do
                helper.result()


def _call(function: Any, *args: Any) -> None:
    """Call a kernel even if the disk is full: Numba compiles it and keeps the result, but fails to write its cache."""
    for _ in range(MAX_NESTED):
        try:
            return function(*args)
        except OSError:  # nothing has run yet; next time, the function is found compiled
            continue
    function(*args)
