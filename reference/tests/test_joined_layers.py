"""A linear map that holds two of the reference's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from reference.alignment.match.align import AlignmentError, align


class Apart(nn.Module):
    """Scores and offsets from layers of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(12, 8)
        self.scores, self.offsets = nn.Linear(8, 3), nn.Linear(8, 12)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.trunk(images.flatten(1)))
        return self.scores(hidden).softmax(-1).sum() + self.offsets(hidden).tanh().sum()


class Joined(nn.Module):
    """Both from one; ``by_class`` puts each class's score before its offsets."""

    def __init__(self, by_class: bool, softmax: bool = True) -> None:
        super().__init__()
        self.trunk, self.both = nn.Linear(12, 8), nn.Linear(8, 15)
        self.by_class, self.softmax = by_class, softmax

    def forward(self, images: Tensor) -> Tensor:
        both = self.both(torch.relu(self.trunk(images.flatten(1))))
        if self.by_class:
            scores, offsets = both.unflatten(1, (3, 5))[..., 0], both.unflatten(1, (3, 5))[..., 1:]
        else:
            scores, offsets = both[:, :3], both[:, 3:]
        return scores.softmax(-1).sum() + offsets.tanh().sum() if self.softmax else both.tanh().sum()


@pytest.mark.parametrize("by_class", [False, True])
def test_rows_are_told_apart_by_what_becomes_of_them(by_class: bool) -> None:
    subject, reference = Joined(by_class), Apart()
    found = align(subject, reference, torch.rand(1, 3, 2, 2)).to_reference(dict(subject.named_parameters()))
    rows = torch.arange(15).view(3, 5)
    scores, offsets = (rows[:, 0], rows[:, 1:].flatten()) if by_class else (torch.arange(3), torch.arange(3, 15))
    assert torch.equal(found["scores.weight"], subject.both.weight[scores])
    assert torch.equal(found["offsets.bias"], subject.both.bias[offsets])


def test_rows_that_are_all_treated_alike_are_not_guessed() -> None:
    with pytest.raises(AlignmentError, match="scores"):
        align(Joined(by_class=False, softmax=False), Apart(), torch.rand(1, 3, 2, 2))
