"""Linear maps and their biases, however they were written, and contractions of two activations."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from reference.alignment.graph.dataflow import Flow, coordinates
from reference.alignment.graph.elements import CONSTANT, Elements, from_codes, position_of, source_of
from reference.alignment.graph.trace import Node, Source
from reference.alignment.read.layer import Layer, as_vector
from reference.alignment.read.reading import Reading

PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm", "linear", "mv"})
CONTRACTIONS = frozenset({"mm", "addmm", "bmm", "baddbmm", "linear", "_softmax", "im2col"})


def recognise_linear(node: Node, reading: Reading) -> Layer | None:
    """A product of activations with a matrix of state; None where neither or both are state.

    The weight is (out, in), or (out, in, height, width) where the columns are patches of an image.
    """
    if node.op not in PRODUCTS:
        return None
    flow = reading.flow
    arguments = list(node.args)
    bias = None
    if node.op in ("addmm", "baddbmm"):
        bias = flow.state_of(arguments.pop(0).elements)
    elif node.op == "linear":
        bias = flow.state_of(arguments[2].elements) if len(arguments) > 2 and arguments[2] is not None else None
    left, right = arguments[0].elements, arguments[1].elements
    if node.op == "linear":
        right = right.transpose()
    swapped = not flow.is_dynamic(left)
    state = flow.state_of(left if swapped else right)
    data = right if swapped else left
    if state is None or not flow.is_dynamic(data):
        return None
    # From here: state is (blocks, in, out), data is (blocks, rows, in), whichever side they stood on.
    state = state.transpose() if swapped and len(state.size) == 2 else state
    state_is_batched = len(state.size) == 3
    if state_is_batched and swapped:
        state = from_codes(state.codes().transpose(1, 2))
    weight, by_head = _weight(state, data) if state_is_batched else (state.transpose(), False)
    kind, hyper, origins = "linear", dict[str, Any](), tuple[int, ...]()
    columns = None if by_head else _columns(data, swapped, flow)
    if columns is not None:
        origins = tuple(dict.fromkeys(source_of(columns).tolist()))
        weight, kind, hyper = _arrange(weight, columns, flow)
    roles = {"weight": weight} if bias is None else {"weight": weight, "bias": as_vector(bias)}
    layer = reading.add(kind, roles, node, data)
    layer.feature_dim = -2 if swapped else -1
    layer.hyper, layer.origins = hyper, origins
    reading.main[node.output] = layer
    return layer


def recognise_bias(node: Node, reading: Reading) -> Layer | None:
    """State added to the result of a linear map or convolution that has no bias: ``x W + b``."""
    applied = reading.applied_state(node) if node.op == "add" else None
    if applied is None or len(applied[1]) != 1:
        return None
    layer, scalings = reading.layer_behind(applied[0])
    state = applied[1][0].squeeze()
    if layer is None or scalings or not _lacks_bias(layer) or layer.shape[0] != state.numel:
        return None
    layer.roles["bias"] = as_vector(state)
    reading.extend(layer, node)
    return layer


def add_late_bias(joined: Elements, state: Elements, reading: Reading) -> bool:
    """Give ``state`` as bias to the layer whose result ``joined`` adds to a shortcut: ``(x + y W) + b``.

    The layer's result stays what it was, without the bias. False where there is no such layer, or more than one.
    """
    sources = joined.sources()
    join = reading.trace.node_of(sources[0]) if len(sources) == 1 else None
    if join is None or join.op != "add" or len(join.operands) != 2:
        return False
    found = [reading.layer_behind(operand.elements)[0] for operand in join.operands]
    waiting = [layer for layer in found if layer is not None and _lacks_bias(layer)]
    if len(waiting) != 1 or waiting[0].shape[0] != state.numel:
        return False
    waiting[0].roles["bias"] = as_vector(state)
    waiting[0].open = True
    return True


def _lacks_bias(layer: Layer) -> bool:
    return layer.kind in ("linear", "convolution") and "bias" not in layer.roles


def read_rearranged(weight: Elements, data: Elements, stride: tuple[int, ...], flow: Flow) -> Elements | None:
    """The kernel behind a convolution's ``weight`` that was padded with zeros and rearranged; None for any other.

    ``data`` is rearranged as well, as in a stem over blocks of pixels. A tap's place in the kernel is the place of the
    pixel that it multiplies.
    """
    if weight.table is None or len(weight.size) != 4 or len(data.size) != 4:
        return None
    rows = weight.table.flatten(1)
    taps = source_of(rows[0]) != CONSTANT
    if bool(taps.all()) or not torch.equal(source_of(rows) != CONSTANT, taps.expand_as(rows)):
        return None
    sides = zip(data.size[2:], weight.size[2:], strict=True)
    if any(side < kernel for side, kernel in sides):
        return None
    (high, wide), (down, right) = weight.size[2:], stride
    windows = data.select(0, 0).codes().unfold(1, high, down).unfold(2, wide, right)
    patches = windows.permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(1)[:, taps]
    whole = (source_of(patches) != CONSTANT).all(dim=1).nonzero()
    if not len(whole):
        return None
    found, kind, _ = _arrange(from_codes(rows[:, taps]), flow.resolve(patches[int(whole[0])]), flow)
    return found if kind == "convolution" else None


def _weight(state: Elements, data: Elements) -> tuple[Elements, bool]:
    """(out, in) of a batched product, and whether it has a block for each head rather than one for the whole batch."""
    if state.table is None and (state.size[0] == 1 or state.stride[0] == 0):
        return state.select(0, 0).transpose(), False
    codes = state.codes()
    firsts = list(dict.fromkeys(codes[:, 0, 0].tolist()))
    blocks = [codes[codes[:, 0, 0].tolist().index(first)] for first in firsts]  # each (in, out)
    if len(blocks) == 1:
        return from_codes(blocks[0].t()), False
    starts = data.codes()[: len(blocks), 0, 0].tolist()
    if len(set(starts)) == 1:  # all heads read the same activations: their outputs stand side by side
        return from_codes(torch.cat([block.t() for block in blocks])), True
    return from_codes(torch.cat([block.t() for block in blocks], dim=1)), True


def _columns(data: Elements, swapped: bool, flow: Flow) -> Tensor | None:
    """Codes of the inputs of one output row, traced back through elementwise operations."""
    rows = data
    if len(rows.size) == 3:
        rows = rows.select(0, rows.size[0] - 1)
    if len(rows.size) == 1:
        return flow.resolve(rows.codes())
    if swapped:
        rows = rows.transpose()
    if rows.table is None:
        return flow.resolve(rows.select(0, 0).codes())
    dynamic = torch.zeros_like(rows.table, dtype=torch.bool)
    for source in rows.sources():
        if flow.trace.sources[source].dynamic:
            dynamic |= source_of(rows.table) == source
    whole = dynamic.all(dim=1).nonzero()
    return flow.resolve(rows.table[int(whole[0])]) if len(whole) else None


def _arrange(weight: Elements, columns: Tensor, flow: Flow) -> tuple[Elements, str, dict[str, Any]]:
    """Put the weight's columns in the order of the features that they multiply."""
    plain: tuple[Elements, str, dict[str, Any]] = (weight, "linear", {})
    numbers = torch.unique(source_of(columns))
    if len(numbers) != 1:
        return plain
    source = flow.trace.sources[int(numbers[0])]
    if source.kind == "constant":
        return plain
    index = coordinates(source, position_of(columns))
    node = flow.trace.node_of(source.number)
    if node is not None and node.op == "im2col":
        return _unfolded(weight, index[1], node)
    if _is_image(source, node) and any(int(i.max()) > int(i.min()) for i in index[2:]):
        channel, y, x = index[1], index[2] - index[2].min(), index[3] - index[3].min()
        shape = [int(i.max()) + 1 for i in (channel, y, x)]
        place = (channel * shape[1] + y) * shape[2] + x
        if shape[0] * shape[1] * shape[2] == len(columns) == len(torch.unique(place)):
            ordered = weight.take(1, torch.argsort(place).tolist())
            hyper = {"kernel": tuple(shape[1:])}
            return ordered.reshape(weight.size[0], *shape), "convolution", hyper
        return plain
    place = torch.zeros_like(columns)
    for length, i in zip(source.size, index, strict=True):
        place = place * length + i
    if len(torch.unique(place)) != len(columns):
        return plain
    return weight.take(1, torch.argsort(place).tolist()), "linear", {}


def _is_image(source: Source, node: Node | None) -> bool:
    if len(source.size) != 4:
        return False
    return node is None or not (node.op in CONTRACTIONS or node.op.startswith("_scaled_dot_product"))


def _unfolded(weight: Elements, index: Tensor, node: Node) -> tuple[Elements, str, dict[str, Any]]:
    kernel, dilation, padding, stride = (tuple(value) for value in node.args[1:5])
    ordered = weight.take(1, torch.argsort(index).tolist())
    channels = weight.size[1] // (kernel[0] * kernel[1])
    hyper = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation, "groups": 1}
    return ordered.reshape(weight.size[0], channels, *kernel), "convolution", hyper


MATRIX_PRODUCTS = ("bmm", "mm", "baddbmm")


@dataclass(frozen=True, eq=False, kw_only=True)
class Contraction:
    """``result[b, i, j] = sum over k of left[b, i, k] * right[b, k, j]``."""

    left: Elements
    right: Elements
    columns: tuple[int, ...]
    """Dimensions of the operation's result that j indexes."""
    operands: tuple[Elements, Elements]
    """Both operands in their own shape."""


def read_contraction(node: Node, flow: Flow) -> Contraction | None:
    """The contraction of two activations that ``node`` gives; None for any other operation."""
    if node.op == "sum":
        return _summed(node, flow)
    if node.op not in MATRIX_PRODUCTS:
        return None
    left, right = [argument.elements for argument in node.args if hasattr(argument, "elements")][-2:]
    if not (flow.is_dynamic(left) and flow.is_dynamic(right)):
        return None
    last = len(flow.trace.sources[node.output].size) - 1
    return Contraction(left=batched(left), right=batched(right), columns=(last,), operands=(left, right))


def batched(elements: Elements) -> Elements:
    """A matrix as a batch of one."""
    return elements if len(elements.size) == 3 else elements.reshape(1, *elements.size)


def _summed(node: Node, flow: Flow) -> Contraction | None:
    """``(a * b).sum(k)`` where each side is broadcast along dimensions of the other: i and j.

    A dimension that both have is of the batch. Where neither is broadcast nothing is contracted: a sum of squares.
    """
    sources = node.operands[0].elements.sources()
    product = flow.trace.node_of(sources[0]) if len(sources) == 1 else None
    if product is None or product.op != "mul" or len(product.operands) != 2:
        return None
    size = flow.trace.sources[product.output].size
    whole = node.operands[0].elements
    summed = node.args[1] if len(node.args) > 1 else None
    if not isinstance(summed, list | tuple) or len(summed) != 1 or whole.table is not None or whole.size != size:
        return None
    over = summed[0] % len(size)
    sides = [operand.elements for operand in product.operands]
    if not all(flow.is_dynamic(side) for side in sides):
        return None
    left, right = (side.reshape(*(1,) * (len(size) - len(side.size)), *side.size) for side in sides)
    if left.size[over] != right.size[over]:
        return None
    others = [dim for dim in range(len(size)) if dim != over]
    rows = [dim for dim in others if right.size[dim] < left.size[dim]]
    columns = [dim for dim in others if left.size[dim] < right.size[dim]]
    shared = [dim for dim in others if dim not in rows and dim not in columns]
    if not rows and not columns:
        return None
    kept = len(node.args) > 2 and bool(node.args[2])
    return Contraction(
        left=_arranged(left.codes(), shared, rows, [over]),
        right=_arranged(right.codes(), shared, [over], columns),
        columns=tuple(dim - (dim > over and not kept) for dim in columns),
        operands=(sides[0], sides[1]),
    )


def _arranged(codes: Tensor, *groups: list[int]) -> Elements:
    """Three dimensions, each of them a group of those there are; the rest have length one."""
    order = [dim for group in groups for dim in group]
    rest = [dim for dim in range(codes.dim()) if dim not in order]
    return from_codes(
        codes.permute(*order, *rest).reshape([prod(codes.shape[dim] for dim in group) for group in groups])
    )
