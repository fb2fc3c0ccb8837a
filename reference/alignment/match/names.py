"""Names and descriptions of layers in tables and messages."""

from __future__ import annotations

from collections.abc import Sequence

from reference.alignment.graph.trace import Node
from reference.alignment.read.layer import Layer, LayerGraph

ROLE_NAMES = frozenset({"weight", "bias", "running_mean", "running_var"})
ACTIVATIONS = {
    "relu": "relu", "gelu": "gelu", "silu": "silu", "sigmoid": "sigmoid", "hardswish": "hardswish", "elu": "elu",
    "hardsigmoid": "hardsigmoid", "tanh": "tanh", "leaky_relu": "leaky_relu", "mish": "mish", "softplus": "softplus",
    "_softmax": "softmax", "_log_softmax": "log_softmax", "threshold": "relu",
}  # fmt: skip


def layer_name(layer: Layer, graph: LayerGraph) -> str:
    """The name of the module that owns the weight, or of the parameter itself where no module stands for it."""
    if not layer.roles:
        names = sorted({layer_name(p, graph) for p in graph.layers if (p.number, p.part) in layer.before and p.part})
        owners = {name.split(" ")[0] for name in names}
        prefix = common_prefix(sorted(owners)) if len(owners) > 1 else "".join(owners).rpartition(".")[0]
        return f"{prefix} (attention)" if prefix else "attention"
    state = [n for e in layer.roles.values() for s in e.sources() for n in graph.trace.sources[s].names[:1]]
    name = state[0] if state else "?"
    owner, _, last = name.rpartition(".")
    shown = owner if owner and last in ROLE_NAMES else name
    return f"{shown} ({layer.part})" if layer.part else shown


def common_prefix(names: Sequence[str]) -> str:
    """The dotted prefix that all names share."""
    if not names:
        return ""
    parts = [name.split(".") for name in names]
    shared: list[str] = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return ".".join(shared)


def stage_name(name: str) -> str:
    """The stage of a layer: its name up to the first number that is followed by more, else its first part.

    ``layer3.0.conv2`` is in ``layer3``, ``features.4.0.block.1`` in ``features.4``, ``blocks.2.attn`` in ``blocks.2``,
    ``encoder.layers.encoder_layer_3.mlp`` in ``encoder.layers.encoder_layer_3``.
    """
    parts = name.split(" ")[0].split(".")
    for place, part in enumerate(parts):
        if part[-1:].isdigit() and (place + 1 < len(parts) or place == 0):
            return ".".join(parts[: place + 1])
    return parts[0]


def display_kind(layer: Layer) -> str:
    """The kind in words; a linear map that was written as a convolution is called one."""
    if layer.kind == "linear" and "stride" in layer.hyper:
        return "convolution"
    return "embedding" if layer.kind == "token" else layer.kind


def activation_after(layer: Layer, graph: LayerGraph) -> str:
    """The activation function applied to the layer's result, "" where there is none."""
    consumers = graph.flow.consumers.get(layer.output, [])
    for node in consumers:
        name = activation_name(node)
        if name in ("sigmoid", "hardsigmoid"):
            swish = any(n.op == "mul" and {layer.output, node.output} <= _operands(n) for n in consumers)
            return {"sigmoid": "silu", "hardsigmoid": "hardswish"}[name] if swish else name
        if name:
            return name
    return ""


def activation_name(node: Node) -> str:
    """The name of a node as an activation function, "" where it is none."""
    if node.op == "gelu":
        approximate = node.kwargs.get("approximate", "none")
        return "gelu" if approximate == "none" else f"gelu ({approximate} approximation)"
    if node.op == "hardtanh":
        return "relu6" if tuple(node.args[1:3]) == (0.0, 6.0) else "hardtanh"
    if node.op in ("clamp", "clamp_min"):
        bounds = [*node.args[1:], None, None][:2]
        return {(0, None): "relu", (0, 6): "relu6"}.get((bounds[0], bounds[1]), "clamp")
    return ACTIVATIONS.get(node.op, "")


def _operands(node: Node) -> set[int]:
    return {source for operand in node.operands for source in operand.elements.sources()}
