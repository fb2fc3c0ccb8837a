"""The origin of each element of a tensor: a state tensor, the input, or an operation's result.

Every storage seen while a model runs has a *source number*, and every element of it a *code*: the source number shifted
left by `SHIFT` bits, plus the element's position in that storage. Views cost nothing, since they share the storage.
A copy (cat, clone, gather, ...) repeats the same copy on the codes, so that any later tensor still tells, element by
element, what it is made of. As long as a tensor comes from one source, its codes are kept as size, stride and offset
and are never computed: tracing a network of 300 million parameters takes no memory for them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

SHIFT = 40
"""Bits for the position of an element in its storage; the source number stands above them."""
CONSTANT = 0
"""Source number of everything that comes neither from the input nor from the state."""


def source_of(codes: Tensor) -> Tensor:
    """Source numbers of ``codes``, same shape."""
    return codes >> SHIFT


def position_of(codes: Tensor) -> Tensor:
    """Positions in their storages of ``codes``, same shape."""
    return codes & ((1 << SHIFT) - 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Elements:
    """The origin of each element of a tensor of ``size``.

    Either all of them lie in one ``source``, at ``offset`` plus index times ``stride`` of its storage, or ``table``
    (int64, shaped ``size``) holds the code of each.
    """

    size: tuple[int, ...]
    source: int = CONSTANT
    stride: tuple[int, ...] = ()
    offset: int = 0
    table: Tensor | None = None

    @property
    def numel(self) -> int:
        """Number of elements."""
        total = 1
        for length in self.size:
            total *= length
        return total

    def codes(self) -> Tensor:
        """The code of each element, int64, shaped ``size``."""
        if self.table is not None:
            return self.table
        codes = torch.full((), (self.source << SHIFT) + self.offset, dtype=torch.int64)
        for dim, (length, stride) in enumerate(zip(self.size, self.stride, strict=True)):
            steps = torch.arange(length, dtype=torch.int64) * stride
            codes = codes + steps.view(-1, *(1,) * (len(self.size) - dim - 1))
        return codes.expand(self.size)

    def sources(self) -> tuple[int, ...]:
        """The distinct source numbers, ascending; constants are left out."""
        if self.table is None:
            return () if self.source == CONSTANT else (self.source,)
        if self.numel == 0:
            return ()
        numbers = source_of(self.table)
        low, high = int(numbers.min()), int(numbers.max())
        if low == high:
            return () if low == CONSTANT else (low,)
        return tuple(int(s) for s in torch.unique(numbers).tolist() if s != CONSTANT)

    def select(self, dim: int, index: int) -> Elements:
        """One slice, without the dimension."""
        if self.table is not None:
            return from_codes(self.table.select(dim, index))
        return replace(
            self,
            size=self.size[:dim] + self.size[dim + 1 :],
            stride=self.stride[:dim] + self.stride[dim + 1 :],
            offset=self.offset + index * self.stride[dim],
        )

    def take(self, dim: int, indices: list[int]) -> Elements:
        """The listed slices of ``dim`` in their order; consecutive indices need no table."""
        start, count = indices[0], len(indices)
        if indices == list(range(start, start + count)):
            if count == self.size[dim]:
                return self
            size = (*self.size[:dim], count, *self.size[dim + 1 :])
            if self.table is not None:
                return from_codes(self.table.narrow(dim, start, count))
            return replace(self, size=size, offset=self.offset + start * self.stride[dim])
        return from_codes(self.codes().index_select(dim, torch.tensor(indices)))

    def transpose(self) -> Elements:
        """A matrix with rows and columns exchanged."""
        if self.table is not None:
            return from_codes(self.table.t())
        return replace(self, size=self.size[::-1], stride=self.stride[::-1])

    def squeeze(self) -> Elements:
        """Without the dimensions of length one."""
        if self.table is not None:
            return from_codes(self.table.squeeze())
        kept = [dim for dim, length in enumerate(self.size) if length != 1]
        return replace(self, size=tuple(self.size[d] for d in kept), stride=tuple(self.stride[d] for d in kept))

    def reshape(self, *size: int) -> Elements:
        """The same elements in logical order, in another shape."""
        if size == self.size:
            return self
        if tuple(s for s in size if s != 1) == tuple(s for s in self.size if s != 1) and self.table is None:
            strides = iter([t for t, s in zip(self.stride, self.size, strict=True) if s != 1])
            return replace(self, size=size, stride=tuple(next(strides) if s != 1 else 0 for s in size))
        return from_codes(self.codes().reshape(size))


def from_codes(codes: Tensor) -> Elements:
    """Elements with the codes written out."""
    return Elements(size=tuple(codes.shape), table=codes)


@dataclass
class _Storage:
    keep: torch.UntypedStorage  # a storage that is freed could give its address to another
    length: int
    source: int
    codes: Tensor | None = None


class StorageOrigins:
    """The origin of every element of every storage seen so far."""

    def __init__(self) -> None:
        self._storages: dict[int, _Storage] = {}

    def knows(self, tensor: Tensor) -> bool:
        """Whether the tensor's storage has been seen."""
        return tensor.untyped_storage().data_ptr() in self._storages

    def declare(self, tensor: Tensor, source: int) -> None:
        """Register the whole storage behind ``tensor`` as ``source``."""
        storage = tensor.untyped_storage()
        if storage.nbytes():
            length = storage.nbytes() // tensor.element_size()
            self._storages[storage.data_ptr()] = _Storage(storage, length, source)

    def of(self, tensor: Tensor) -> Elements:
        """The origin of each element of ``tensor``."""
        known = self._storages.get(tensor.untyped_storage().data_ptr())
        size, stride, offset = tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset())
        if known is None:
            return Elements(size=size, stride=(0,) * len(size))
        if known.codes is not None:
            return from_codes(known.codes.as_strided(size, stride, offset))
        return Elements(size=size, source=known.source, stride=stride, offset=offset)

    def result(self, tensor: Tensor, source: int) -> None:
        """Register a newly computed ``tensor`` as ``source``: its whole storage, or its part of a known one."""
        known = self._storages.get(tensor.untyped_storage().data_ptr())
        if known is None or tensor.numel() == known.length:
            self.declare(tensor, source)
            return
        positions = torch.arange(known.length, dtype=torch.int64)
        self.write(
            tensor, positions.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()) + (source << SHIFT)
        )

    def write(self, tensor: Tensor, codes: Tensor) -> None:
        """Note that ``tensor`` was copied from the elements with ``codes`` (broadcastable to it)."""
        pointer = tensor.untyped_storage().data_ptr()
        if tensor.numel() == 0:
            return
        if pointer not in self._storages:
            self.declare(tensor, CONSTANT)
        known = self._storages[pointer]
        if known.codes is None:
            known.codes = torch.arange(known.length, dtype=torch.int64)
            known.codes += known.source << SHIFT
        known.codes.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).copy_(codes)
