"""Values of elements, read from a trace that kept its results."""

from __future__ import annotations

import torch
from torch import Tensor

from reference.alignment.graph.elements import Elements, position_of, source_of
from reference.alignment.graph.run_unchanged import first_logits
from reference.alignment.graph.trace import Trace


class Values:
    """Reads operands and results of a trace made with ``keep_values``."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._physical: dict[int, Tensor] = {}

    def of_source(self, number: int) -> Tensor | None:
        """The result that a source stands for; None for a constant."""
        source = self._trace.sources[number]
        if source.kind == "state":
            return self._trace.state[source.names[0]]
        return source.value

    def output(self) -> Tensor | None:
        """The logits that forward returned."""
        return first_logits(self._trace.output)

    def of(self, elements: Elements) -> Tensor | None:
        """The values of ``elements``, in their shape; elements of constants are zero."""
        if elements.table is None:
            storage = self._storage(elements.source)
            return None if storage is None else storage.as_strided(elements.size, elements.stride, elements.offset)
        numbers = source_of(elements.table)
        result: Tensor | None = None
        for number in elements.sources():
            storage = self._storage(number)
            if storage is None:
                return None
            if result is None:
                result = torch.zeros(elements.size, dtype=storage.dtype)
            mask = numbers == number
            result[mask] = storage[position_of(elements.table[mask])].to(result.dtype)
        return result

    def _storage(self, number: int) -> Tensor | None:
        """The values of a source laid out as its storage was."""
        if number not in self._physical:
            value, source = self.of_source(number), self._trace.sources[number]
            if value is None:
                return None
            length = source.offset + 1 + sum((n - 1) * s for n, s in zip(source.size, source.stride, strict=True))
            storage = torch.zeros(length, dtype=value.dtype)
            storage.as_strided(source.size, source.stride, source.offset).copy_(value)
            self._physical[number] = storage
        return self._physical[number]
