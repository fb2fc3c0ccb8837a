"""One forward pass as a graph of tensor operations, with the origin of every operand's elements."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from reference.alignment.graph.elements import CONSTANT, Elements, StorageOrigins
from reference.alignment.graph.run_unchanged import untouched

COPIES = frozenset({
    "clone", "_to_copy", "cat", "stack", "repeat", "flip", "roll", "index_select", "index", "gather", "embedding",
    "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "expand_copy", "view_copy", "permute_copy", "slice_scatter",
    "select_scatter", "_reshape_copy", "contiguous", "repeat_interleave", "block_diag", "tril", "triu",
})  # fmt: skip
"""Operations whose every result element is one operand element (or zero)."""

BLANK = ("zeros", "ones", "empty", "full", "rand", "arange", "new_", "scalar_tensor", "linspace", "bernoulli")
"""Prefixes of the operations whose results don't depend on their operands."""

HEAVY = frozenset({"convolution", "mm", "addmm", "bmm", "baddbmm"})
"""Operations that take most of a forward pass; a trace without values leaves their results at zero."""

VIEWS_IN_PLACE = frozenset({"squeeze", "unsqueeze", "transpose", "t", "swapaxes", "swapdims", "as_strided", "detach"})
"""In place, these change a tensor's shape over the same storage and compute nothing."""

VALUE_DEPENDENT = frozenset(
    {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim"}
)
"""Operations whose result can decide control flow or shapes: a trace that meets one needs real values."""


class _ValuesNeededError(Exception):
    """The forward pass depends on the values of its activations."""


@dataclass(eq=False)
class Source:
    """What a source number stands for."""

    number: int
    kind: Literal["constant", "input", "state", "result"]
    size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    offset: int = 0
    node: int = -1
    """The operation that computed it; -1 for input and state."""
    dynamic: bool = False
    """Whether it depends on the input."""
    names: tuple[str, ...] = ()
    """State tensors that lie in this storage."""
    value: Tensor | None = None
    """A copy of the result, where values are kept."""


@dataclass(frozen=True, eq=False)
class Operand:
    """A tensor argument: the origin of its elements, and the tensor itself where it is constant."""

    elements: Elements
    constant: Tensor | None = None


@dataclass(eq=False)
class Node:
    """One operation that computes (views and copies are not nodes)."""

    index: int
    op: str
    function: torch._ops.OpOverload[..., Any]
    args: tuple[Any, ...]
    """As given, with each tensor replaced by its `Operand`."""
    kwargs: dict[str, Any]
    outputs: list[int] = field(default_factory=list)
    """Source numbers of the results."""
    operands: list[Operand] = field(init=False)
    """The tensor arguments in order."""

    def __post_init__(self) -> None:
        self.operands = [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Operand)]

    @property
    def output(self) -> int:
        """Source number of the first result."""
        return self.outputs[0]


@dataclass(eq=False)
class Trace:
    """All operations of one forward pass, in execution order."""

    model: nn.Module
    state: dict[str, Tensor]
    """Parameters and buffers by name; a shared tensor appears once."""
    sources: list[Source]
    nodes: list[Node]
    output: Any
    """What forward returned."""
    output_sources: tuple[int, ...]
    copies: list[tuple[str, int, tuple[int, ...]]] = field(default_factory=list)
    """(name, index of the next node, sources) of each conversion to another type."""

    def node_of(self, source: int) -> Node | None:
        """The operation that computed a source, None for input, state and constants."""
        index = self.sources[source].node
        return self.nodes[index] if index >= 0 else None


class _Recorder(TorchDispatchMode):
    def __init__(self, model: nn.Module, sample: Tensor, compute: bool, keep_values: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.origins = StorageOrigins()
        self.sources = [Source(0, "constant")]
        self.nodes: list[Node] = []
        self.copies: list[tuple[str, int, tuple[int, ...]]] = []
        self.compute, self.keep_values = compute, keep_values
        self.state = named_state(model)
        for name, tensor in self.state.items():
            self._declare_state(name, tensor)
        self.sources.append(_source(len(self.sources), "input", sample, dynamic=True))
        self.sources[-1].value = sample if keep_values else None
        self.origins.declare(sample, len(self.sources) - 1)

    def _declare_state(self, name: str, tensor: Tensor) -> None:
        if self.origins.knows(tensor):
            held = self.sources[self.origins.of(tensor).source]
            held.names = (*held.names, name)
            return
        number = len(self.sources)
        self.sources.append(_source(number, "state", tensor, names=(name,)))
        self.origins.declare(tensor, number)

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operands = tree_map(self._operand, (args, kwargs))  # before the call: it may write in place
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        name = func._schema.name.split("::")[1].rstrip("_")
        if not self.compute:
            if name in VALUE_DEPENDENT or (name.startswith("index") and _masks(args)):
                raise _ValuesNeededError
            result = _blank(func, args, kwargs) if name in HEAVY else func(*args, **kwargs)
        else:
            result = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        mutates = func._schema.is_mutable
        if not outputs or not inputs or name.startswith(BLANK) or name.endswith("_like"):
            for output in outputs:
                if mutates or not self.origins.knows(output):
                    self.origins.result(output, CONSTANT)
        elif name in ("fill", "zero", "uniform", "normal", "random"):
            self.origins.result(outputs[0], CONSTANT)
        elif name == "copy":
            self.origins.write(args[0], self.origins.of(args[1]).codes())
        elif (not mutates or name in VIEWS_IN_PLACE) and all(self._shares(output, inputs) for output in outputs):
            pass  # views: their storage is known
        elif name in COPIES or (name == "constant_pad_nd" and (len(args) < 3 or args[2] == 0)):
            self._copy(name, func, args, kwargs, outputs[0])
        else:
            self._compute(name, func, operands, outputs)
        return result

    def _operand(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        elements = self.origins.of(leaf)
        return Operand(elements, leaf if not elements.sources() else None)

    def _shares(self, output: Tensor, inputs: list[Tensor]) -> bool:
        pointer = output.untyped_storage().data_ptr()
        return output.numel() == 0 or any(pointer == tensor.untyped_storage().data_ptr() for tensor in inputs)

    def _copy(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        values = args[0]
        first = values if isinstance(values, Tensor) else values[0]
        if name == "_to_copy" and output.dtype != first.dtype:
            kind = f"to {str(output.dtype).removeprefix('torch.')}"
            self.copies.append((kind, len(self.nodes), self.origins.of(first).sources()))
        if name in ("clone", "_to_copy"):
            origin = self.origins.of(first)
            whole = origin.numel == first.untyped_storage().nbytes() // first.element_size()
            if whole and origin.table is None and origin.stride == output.stride():
                self.origins.declare(output, origin.source)
            else:
                self.origins.write(output, origin.codes())
            return
        if isinstance(values, Tensor):
            codes = func(self.origins.of(values).codes(), *args[1:], **kwargs)
        else:
            codes = func([self.origins.of(value).codes() for value in values], *args[1:], **kwargs)
        self.origins.write(output, codes)

    def _compute(self, name: str, func: Any, operands: tuple[Any, dict[str, Any]], outputs: list[Tensor]) -> None:
        node = Node(len(self.nodes), name, func, operands[0], operands[1])
        used = {source for operand in node.operands for source in operand.elements.sources()}
        if not used:
            for output in outputs:
                self.origins.result(output, CONSTANT)
            return
        dynamic = any(self.sources[source].dynamic for source in used)
        for output in outputs:
            if output.numel() == 0:
                continue
            source = _source(len(self.sources), "result", output, node=node.index, dynamic=dynamic)
            if self.keep_values:
                source.value = output.detach().clone()
            self.sources.append(source)
            self.origins.result(output, source.number)
            node.outputs.append(source.number)
        self.nodes.append(node)


def _source(
    number: int,
    kind: Literal["constant", "input", "state", "result"],
    tensor: Tensor,
    *,
    node: int = -1,
    dynamic: bool = False,
    names: tuple[str, ...] = (),
) -> Source:
    return Source(
        number, kind, tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset()), node, dynamic, names
    )


def named_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, detached (sharing memory); a shared tensor appears under its first name."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach() for name, tensor in named if tensor.numel()}


def _masks(args: tuple[Any, ...]) -> bool:
    """Whether a boolean mask selects elements, so that the result's size depends on values."""
    return any(isinstance(leaf, Tensor) and leaf.dtype == torch.bool for leaf in tree_leaves(args[1:2]))


def _blank(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Zeros of the shape and layout that the operation's result has."""
    device = next(leaf.device for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
    meta = tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, (args, kwargs))
    return torch.zeros_like(func(*meta[0], **meta[1]), device=device)


def trace(model: nn.Module, sample: Tensor, *, train: bool = False, keep_values: bool = False) -> Trace:
    """Run ``model(sample)`` and record every operation; the model is left as it was.

    ``keep_values`` keeps a copy of every result. Without it, costly operations are not computed, unless the forward
    pass depends on values. Exceptions of the forward pass are passed on.
    """
    if keep_values:
        return _trace(model, sample, train, compute=True, keep_values=True)
    try:
        return _trace(model, sample, train, compute=False, keep_values=False)
    except Exception:  # zeros may raise what real values would not; the next line raises what real values do
        return _trace(model, sample, train, compute=True, keep_values=False)


def _trace(model: nn.Module, sample: Tensor, train: bool, *, compute: bool, keep_values: bool) -> Trace:
    sample = sample.detach().clone()
    recorder = _Recorder(model, sample, compute, keep_values)
    with untouched(model, train=train), torch.no_grad(), warnings.catch_warnings(), recorder:
        warnings.simplefilter("ignore")  # the caller's own passes show them
        output = model(sample)
    tensors = _tensors(output)
    found = {source for tensor in tensors for source in recorder.origins.of(tensor).sources()}
    detached = tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, output)
    return Trace(
        model, recorder.state, recorder.sources, recorder.nodes, detached, tuple(sorted(found)), recorder.copies
    )


def _tensors(output: Any) -> list[Tensor]:
    leaves = tree_leaves(output)
    leaves += [value for leaf in leaves if hasattr(leaf, "__dict__") for value in vars(leaf).values()]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
