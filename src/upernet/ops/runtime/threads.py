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

The functions that a kernel calls are compiled as parts of it: optimized and translated to machine code once, together
with everything that calls them, and cached on disk with the kernel.

State of this module: the pool of Python threads, made once per process, and the parts that have been compiled.
"""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.caching import FunctionCache
from numba.core.codegen import CPUCodeLibrary
from numba.core.compiler import Flags, compile_internal
from numba.core.registry import cpu_target
from numba.core.runtime.nrt import rtsys
from numba.extending import intrinsic, lower_builtin, type_callable

from upernet.ops.runtime.openmp import parallel
from upernet.ops.runtime.waiting import adapt_waiting

OPTIONS = {"nopython": True, "nogil": True, "error_model": "numpy"}


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="upernet-ops")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


class _Part(CPUCodeLibrary):
    """Code that is optimized and translated to machine code only as a part of the kernels that contain it."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True

    def function(self, name: str) -> Any:
        """Return the code of a function, as llvmlite represents it."""
        return self._final_module.get_function(name)


@functools.cache
def _compiled(function: Callable[..., Any], arguments: tuple[Any, ...], inline: bool) -> Any:
    """Compile a function for arguments of these types, as a part of kernels."""
    target: Any = cpu_target.target_context
    flags = cpu_target.options.parse_as_flags(Flags(), OPTIONS)
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    library = _Part(target.codegen(), function.__qualname__)
    collecting = gc.isenabled()
    gc.disable()  # collections would take a third of the time, and find nothing
    try:
        part = compile_internal(cpu_target.typing_context, target, library, function, arguments, None, flags, {})
    finally:
        if collecting:
            gc.enable()
    if inline:
        library.function(part.fndesc.llvm_func_name).add_function_attribute("alwaysinline")
    return part


def jit(function: Callable[..., Any], inline: bool = False) -> Any:
    """Let kernels, and functions like this one, call a function, which becomes a part of them.

    LLVM decides whether its code is repeated wherever it is called. With `inline`, it always is, which makes sense
    where a call takes about as long as the function: an array is passed as seven arguments.
    """

    @type_callable(function)
    def type_of_call(typing: Any) -> Any:
        @functools.wraps(function)  # Numba reads the names of the arguments
        def signature(*arguments: Any) -> Any:
            return _compiled(function, arguments, inline).signature

        return signature

    @lower_builtin(function, types.VarArg(types.Any))
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        part = _compiled(function, signature.args, inline)
        context.active_code_library.add_linking_library(part.library)
        return context.call_internal(builder, part.fndesc, part.signature, args)

    return function


inlined = functools.partial(jit, inline=True)
"""`jit` with `inline`."""


class _Cache(FunctionCache):
    """Numba's cache on disk, from which kernels are loaded without what only compilation needs."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return a compiled kernel, or None if there is none for these arguments.

        Numba's own method first imports all that Numba can compile.
        """
        rtsys.initialize(target_context)  # kernels allocate memory
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel for `run`, without the GIL, and cache it on disk if any location is writable.

    Numba tries NUMBA_CACHE_DIR, then `__pycache__` beside the source, then the user's cache directory.
    """
    body = jit(function)

    def in_threads(openmp, threads, args):
        in_team(openmp, threads, body, args)

    for name in ("__module__", "__name__", "__qualname__", "__doc__"):  # what is compiled has a name of its own
        setattr(in_threads, name, getattr(function, name))
    compiled = numba.jit(**OPTIONS, no_cfunc_wrapper=True)(in_threads)
    with suppress(RuntimeError):  # no writable location
        compiled._cache = _Cache(function)  # its file and its code, not those of `in_threads`
    return compiled


@intrinsic
def take(typing: Any, counter: Any) -> Any:
    """Return the number of the next unit of work; no two threads get the same."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = context.make_array(counter)(context, builder, args[0]).data
        return builder.atomic_rmw("add", address, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), generate


@intrinsic
def in_team(typing: Any, openmp: Any, threads: Any, function: Any, args: Any) -> Any:
    """Call function(*args) once in each of `threads` threads.

    `openmp` is the address of GOMP_parallel; if it is 0, the function is called once, in this thread.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        part = _compiled(function.typing_key, args.types, False)
        context.active_code_library.add_linking_library(part.library)

        pointer, integer = ir.IntType(8).as_pointer(), ir.IntType(32)
        shared = cgutils.alloca_once_value(builder, values[3])
        body = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [pointer]), builder.function.name + ".thread")
        body.linkage = "internal"
        body.attributes.add("noinline")  # it is called in two places
        inner = ir.IRBuilder(body.append_basic_block())
        arguments = cgutils.unpack_tuple(inner, inner.load(inner.bitcast(body.args[0], shared.type)))
        context.call_internal_no_propagate(inner, part.fndesc, part.signature, arguments)
        inner.ret_void()

        region = ir.FunctionType(ir.VoidType(), [body.type, pointer, integer, integer])
        data, flags = builder.bitcast(shared, pointer), ir.Constant(integer, 0)
        with builder.if_else(cgutils.is_not_null(builder, values[0])) as (team, alone):
            with team:
                address = builder.inttoptr(values[0], region.as_pointer())
                builder.call(address, [body, data, values[1], flags])
            with alone:
                builder.call(body, [data])
        return context.get_dummy_value()

    return types.none(types.intp, types.int32, function, args), generate


def run(kernel: Any, units: int, *args: Any) -> None:
    """Run `units` units of work of kernel(counter, *args) on `torch.get_num_threads()` threads.

    Args:
        kernel: the compiled kernel.
        units: how many units of work there are.
        args: the kernel's arguments after the counter.
    """
    adapt_waiting()
    args = (np.zeros(1, np.int64), *args)
    threads = min(torch.get_num_threads(), units)
    if threads <= 1:
        _call(kernel, 0, 1, args)
    elif address := parallel():
        _call(kernel, address, threads, args)
    else:
        helpers = [_pool().submit(_call, kernel, 0, 1, args) for _ in range(threads - 1)]
        _call(kernel, 0, 1, args)
        for helper in helpers:
            if not helper.cancel():  # a helper that has not begun has nothing left to do
                helper.result()


def _call(kernel: Any, openmp: int, threads: int, args: tuple[Any, ...]) -> None:
    """Call a kernel even if the disk is full: Numba compiles it and keeps the result, but fails to write its cache."""
    try:
        kernel(openmp, threads, args)
    except OSError:  # nothing has run yet; now, the kernel is found compiled
        kernel(openmp, threads, args)
