"""Norms, torch's own and written by hand; scales and embeddings.

A chain of additions and multiplications with state is evaluated on scalars. Each assignment of roles to the state
tensors is compared with ``(x - mean) / sqrt(var + eps) * weight + bias``.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from reference.alignment.graph.dataflow import Flow
from reference.alignment.graph.elements import Elements
from reference.alignment.graph.trace import Node, Operand
from reference.alignment.read.layer import Layer, as_vector
from reference.alignment.read.linear import add_late_bias
from reference.alignment.read.reading import ARITHMETIC, Reading

BATCH_NORMS = {  # name: places of weight, bias, running mean, running variance, momentum, eps
    "native_batch_norm": (1, 2, 3, 4, 6, 7),
    "_native_batch_norm_legit": (1, 2, 3, 4, 6, 7),
    "_native_batch_norm_legit_no_training": (1, 2, 3, 4, 5, 6),
    "cudnn_batch_norm": (1, 2, 3, 4, 6, 7),
    "batch_norm_with_update": (1, 2, 3, 4, 5, 6),
    "_batch_norm_with_update": (1, 2, 3, 4, 5, 6),
    "_batch_norm_no_update": (1, 2, 3, 4, 5, 6),
}
REDUCTIONS = frozenset({"mean", "var", "var_mean", "std", "std_mean", "sum", "linalg_vector_norm", "norm"})
REGION = REDUCTIONS | {"add", "sub", "mul", "div", "sqrt", "rsqrt", "pow", "square", "reciprocal"}
ROLES = ("running_mean", "running_var", "weight", "bias")
CLOSE = 0.02
"""Far above what an eps of at most 1e-3 changes, far below what a wrong role does."""
HINTS = {
    "running_mean": ("mean", "mu"),
    "running_var": ("var", "sigma"),
    "weight": ("weight", "gamma", "scale", "gain"),
    "bias": ("bias", "beta", "shift", "offset"),
}


def recognise_batch_norm(node: Node, reading: Reading) -> Layer | None:
    """A BatchNorm of torch's, in train or eval mode."""
    if node.op not in BATCH_NORMS:
        return None
    weight, bias, mean, variance, momentum, eps = (node.args[place] for place in BATCH_NORMS[node.op])
    roles = reading.roles(weight=weight, bias=bias, running_mean=mean, running_var=variance)
    layer = reading.add("batch_norm", roles, node, node.args[0].elements)
    layer.hyper = {"eps": eps, "momentum": momentum}
    return layer


def recognise_native_norm(node: Node, reading: Reading) -> Layer | None:
    """A LayerNorm or GroupNorm of torch's."""
    if node.op == "native_layer_norm":
        data, _, weight, bias, eps = node.args
        kind, hyper = "layer_norm", {"eps": eps}
    elif node.op == "native_group_norm":
        data, weight, bias, _, _, _, groups, eps = node.args
        kind, hyper = "group_norm", {"eps": eps, "groups": groups}
    else:
        return None
    roles = {role: as_vector(elements) for role, elements in reading.roles(weight=weight, bias=bias).items()}
    layer = reading.add(kind, roles, node, data.elements)
    layer.hyper = hyper
    layer.feature_dim = len(data.elements.size) - 1 if kind == "layer_norm" else 1
    return layer


def recognise_affine(node: Node, reading: Reading) -> Layer | None:
    """An addition of or multiplication by state: an embedding, a scale, or a step of a norm written by hand.

    `name_affine` tells which, when the chain is complete.
    """
    applied = reading.applied_state(node) if node.op in ARITHMETIC else None
    if applied is None:
        return None
    operand, leaves = applied
    layer, scalings = reading.layer_behind(operand)
    added = leaves[0].squeeze() if node.op == "add" and len(leaves) == 1 else None
    if added is not None and layer is None and add_late_bias(operand, added, reading):
        return None
    if layer is not None and layer.kind == "affine":
        reading.extend(layer, node)
        layer.chain += [*scalings, node]
        return layer
    layer = reading.add("affine", {}, node, operand)
    layer.chain = [node]
    return layer


def name_affine(layer: Layer, flow: Flow) -> None:
    """Give a complete chain its kind, roles and hyper-parameters."""
    layer.kind, layer.roles, layer.hyper = _affine_roles(layer.chain, layer.operand, flow)
    found = _normalisation(layer.operand, layer.chain, flow) if layer.kind == "affine" else None
    if found is not None:
        layer.kind, layer.operand, layer.hyper = "layer_norm", found[0], {"eps": found[1]}


def _affine_roles(chain: list[Node], operand: Elements, flow: Flow) -> tuple[str, dict[str, Elements], dict[str, Any]]:
    """(kind, roles, hyper-parameters) of a chain that starts at ``operand``."""
    leaves = _leaves(chain, flow)
    keys = list(leaves)
    flat = {key: leaf.squeeze() for key, leaf in leaves.items()}
    if len(keys) == 1 and all(node.op == "add" for node in chain):
        return "embedding", {"weight": flat[keys[0]]}, {}
    if len(keys) > len(ROLES):
        return "affine", {f"weight_{i}": flat[key] for i, key in enumerate(keys)}, {}
    roles = _by_trial(chain, operand, keys, flow) or _by_name(leaves, flow)
    if roles is None:
        return "affine", {f"weight_{i}": flat[key] for i, key in enumerate(keys)}, {}
    named = {role: flat[key] for role, key in roles.items()}
    named = {role: e if len(e.size) == 1 else e.reshape(e.numel) for role, e in named.items()}
    if "running_mean" in roles or "running_var" in roles:
        return "batch_norm", named, {"eps": _eps(chain, operand, roles, flow)}
    if set(roles) == {"weight"}:
        return "scale", named, {}
    return "affine", named, {}


def _leaves(chain: list[Node], flow: Flow) -> dict[int, Elements]:
    """State tensors by the code of their first element."""
    found: dict[int, Elements] = {}
    for node in chain:
        for argument in node.operands:
            if not flow.is_dynamic(argument.elements) and argument.elements.sources():
                for leaf in flow.leaves(argument.elements):
                    found.setdefault(_key(leaf), leaf)
    return found


def _key(elements: Elements) -> int:
    return int(elements.codes().reshape(-1)[0])


def _by_trial(chain: list[Node], operand: Elements, keys: list[int], flow: Flow) -> dict[str, int] | None:
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)
    values = {key: torch.tensor(1.37 + 0.41 * i, dtype=torch.float64) for i, key in enumerate(keys)}
    try:
        result = _evaluate(chain[-1].output, flow, operand, x, values)
    except (RuntimeError, KeyError, TypeError):
        return None
    best: tuple[float, dict[str, int]] | None = None
    for chosen in permutations(ROLES, len(keys)):
        given = {role: values[key] for role, key in zip(chosen, keys, strict=True)}
        mean, variance = given.get("running_mean", x.new_zeros(())), given.get("running_var", x.new_ones(()))
        weight, bias = given.get("weight", x.new_ones(())), given.get("bias", x.new_zeros(()))
        wanted = (x - mean) / variance.sqrt() * weight + bias
        error = float((result - wanted).norm() / wanted.norm())
        if best is None or error < best[0]:
            best = (error, dict(zip(chosen, keys, strict=True)))
    return best[1] if best is not None and best[0] < CLOSE else None


def _by_name(leaves: dict[int, Elements], flow: Flow) -> dict[str, int] | None:
    roles: dict[str, int] = {}
    for key, leaf in leaves.items():
        name = flow.trace.sources[leaf.sources()[0]].names[0].rsplit(".", 1)[-1].lower()
        role = next((role for role, hints in HINTS.items() if any(hint in name for hint in hints)), None)
        if role is None or role in roles:
            return None
        roles[role] = key
    return roles


def _eps(chain: list[Node], operand: Elements, roles: dict[str, int], flow: Flow) -> float | None:
    """What is added to the variance: with variance 0 the result for x = 1 is 1 / sqrt(eps)."""
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    values = {key: one if role == "weight" else zero for role, key in roles.items()}
    try:
        result = float(_evaluate(chain[-1].output, flow, operand, one, values))
    except (RuntimeError, KeyError, TypeError):
        return None
    return float(f"{result**-2:.3g}") if result and result != float("inf") else None


def _evaluate(source: int, flow: Flow, operand: Elements, x: Tensor, values: dict[int, Tensor]) -> Tensor:
    """The value of ``source`` for one feature, given the chain's input and the state by key."""
    if source in operand.sources():
        return x
    node = flow.trace.node_of(source)
    if node is None:
        raise KeyError(source)

    features = flow.normalised(node)
    scaled = next((o for o in node.operands if o.elements is features), None)

    def argument(leaf: Any) -> Any:
        if not isinstance(leaf, Operand):
            return leaf
        if leaf.constant is not None:
            return leaf.constant.reshape(-1)[0].to(torch.float64)
        if flow.is_state(leaf.elements):
            return values[_key(leaf.elements)]
        if leaf is not scaled and scaled is not None:
            return torch.ones((), dtype=torch.float64)  # a token's own statistic
        return _evaluate(leaf.elements.sources()[0], flow, operand, x, values)

    args, kwargs = tree_map(argument, (node.args, node.kwargs))
    if isinstance(args[0], Tensor) and not args[0].dim():
        args = (args[0].clone(), *args[1:])  # an operation in place must not change the given values
    elif node.function._schema.is_mutable:
        args = (args[0].clone(), *args[1:])
    result: Tensor = node.function(*args, **kwargs)
    return result


def _normalisation(operand: Elements, chain: list[Node], flow: Flow) -> tuple[Elements, float | None] | None:
    """(input, eps) of the part of a handwritten norm that subtracts a mean and divides by a deviation.

    ``operand`` is what it gives to ``chain``, which may hold the division itself. None where no mean is taken and
    subtracted within a few operations before.
    """
    scalings = [node for node in chain if flow.normalised(node) is not None]
    statistics = [operand.elements for node in scalings for operand in node.operands]
    region, eps = _region([operand, *statistics], flow)
    for node in sorted(region, key=lambda node: node.index, reverse=True):
        if node.op not in REDUCTIONS:
            continue
        whole = node.operands[0].elements
        users = [n for source in whole.sources() for n in flow.consumers[source] if n.op == "sub" and n in region]
        if users:
            return whole, eps
    return None


def _region(ends: list[Elements], flow: Flow) -> tuple[list[Node], float | None]:
    """Arithmetic and reductions within a few operations before ``ends``, and the small constant added nearest."""
    edge, region, eps = [source for end in ends for source in end.sources()], list[Node](), None
    for _ in range(8):
        nodes = [node for source in edge if (node := flow.trace.node_of(source)) is not None]
        nodes = [node for node in dict.fromkeys(nodes) if node not in region and node.op in REGION]
        region += nodes
        for node in nodes:
            numbers = [a for a in node.args if isinstance(a, float)]
            numbers += [float(a.constant) for a in node.operands if a.constant is not None and a.constant.numel() == 1]
            if node.op == "add" and eps is None:
                eps = next((number for number in numbers if 0 < number < 0.01), None)
        edge = [source for node in nodes for a in node.operands for source in a.elements.sources()]
    return region, eps
