"""A trace read as layers: convolutions, linear maps, norms, embeddings and attention, however they were written."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reference.alignment.graph.dataflow import Flow
from reference.alignment.graph.elements import Elements, from_codes, source_of
from reference.alignment.graph.trace import Node, Trace
from reference.alignment.read.attention import AttentionFinder
from reference.alignment.read.convolution import without_padding
from reference.alignment.read.layer import Layer, LayerGraph
from reference.alignment.read.linear import Product, read_product, read_rearranged
from reference.alignment.read.norms import affine_roles, normalisation
from reference.alignment.read.sums import is_piece, join, join_positions, piece_of, read_whole

PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm", "linear", "mv"})
BATCH_NORMS = {  # name: places of weight, bias, running mean, running variance, momentum, eps
    "native_batch_norm": (1, 2, 3, 4, 6, 7),
    "_native_batch_norm_legit": (1, 2, 3, 4, 6, 7),
    "_native_batch_norm_legit_no_training": (1, 2, 3, 4, 5, 6),
    "cudnn_batch_norm": (1, 2, 3, 4, 6, 7),
    "batch_norm_with_update": (1, 2, 3, 4, 5, 6),
    "_batch_norm_with_update": (1, 2, 3, 4, 5, 6),
    "_batch_norm_no_update": (1, 2, 3, 4, 5, 6),
}
ARITHMETIC = frozenset({"add", "sub", "rsub", "mul", "div", "addcmul", "addcdiv"})


def read_layers(trace: Trace) -> LayerGraph:
    """The layers of ``trace``."""
    reader = _Reader(trace)
    for node in trace.nodes:
        reader.visit(node)
    return LayerGraph(trace, reader.flow, reader.finish())


class _Reader:
    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.flow = Flow(trace)
        self.layers: list[Layer] = []
        self.count = -1
        self.frontiers: dict[int, frozenset[tuple[int, str]]] = {}
        self.owner: dict[int, Layer] = {}  # result -> layer
        self.main: dict[int, Layer] = {}  # result of the main operation -> layer
        self.tokens: dict[int, Layer] = {}  # state source -> layer
        self.attention = AttentionFinder(self.flow)

    def visit(self, node: Node) -> None:
        if not node.outputs or not self.trace.sources[node.output].dynamic:
            return
        for operand in node.operands:
            self._find_tokens(node, operand.elements)
        layer = self._layer(node)
        if layer is None:
            frontier = frozenset[tuple[int, str]]().union(*(self._frontier(o.elements) for o in node.operands))
        else:
            self.owner[layer.output] = layer
            frontier = frozenset({(layer.number, "")})
        for output in node.outputs:
            self.frontiers[output] = frontier

    def _layer(self, node: Node) -> Layer | None:
        if node.op == "convolution":
            return self._convolution(node)
        if node.op in PRODUCTS or node.op == "sum":
            heads = self.attention.product(node)
            if heads is not None:
                return self._attention(node, *heads)
        if node.op in PRODUCTS:
            product = read_product(node, self.flow)
            return self._product(node, product) if product is not None else None
        if node.op in BATCH_NORMS:
            return self._batch_norm(node)
        if node.op in ("native_layer_norm", "native_group_norm"):
            return self._native_norm(node)
        if node.op.startswith("_scaled_dot_product"):
            return self._attention(node, *self.attention.fused(node))
        if node.op in ARITHMETIC:
            return self._summed(node) or self._affine(node)
        return self._other(node)

    # -- state and inputs --

    def _frontier(self, elements: Elements) -> frozenset[tuple[int, str]]:
        found: frozenset[tuple[int, str]] = frozenset()
        for source in elements.sources():
            found |= self.frontiers.get(source, frozenset())
            if source in self.tokens:
                found |= {(self.tokens[source].number, "")}
        return found

    def _find_tokens(self, node: Node, elements: Elements) -> None:
        """State elements that stand beside activations in one tensor: a class token."""
        sources = elements.sources()
        if len(sources) < 2 or not self.flow.is_dynamic(elements):
            return
        assert elements.table is not None  # more than one source
        for source in sources:
            if self.trace.sources[source].dynamic or source in self.tokens:
                continue
            codes = elements.table[source_of(elements.table) == source]
            unique = from_codes(_in_order(codes))
            leaves = [unique] if self.flow.is_state(unique) else self.flow.leaves(unique)
            roles = {"weight" if i == 0 else f"weight_{i}": _flat(leaf) for i, leaf in enumerate(leaves)}
            self.tokens[source] = self._add("token", roles, node, source, unique)

    def _add(self, kind: str, roles: dict[str, Elements], node: Node, output: int, operand: Elements) -> Layer:
        kept = {role: elements for role, elements in roles.items() if elements.sources()}
        self.count += 1  # layers that join others leave the list, but no number is given twice
        layer = Layer(self.count, kind, kept, node, output, operand, before=self._frontier(operand))
        self.layers.append(layer)
        return layer

    def _role(self, argument: Any) -> Elements | None:
        """State elements behind an argument; a reparametrised weight counts as the leaf of its size."""
        if argument is None or not hasattr(argument, "elements"):
            return None
        elements: Elements = argument.elements
        if self.flow.is_dynamic(elements) or not elements.sources():
            return None
        return self.flow.state_of(elements)

    def _roles(self, **arguments: Any) -> dict[str, Elements]:
        found = {name: self._role(argument) for name, argument in arguments.items()}
        return {name: elements for name, elements in found.items() if elements is not None}

    # -- kinds --

    def _convolution(self, node: Node) -> Layer | None:
        data, weight, bias, stride, padding, dilation, _, _, groups = node.args
        roles = self._roles(weight=weight, bias=bias)
        if "weight" not in roles:
            return None
        kind = "convolution"
        rearranged = read_rearranged(roles["weight"], data.elements, tuple(stride), self.flow) if groups == 1 else None
        roles["weight"] = roles["weight"] if rearranged is None else rearranged
        kernel = roles["weight"].size[2:]
        if all(k == 1 for k in kernel) and groups == 1:
            kind = "linear"
            roles["weight"] = roles["weight"].reshape(*roles["weight"].size[:2])
        operand, padded = without_padding(data.elements, tuple(padding))
        layer = self._add(kind, roles, node, node.output, operand)
        self.main[node.output] = layer
        layer.hyper = {
            "kernel": tuple(kernel), "stride": tuple(stride), "padding": padded, "dilation": tuple(dilation),
            "groups": groups,
        }  # fmt: skip
        return layer

    def _product(self, node: Node, product: Product) -> Layer:
        roles = {"weight": product.weight}
        if product.bias is not None:
            roles["bias"] = _flat(product.bias)
        layer = self._add(product.kind, roles, node, node.output, product.operand)
        layer.feature_dim = product.feature_dim
        layer.hyper = dict(product.hyper)
        layer.origins = product.origins
        self.main[node.output] = layer
        return layer

    def _batch_norm(self, node: Node) -> Layer:
        weight, bias, mean, variance, momentum, eps = (node.args[place] for place in BATCH_NORMS[node.op])
        roles = self._roles(weight=weight, bias=bias, running_mean=mean, running_var=variance)
        layer = self._add("batch_norm", roles, node, node.output, node.args[0].elements)
        layer.hyper = {"eps": eps, "momentum": momentum}
        return layer

    def _native_norm(self, node: Node) -> Layer:
        if node.op == "native_layer_norm":
            data, _, weight, bias, eps = node.args
            kind, hyper = "layer_norm", {"eps": eps}
        else:
            data, weight, bias, _, _, _, groups, eps = node.args
            kind, hyper = "group_norm", {"eps": eps, "groups": groups}
        roles = {role: _flat(elements) for role, elements in self._roles(weight=weight, bias=bias).items()}
        layer = self._add(kind, roles, node, node.output, data.elements)
        layer.hyper = hyper
        layer.feature_dim = len(data.elements.size) - 1 if kind == "layer_norm" else 1
        return layer

    def _attention(self, node: Node, parts: dict[str, Elements], hyper: dict[str, Any]) -> Layer:
        layer = self._add("attention", {}, node, node.output, parts["v"])
        layer.before = frozenset((n, port) for port, part in parts.items() for n, _ in self._frontier(part))
        layer.hyper = hyper
        layer.ports = parts
        return layer

    def _affine(self, node: Node) -> Layer | None:
        """Additions and multiplications with state: a bias, an embedding, or a piece of a norm written by hand."""
        dynamic = [o.elements for o in node.operands if self.flow.is_dynamic(o.elements)]
        static = [o.elements for o in node.operands if not self.flow.is_dynamic(o.elements) and o.elements.sources()]
        if len(dynamic) != 1 or not static:
            return None
        operand = dynamic[0]
        leaves = [leaf for elements in static for leaf in self.flow.leaves(elements)]
        opened, scalings = self._opened(operand)
        if node.op == "add" and opened is not None and opened.kind in ("linear", "convolution") and not scalings:
            squeezed = leaves[0].squeeze()
            if len(leaves) == 1 and "bias" not in opened.roles and squeezed.numel == opened.shape[0]:
                opened.roles["bias"] = _flat(squeezed)
                del self.owner[opened.output]
                opened.output = node.output
                return opened
        if node.op == "add" and opened is None and len(leaves) == 1 and self._late_bias(operand, leaves[0].squeeze()):
            return None
        if opened is not None and opened.kind == "affine":
            del self.owner[opened.output]
            opened.output = node.output
            opened.chain += [*scalings, node]
            return opened
        layer = self._add("affine", {}, node, node.output, operand)
        layer.chain = [node]
        return layer

    def _summed(self, node: Node) -> Layer | None:
        """The layer that a further summand joins: see `reference.alignment.read.sums`."""
        if node.op != "add" or len(node.operands) != 2 or node.kwargs:
            return None
        sides = [operand.elements for operand in node.operands]
        found = [self._opened(side)[0] for side in sides if self.flow.is_dynamic(side)]
        owners = [layer for layer in found if layer is not None]
        if not owners or len(owners) < len(found):
            return None
        pieces = [piece_of(layer, self.flow) for layer in owners]
        own = [piece for piece in pieces if piece is not None]
        if len(own) < len(pieces):
            return None
        # Where a shift meets nothing but padding, its product is a constant's with the state.
        still = [leaf for side in sides if not self.flow.is_dynamic(side) for leaf in self.flow.leaves(side)]
        others = [piece for layer in owners[1:] for piece in layer.pieces or own[1:]] + still
        if not others or not all(is_piece(e, self.flow) and e.sources() == own[0].sources() for e in (*own, *others)):
            return None
        join(owners[0], others, own[0])
        for layer in owners[1:]:
            self.layers.remove(layer)
            owners[0].roles = {**layer.roles, **owners[0].roles}
        for layer in owners:
            self.owner.pop(layer.output, None)
        owners[0].output = node.output
        return owners[0]

    def _late_bias(self, joined: Elements, state: Elements) -> bool:
        """Give ``state`` as bias to the product that ``joined`` adds to a shortcut: (x + W y) + b."""
        sources = joined.sources()
        join = self.trace.node_of(sources[0]) if len(sources) == 1 else None
        if join is None or join.op != "add" or len(join.operands) != 2:
            return False
        found = [self._opened(operand.elements)[0] for operand in join.operands]
        waiting = [
            layer
            for layer in found
            if layer is not None and layer.kind in ("linear", "convolution") and "bias" not in layer.roles
        ]
        if len(waiting) != 1 or waiting[0].shape[0] != state.numel:
            return False
        waiting[0].roles["bias"] = _flat(state)
        waiting[0].open = True
        return True

    def _opened(self, elements: Elements) -> tuple[Layer | None, list[Node]]:
        """The layer whose result ``elements`` is, multiplications and additions of constants left aside.

        Beside it the operations in between that scale each token by a statistic of its own: part of a norm whose gain
        stands before the division.
        """
        scalings: list[Node] = []
        while True:
            sources = elements.sources()
            if len(sources) != 1:
                return None, []
            if sources[0] in self.owner:
                return self.owner[sources[0]], scalings
            node = self.trace.node_of(sources[0])
            if node is None or node.op not in ARITHMETIC:
                return None, []
            before = self.flow.through(node)
            if before is None:
                before = self.flow.normalised(node)
                scalings.insert(0, node)
            if before is None:
                return None, []
            elements = before

    def _other(self, node: Node) -> Layer | None:
        """Any further operation with a state operand."""
        states = [operand.elements for operand in node.operands if self.flow.is_state(operand.elements)]
        dynamic = [operand.elements for operand in node.operands if self.flow.is_dynamic(operand.elements)]
        if not states or not dynamic:
            return None
        roles = {"weight" if i == 0 else f"weight_{i}": elements for i, elements in enumerate(states)}
        return self._add(node.op, roles, node, node.output, dynamic[0])

    # -- after all nodes --

    def finish(self) -> list[Layer]:
        for layer in self.layers:
            if layer.pieces:
                read_whole(layer, self.flow)
            if layer.kind == "affine":
                layer.kind, layer.roles, layer.hyper = affine_roles(layer.chain, layer.operand, self.flow)
                found = normalisation(layer.operand, layer.chain, self.flow) if layer.kind == "affine" else None
                if found is not None:
                    layer.kind, layer.operand, layer.hyper = "layer_norm", found[0], {"eps": found[1]}
        join_positions(self.layers)
        layers = self.attention.split(self.layers, self.main)
        return [layer for layer in layers if layer.roles or layer.kind == "attention"]


def _flat(elements: Elements) -> Elements:
    squeezed = elements.squeeze()
    return squeezed if len(squeezed.size) == 1 else squeezed.reshape(squeezed.numel)


def _in_order(codes: Tensor) -> Tensor:
    """Distinct codes in the order of first appearance."""
    return torch.tensor(list(dict.fromkeys(codes.tolist())), dtype=torch.int64)
