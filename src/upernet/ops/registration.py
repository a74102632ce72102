"""Registration of the package's custom operators with PyTorch, as `torch.ops.upernet.NAME`.

This uses `torch.library.Library` rather than `torch.library.custom_op`, which imports torch's compiler at the first
call and so delays the first photo by a second. Formulas of floating-point operations wait until torch's counter is
imported, because that imports Triton.

State of this module: the formulas.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from upernet.ops.dispatch import overrides, use_kernel

COUNTER = "torch.utils.flop_counter"

_library = torch.library.Library("upernet", "FRAGMENT")
_formulas: dict[str, Callable[..., int]] = {}


class _CounterFinder(MetaPathFinder):
    """Finds torch's counter as Python does, and adds the formulas when the counter has been imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to import the counter, and None for all other modules."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname == COUNTER else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                for name, formula in _formulas.items():
                    _register_formula(module, name, formula)

            spec.loader.exec_module = execute_and_register
        return spec


def _register_formula(counter: Any, name: str, formula: Callable[..., int]) -> None:
    counter.register_flop_formula(getattr(torch.ops.upernet, name))(formula)


sys.meta_path.insert(0, _CounterFinder())


def define_operator(
    schema: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    save: Callable[[Any, Sequence[Any], Any], None] | None = None,
    backward: Callable[..., Any] | None = None,
    flops: Callable[..., int] | None = None,
) -> None:
    """Define the operator `torch.ops.upernet.NAME`.

    Args:
        schema: `NAME(arguments) -> results`, in the language of `torch.library`.
        run: computes the results, on any device.
        fake: returns results of the right shape, dtype and strides without computing them, for export and compilation.
        save, backward: `setup_context` and the backward pass, as `torch.library.register_autograd` takes them. The
            backward pass runs under the same `use_kernel` overrides as the forward pass.
        flops: floating-point operations (two per multiply-add) from the shapes of the arguments.
    """
    name = schema.partition("(")[0]
    _library.define(schema, tags=torch.Tag.pt2_compliant_tag)
    _library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"upernet::{name}", fake, lib=_library)
    if backward is not None:

        def save_with_overrides(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
            ctx.overrides = overrides()
            if save is not None:
                save(ctx, inputs, output)

        def backward_with_overrides(ctx: Any, *grads: Tensor) -> Any:
            with use_kernel(**ctx.overrides):
                return backward(ctx, *grads)

        torch.library.register_autograd(
            f"upernet::{name}", backward_with_overrides, setup_context=save_with_overrides, lib=_library
        )
    if flops is not None:
        _formulas[name] = flops
        if COUNTER in sys.modules:
            _register_formula(sys.modules[COUNTER], name, flops)


def refuse_second_derivative(*args: Any) -> Any:
    """Raise an error; the `backward` of an operator that computes a gradient and has none of its own.

    Raises:
        RuntimeError: always, as torch does for functions that can be differentiated once.
    """
    raise RuntimeError("this gradient cannot be differentiated again; use_kernel(...='torch') can be")
