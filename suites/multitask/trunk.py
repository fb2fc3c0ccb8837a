"""Whether the trunk is the network that its name says, and every head reads its pooled features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.subjects import SubjectError
from harness.workbench import Workbench, seeded
from reference.alignment import AlignmentError, align
from reference.weights import randomise
from suites.multitask.network import GUARD, ROUNDING, WIDTHS, images, network, outputs, pieces, relative


def check_trunk(bench: Workbench) -> None:
    """With the weights of torchvision's trunk, and the class head as read-out, the class logits are the reference's,
    in eval mode and in train mode; and the other heads read the same features, the ones that enter the reference's."""
    reference = bench.family.references()[0]
    name = bench.architecture.facts["trunk"]
    with seeded(bench.seed):
        theirs = reference.build(name, num_classes=WIDTHS["classes"]).double().eval()
    sample = images(bench)
    randomise(theirs, sample, seed=bench.seed + 1)
    ours = _Classes(bench, network(bench).double().eval())
    who = f"{bench.who} against {name} of {reference.library} {reference.version}"
    try:
        alignment = align(ours, theirs, sample[:1])
    except AlignmentError as error:
        head = {n for n, p in theirs.named_parameters() if any(p is q for q in _head(theirs).parameters())}
        if error.alignment is None or not set(error.alignment.unmatched_reference) <= head:
            raise SubjectError(f"{who}: {error}") from error
        alignment = error.alignment  # the other heads have no counterpart, nor has one that is part of a larger layer
    values = alignment.to_subject({n: t for n, t in theirs.state_dict().items() if t.is_floating_point()})
    ours.load_state_dict(values, strict=False)
    for parameter in _head(theirs).parameters():
        for piece in pieces(bench):
            if piece.tasks == ("classes",) and piece.size == parameter.numel():
                piece.write(ours.net, parameter.detach().reshape(piece.of(ours.net).shape))
    for mode in ("eval", "train"):
        with torch.no_grad():
            expected, features = _with_features(theirs.train(mode == "train"), sample)
            answers = outputs(bench, ours.train(mode == "train").net, sample)
        got = answers["classes"]
        error = relative(got, expected)
        assert error < ROUNDING, (
            f"{who}: in {mode} mode, with the same weights, the class logits differ by {error:.1e} (relative, "
            f"float64); expected at most {ROUNDING:.0e}"
        )
        for task in ("box", "embedding"):
            wanted = _read_out(bench, ours.net, task, features)
            given = answers[task] if task == "box" else nn.functional.normalize(answers[task], dim=1)
            off = relative(given, wanted) if wanted is not None else 0.0
            assert off < GUARD, (
                f"{who}: in {mode} mode, with the same weights, {task} is off by {off:.1e} from its head's weights "
                f"times the pooled features; expected at most {GUARD:.0e}"
            )


def _with_features(reference: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and what enters the last linear layer: (batch, width)."""
    seen: list[Tensor] = []
    handle = _head(reference).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        logits = reference(images)
    finally:
        handle.remove()
    return logits, seen[-1]


def _head(reference: nn.Module) -> nn.Linear:
    return [m for m in reference.modules() if isinstance(m, nn.Linear)][-1]


def _read_out(bench: Workbench, model: nn.Module, task: str, features: Tensor) -> Tensor | None:
    """A task's output from the weights of its head; None where they are no matrix and vector."""
    outputs_, width = WIDTHS[task], features.shape[1]
    own = [p for p in pieces(bench) if p.tasks == (task,)]
    matrices = [p.of(model) for p in own if p.size == outputs_ * width]
    vectors = [p.of(model) for p in own if p.size == outputs_]
    if len(matrices) != 1 or len(vectors) != 1:
        return None
    out = features @ matrices[0].reshape(outputs_, width).T + vectors[0].reshape(-1)
    return nn.functional.normalize(out, dim=1) if task == "embedding" else out


class _Classes(nn.Module):
    """The network with its class logits as only output."""

    def __init__(self, bench: Workbench, model: nn.Module) -> None:
        super().__init__()
        self.net = model
        self._bench = bench

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) -> (batch, 10)."""
        return outputs(self._bench, self.net, images)["classes"]
