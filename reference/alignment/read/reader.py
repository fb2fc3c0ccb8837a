"""Reads a trace as layers: convolutions, linear maps, norms, embeddings and attention, however they were written."""

from __future__ import annotations

from collections.abc import Callable

from reference.alignment.graph.trace import Node, Trace
from reference.alignment.read.attention import recognise_fused_attention, recognise_written_attention, split_projections
from reference.alignment.read.convolution import CONVOLUTION, recognise_convolution
from reference.alignment.read.layer import Layer, LayerGraph
from reference.alignment.read.linear import PRODUCTS, recognise_bias, recognise_linear
from reference.alignment.read.norms import name_affine, recognise_affine, recognise_batch_norm, recognise_native_norm
from reference.alignment.read.reading import ARITHMETIC, Reading
from reference.alignment.read.sums import join_positions, read_tokens, read_whole, recognise_summand


def recognise_other(node: Node, reading: Reading) -> Layer | None:
    """Any further operation of activations with state, under its own name."""
    if node.op == CONVOLUTION or node.op in PRODUCTS or node.op in ARITHMETIC:
        return None  # a recogniser has looked at it, and found no state or nothing new
    states = [operand.elements for operand in node.operands if reading.flow.is_state(operand.elements)]
    dynamic = [operand.elements for operand in node.operands if reading.flow.is_dynamic(operand.elements)]
    if not states or not dynamic:
        return None
    roles = {"weight" if i == 0 else f"weight_{i}": elements for i, elements in enumerate(states)}
    return reading.add(node.op, roles, node, dynamic[0])


RECOGNISERS: tuple[Callable[[Node, Reading], Layer | None], ...] = (
    recognise_convolution,
    recognise_written_attention,  # before linear maps: its products may be batched like theirs
    recognise_linear,
    recognise_batch_norm,
    recognise_native_norm,
    recognise_fused_attention,
    recognise_summand,  # before biases: a further summand may be a constant's product with the state
    recognise_bias,  # before affine: an addition to a layer without bias begins no embedding
    recognise_affine,
    recognise_other,
)
"""Asked in this order; the first that returns a layer settles an operation. None of them: it belongs to no layer."""


def read_layers(trace: Trace) -> LayerGraph:
    """The layers of ``trace`` in execution order."""
    reading = Reading(trace)
    for node in trace.nodes:
        if node.outputs and trace.sources[node.output].dynamic:
            read_tokens(node, reading)
            found = (recognise(node, reading) for recognise in RECOGNISERS)
            reading.record(node, next((layer for layer in found if layer is not None), None))
    return LayerGraph(trace, reading.flow, _finished(reading))


def _finished(reading: Reading) -> list[Layer]:
    """The layers after what only the whole trace tells: sums, norms written by hand, positions, queries and keys."""
    for layer in reading.layers:
        if layer.pieces:
            read_whole(layer, reading.flow)
        if layer.kind == "affine":
            name_affine(layer, reading.flow)
    join_positions(reading.layers)
    layers = split_projections(reading.layers, reading.main, reading.flow)
    return [layer for layer in layers if layer.roles or layer.kind == "attention"]
