"""Copies tensors between two models, element by element."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from reference.alignment.graph.elements import Elements, from_codes, position_of, source_of
from reference.alignment.graph.trace import Trace


@dataclass(frozen=True, eq=False)
class _Piece:
    """Elements of one state tensor: a strided view of its flattened values, or a list of flat indices."""

    name: str
    size: tuple[int, ...]
    stride: tuple[int, ...] = ()
    offset: int = 0
    index: Tensor | None = None

    @property
    def numel(self) -> int:
        return math.prod(self.size)

    @property
    def is_run(self) -> bool:
        """Whether its elements lie one behind the other."""
        return self.index is None and _in_order(self.size, self.stride)

    def followed_by(self, other: _Piece) -> _Piece:
        """One run of this one and of ``other``, which begins where it ends."""
        return _Piece(self.name, (self.numel + other.numel,), (1,), self.offset)

    def spans(self, tensor: Tensor) -> bool:
        """Whether the piece is all of ``tensor`` in order, so that its values are the result as they are."""
        return self.is_run and self.numel == tensor.numel()

    def read(self, flat: Tensor) -> Tensor:
        if self.index is not None:
            return flat[self.index]
        return flat.as_strided(self.size, self.stride, flat.storage_offset() + self.offset)

    def write(self, flat: Tensor, values: Tensor) -> None:
        if self.index is not None:
            flat[self.index] = values.reshape(self.index.shape).to(flat.dtype)
        else:
            there = flat.as_strided(self.size, self.stride, flat.storage_offset() + self.offset)
            there.copy_(values.reshape(self.size))


def _in_order(size: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    step = 1
    for length, distance in zip(reversed(size), reversed(stride), strict=True):
        if length > 1 and distance != step:
            return False
        step *= length
    return True


class _Side:
    """One model's state, and which of its elements have found a counterpart."""

    def __init__(self, traced: Trace) -> None:
        self.trace = traced
        self.parameters = {name for name, _ in traced.model.named_parameters()}
        self.count: dict[str, int] = {}
        """How many elements of each tensor have a counterpart."""
        self.covered: dict[str, Tensor] = {}
        """Which ones, as a mask over the flattened tensor, where it is some but not all."""
        self.state = traced.state
        self.homes: dict[int, list[str]] = {
            source.number: list(source.names) for source in traced.sources if source.kind == "state"
        }

    def pieces(self, elements: Elements) -> list[tuple[Tensor | None, _Piece]]:
        """(mask over the flattened elements, piece) for each state tensor involved; a mask of None is all."""
        if elements.table is None:
            names = self.homes[elements.source]
            tensor = self.state[names[0]]
            if len(names) == 1 and tensor.is_contiguous() and tensor.storage_offset() <= elements.offset:
                offset = elements.offset - int(tensor.storage_offset())
                return [(None, _Piece(names[0], elements.size, elements.stride, offset))]
        flat = elements.codes().reshape(-1)
        found: list[tuple[Tensor | None, _Piece]] = []
        for source in torch.unique(source_of(flat)).tolist():
            left = source_of(flat) == source
            for name in self.homes.get(source, []):
                logical = self._logical(name, position_of(flat))
                mask = left & (logical >= 0)
                if mask.any():
                    index = logical[mask]
                    found.append((None if bool(mask.all()) else mask, _Piece(name, (len(index),), index=index)))
                    left = left & ~mask
        return found

    def _logical(self, name: str, positions: Tensor) -> Tensor:
        """Index in the flattened tensor of each storage position, -1 outside it."""
        tensor = self.state[name]
        length = tensor.untyped_storage().nbytes() // tensor.element_size()
        if tensor.is_contiguous():
            index = positions - tensor.storage_offset()
            return torch.where((index >= 0) & (index < tensor.numel()), index, -1)
        lookup = torch.full((length,), -1, dtype=torch.int64)
        view = lookup.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        view.copy_(torch.arange(tensor.numel()).view(tensor.shape))
        return lookup[positions]

    def elements(self, name: str) -> Elements:
        """All elements of a state tensor in logical order."""
        tensor = self.state[name]
        source = next(number for number, names in self.homes.items() if name in names)
        return Elements(
            size=tuple(tensor.shape), source=source, stride=tensor.stride(), offset=int(tensor.storage_offset())
        )  # fmt: skip

    def free(self, piece: _Piece) -> bool:
        """Whether none of the piece's elements has a counterpart yet."""
        if piece.name not in self.count:
            return True
        mask = self.covered.get(piece.name)
        return mask is not None and not bool(piece.read(mask).any())

    def cover(self, piece: _Piece) -> None:
        """Mark the piece's elements, free before, as having a counterpart."""
        length = self.state[piece.name].numel()
        count = self.count[piece.name] = self.count.get(piece.name, 0) + piece.numel
        if count >= length:
            self.covered.pop(piece.name, None)
            return
        mask = self.covered.setdefault(piece.name, torch.zeros(length, dtype=torch.bool))
        piece.write(mask, torch.ones((), dtype=torch.bool).expand(piece.size))

    def open(self, *, buffers: bool) -> list[str]:
        """State tensors with elements that have no counterpart, tensors shared under an earlier name left out."""
        names = [n for n in self.state if (n in self.parameters) != buffers]
        return [n for n in names if self.count.get(n, 0) < self.state[n].numel()]


class ElementMap:
    """Pairs of equally shaped elements of two models' state."""

    def __init__(self, subject: Trace, reference: Trace) -> None:
        self._ours, self._theirs = _Side(subject), _Side(reference)
        self._pairs: list[tuple[_Piece, _Piece]] = []
        self._ends: dict[tuple[str, int, str, int], int] = {}
        """Where in both tensors a pair of runs ends -> its place among the pairs."""

    def add(self, subject: Elements, reference: Elements) -> None:
        """Pair elements of the same shape; elements that have a counterpart (in a shared tensor) keep it."""
        ours, theirs = self._ours.pieces(subject), self._theirs.pieces(reference)
        if len(ours) == len(theirs) == 1 and ours[0][0] is None and theirs[0][0] is None:
            self._add(ours[0][1], theirs[0][1])
            return
        codes, other = subject.codes().reshape(-1), reference.codes().reshape(-1)
        groups = torch.stack([source_of(codes), source_of(other)])
        for left, right in torch.unique(groups, dim=1).t().tolist():
            mask = (groups[0] == left) & (groups[1] == right)
            for part, own in self._ours.pieces(from_codes(codes[mask])):
                for their_part, their in self._theirs.pieces(
                    from_codes(other[mask] if part is None else other[mask][part])
                ):
                    if their_part is None:
                        self._add(own, their)
                    elif own.index is not None:
                        self._add(_Piece(own.name, their.size, index=own.index[their_part]), their)

    def _add(self, ours: _Piece, theirs: _Piece) -> None:
        if self._ours.free(ours) and self._theirs.free(theirs):
            self._ours.cover(ours)
            self._theirs.cover(theirs)
            self._append(ours, theirs)

    def _append(self, ours: _Piece, theirs: _Piece) -> None:
        """Keep a pair; one that goes on where another ends, as keys behind queries do, makes a longer one with it."""
        if not (ours.is_run and theirs.is_run):
            self._pairs.append((ours, theirs))
            return
        place = self._ends.pop((ours.name, ours.offset, theirs.name, theirs.offset), len(self._pairs))
        if place < len(self._pairs):
            ours, theirs = (a.followed_by(b) for a, b in zip(self._pairs[place], (ours, theirs), strict=True))
        self._pairs[place : place + 1] = [(ours, theirs)]
        self._ends[ours.name, ours.offset + ours.numel, theirs.name, theirs.offset + theirs.numel] = place

    def add_named(self, names: Mapping[str, str]) -> None:
        """Pair whole tensors by name (reference -> subject) that structure left open."""
        for name, own in names.items():
            mine, other = self._ours.state.get(own), self._theirs.state.get(name)
            if mine is not None and other is not None and mine.numel() == other.numel():
                left = self._ours.elements(own)
                self.add(left if mine.shape == other.shape else left.reshape(*other.shape), self._theirs.elements(name))

    def add_left_over(self) -> None:
        """Pair parameters that no operation used on either side where name and shape agree."""
        ours, theirs = set(self._ours.open(buffers=False)), self._theirs.open(buffers=False)
        for name in theirs:
            untouched = name not in self._ours.count and name not in self._theirs.count
            if untouched and name in ours and self._ours.state[name].shape == self._theirs.state[name].shape:
                self.add(self._ours.elements(name), self._theirs.elements(name))

    def unmatched(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(subject's, reference's) names left without a counterpart: parameters, and buffers used by a layer."""
        return self._unmatched(self._ours), self._unmatched(self._theirs)

    def _unmatched(self, side: _Side) -> tuple[str, ...]:
        partly = [name for name in side.open(buffers=True) if name in side.count]
        return tuple(side.open(buffers=False) + partly)

    def counterparts(self, reference_name: str) -> tuple[str, ...]:
        """The subject's names that hold elements of ``reference_name``."""
        return tuple(dict.fromkeys(own.name for own, their in self._pairs if their.name == reference_name))

    def apply(self, tensors: Mapping[str, Tensor], *, forward: bool) -> dict[str, Tensor]:
        """``tensors`` of one side as the other side's; ``forward`` is from the subject to the reference.

        The results may share memory with ``tensors``.
        """
        origin, target = (self._ours, self._theirs) if forward else (self._theirs, self._ours)
        flats: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            known = origin.state.get(name)
            if known is None:
                continue
            if tensor.shape != known.shape:
                raise ValueError(f"{name}: shape {tuple(tensor.shape)}, expected {tuple(known.shape)}")
            flats[name] = tensor.detach().reshape(-1)
        needed: dict[str, set[str]] = {}
        for ours, theirs in self._pairs:
            source, destination = (ours, theirs) if forward else (theirs, ours)
            needed.setdefault(destination.name, set()).add(source.name)
        wanted = {name for name, pieces in needed.items() if pieces <= flats.keys()}
        result: dict[str, Tensor] = {}
        for ours, theirs in self._pairs:
            source, destination = (ours, theirs) if forward else (theirs, ours)
            if destination.name not in wanted:
                continue
            values = source.read(flats[source.name])
            if destination.name not in result:
                if destination.spans(target.state[destination.name]):
                    result[destination.name] = values.reshape(target.state[destination.name].shape)
                    continue
                shape = target.state[destination.name].shape
                result[destination.name] = torch.zeros(shape, dtype=values.dtype, device=values.device)
            destination.write(result[destination.name].view(-1), values)
        return result
