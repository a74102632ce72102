"""The search for convolutions and batch norms that inference can merge, in a network of unknown structure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Sized
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from upernet.models.protocol import ConvNormPair


def find_pairs(network: nn.Module, images: Tensor) -> list[ConvNormPair]:
    """Run `network`, which is in eval mode, on `images` and return the pairs that the run shows to be mergeable.

    The run records every operator with the tensors that it reads. A convolution and a batch norm are a pair if

    * each runs once, and neither has hooks that would see the difference,
    * the convolution computes `convolution(x, weight, bias)` with its own parameters, so not with standardized or
      parametrized weights,
    * the only operator that reads the result is the norm's, which reads the norm's running statistics with it,
    * nothing else reads the convolution's weight or the running statistics, and
    * whatever else the norm does is done by child modules, one after another (timm's norms can contain the activation).

    No class and no module name matters, so networks of any library are searched. An operator that the input's size or
    values switch on or off is only seen if `images` switch it on.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return []
    recorder = _Recorder()
    handles = [
        handle
        for module in network.modules()
        for handle in (
            module.register_forward_pre_hook(recorder.enter),
            module.register_forward_hook(recorder.leave),
        )
    ]
    hooked = {module for module in network.modules() if _num_hooks(module) > 2}
    try:
        # inference mode would hide the operators inside convolutions and norms from the recorder
        with torch.inference_mode(False), torch.no_grad(), recorder:
            outputs = network(images)
    finally:
        for handle in handles:
            handle.remove()
    readers = _readers(recorder.operations)
    returned = {_memory(leaf) for leaf in tree_leaves(outputs)}
    runs = Counter(id(call.module) for call in recorder.calls)
    convs = {
        id(call.output): call.module
        for call in recorder.calls
        if isinstance(call.module, nn.Conv2d) and _is_plain(call, call.module)
    }
    pairs: list[ConvNormPair] = []
    for call in recorder.calls:
        conv, norm = convs.get(id(call.input)), call.module
        if (
            conv is not None
            and isinstance(norm, nn.BatchNorm2d)
            and runs[id(conv)] == runs[id(norm)] == 1
            and not {conv, norm} & hooked
            and _memory(call.input) not in returned
            and len(readers[_memory(conv.weight)]) == 1
            and (after := _modules_after(call, norm, readers)) is not None
        ):
            pairs.append(ConvNormPair(conv, norm, after))
    return pairs


class _Operation:
    """One operator of the run."""

    def __init__(self, function: object, arguments: Sequence[object], output: object):
        self.function = function
        self.arguments = arguments
        self.outputs = tree_leaves(output)


class _Call:
    """One call of a module."""

    def __init__(self, module: nn.Module, input: object):
        self.module = module
        self.input = input
        self.output: object = None
        self.steps: list[_Operation | _Call] = []


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.calls: list[_Call] = []
        self.operations: list[_Operation] = []
        self.open: list[_Call] = []

    def enter(self, module: nn.Module, inputs: tuple[object, ...]) -> None:
        call = _Call(module, inputs[0] if len(inputs) == 1 else None)
        if self.open:
            self.open[-1].steps.append(call)
        self.open.append(call)
        self.calls.append(call)

    def leave(self, module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        self.open.pop().output = output

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[object, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        output = func(*args, **(kwargs or {}))
        operation = _Operation(func, tree_leaves((args, kwargs)), output)
        self.operations.append(operation)
        if self.open:
            self.open[-1].steps.append(operation)
        return output


def _is_plain(call: _Call, conv: nn.Conv2d) -> bool:
    """Return whether the call ended with the convolution by the module's own weight and bias."""
    last = call.steps[-1] if call.steps else None
    return (
        isinstance(last, _Operation)
        and last.function in (torch.ops.aten.convolution.default, torch.ops.aten.mkldnn_convolution.default)
        and last.arguments[1] is conv.weight
        and last.arguments[2] is conv.bias
        and last.outputs[0] is call.output
    )


def _modules_after(
    call: _Call, norm: nn.BatchNorm2d, readers: Mapping[int, list[_Operation]]
) -> tuple[nn.Module, ...] | None:
    """Return the modules that run after the normalization, or None if the convolution before it cannot absorb it."""
    steps = [step for step in call.steps if isinstance(step, _Call) or any(map(_memory, step.arguments))]
    first, *others = steps or [None]  # without operators that read nothing, such as the allocation of memory
    if norm.running_mean is None or not isinstance(first, _Operation):
        return None
    if any(readers[_memory(tensor)] != [first] for tensor in (call.input, norm.running_mean, norm.running_var)):
        return None
    after: list[nn.Module] = []
    current: object = first.outputs[0]
    for step in others:
        if not isinstance(step, _Call) or step.input is not current:
            return None
        after.append(step.module)
        current = step.output
    return tuple(after) if current is call.output else None


def _readers(operations: Sequence[_Operation]) -> defaultdict[int, list[_Operation]]:
    """Return the operators that read each piece of memory, of which the run has freed none."""
    readers: defaultdict[int, list[_Operation]] = defaultdict(list)
    for operation in operations:
        for memory in {_memory(argument) for argument in operation.arguments}:
            readers[memory].append(operation)
    return readers


def _memory(value: object) -> int:
    """Return the address of a tensor's storage, which its views share; 0 for other values."""
    return value.untyped_storage().data_ptr() if isinstance(value, Tensor) else 0


def _num_hooks(module: nn.Module) -> int:
    return sum(len(cast(Sized, getattr(module, hooks))) for hooks in ("_forward_hooks", "_forward_pre_hooks"))
