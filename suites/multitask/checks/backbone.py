"""Whether the trunk is the network that its name says, and every head reads its pooled features."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from harness.bench.bench import Bench, seeded
from harness.errors import SubjectError
from harness.numerics.fast_conv import FastConv
from reference.alignment.match.align import Alignment, AlignmentError, align
from reference.weights.nondegenerate import randomise
from suites.multitask.checks.network import GUARD, ROUNDING, WIDTHS, enlivened, network, outputs, pieces, relative

BATCH = 5
GRADIENTS = 1e-6
"""Relative. Random directions and weights leave rounding through 50 layers of BatchNorm at 1e-9 or less; a task's
gradient that is scaled, cut or turned in some layer is off by its own size there."""

LOUD = 30.0
"""Of images: many times what normalised ones hold."""
LOUDEST = 1e6
"""Of gradients, which are in proportion to what they come from: those that are clipped are not."""


def check_trunk(bench: Bench) -> None:
    """The trunk is the one that the network's name says, and every head reads its features; see `_compare`."""
    with FastConv():
        _compare(bench)


def _compare(bench: Bench) -> None:
    """With the weights of torchvision's trunk, and the class head as read-out, the class logits are the reference's, in
    eval mode and in train mode, for small images and large ones; the other heads read the same features, the ones that
    enter the reference's; each task's gradient of every weight of the trunk is what follows from that, and BatchNorm's
    statistics move alike."""
    reference = bench.family.references()[0]
    name = bench.architecture.facts["trunk"]
    with seeded(bench.seed):
        theirs = reference.build(name, num_classes=WIDTHS["classes"]).double().eval()
    sample = bench.images(BATCH, 64)
    randomise(theirs, sample, seed=bench.seed + 1)
    ours = _Classes(bench, enlivened(network(bench).double().eval(), bench.seed))
    who = f"{bench.who} against {name} of {reference.library} {reference.version}"
    head = {n: p for n, p in theirs.named_parameters() if any(p is q for q in _head(theirs).parameters())}
    left: set[str] = set()
    try:
        alignment = align(ours, theirs, sample[:1])
    except AlignmentError as error:
        left = set(error.alignment.unmatched_reference) if error.alignment is not None else set()
        if error.alignment is None or not left <= set(head):
            raise SubjectError(f"{who}: {error}") from error
        alignment = error.alignment  # the other heads have no counterpart, nor has one that is part of a larger layer
    values = alignment.to_subject({n: t for n, t in theirs.state_dict().items() if t.is_floating_point()})
    ours.load_state_dict(values, strict=False)
    for parameter in (head[n] for n in left):
        for piece in pieces(bench):
            if piece.tasks == ("classes",) and piece.size == parameter.numel():
                piece.write(ours.net, _laid_out(parameter.detach(), piece.of(ours.net)))
    trunk = {n: p for n, p in theirs.named_parameters() if n not in head}
    for mode, images in (("eval", LOUD * bench.images(1, 160, 224)), ("eval", sample), ("train", sample)):
        gradients = len(images) > 1
        expected = _expected(bench, theirs.train(mode == "train"), ours.net, images)
        answers = outputs(bench, ours.train(mode == "train").net, images)
        if mode == "train":  # before a backward pass, in which checkpointed layers run again
            _compare_statistics(who, ours, theirs, alignment)
        for task, got in answers.items():
            wanted = expected.get(task)
            if wanted is None:  # a head that is no matrix and vector
                continue
            if task == "embedding" and not torch.allclose(got.norm(dim=1), torch.ones(len(got)).double(), atol=GUARD):
                got = nn.functional.normalize(got, dim=1)  # that it should have length one is said by another check
            off, bound = relative(got, wanted), GUARD if task == "embedding" else ROUNDING
            what = f"{who}: in {mode} mode, on images {tuple(images.shape)}, with the same weights, "
            assert off < bound, (
                f"{what}the class logits differ by {off:.1e} (relative, float64); expected at most {bound:.0e}"
                if task == "classes"
                else f"{what}{task} is off by {off:.1e} from its head's weights times the pooled features; expected at "
                f"most {bound:.0e}"
            )
            if gradients:
                _compare_gradients(what, task, got, wanted, ours, trunk, alignment)


def _expected(bench: Bench, theirs: nn.Module, own: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Each task's output from the reference's features and the weights of its head, where they can be read."""
    logits, features = _with_features(theirs, images)
    read = {task: _read_out(bench, own, task, features) for task in ("box", "embedding")}
    return {"classes": logits, **{task: out for task, out in read.items() if out is not None}}


def _compare_gradients(
    what: str,
    task: str,
    got: Tensor,
    wanted: Tensor,
    ours: nn.Module,
    trunk: Mapping[str, nn.Parameter],
    alignment: Alignment,
) -> None:
    direction = LOUDEST * torch.linspace(-1.0, 1.3, wanted.numel(), dtype=wanted.dtype).view(wanted.shape)
    named = {n: p for n, p in ours.named_parameters() if p.requires_grad}
    keep = {"retain_graph": True, "allow_unused": True}
    there = dict(zip(trunk, torch.autograd.grad(wanted, list(trunk.values()), direction, **keep), strict=True))
    here = zip(named, torch.autograd.grad(got, list(named.values()), direction, **keep), strict=True)
    mapped = alignment.to_reference({n: torch.zeros_like(named[n]) if g is None else g for n, g in here})
    norms = {n: float(g.norm()) for n, g in there.items() if g is not None}
    least = 1e-6 * max(norms.values())
    for name, norm in norms.items():
        names = ", ".join(alignment.subject_names(name))
        assert name in mapped, (
            f"{what}no gradient of {task} reaches {names} (there {name}); expected the trunk to train: it is frozen"
        )
        off = float((mapped[name] - there[name]).norm()) / max(norm, least)
        assert off < GRADIENTS, (
            f"{what}the gradient of {task} with respect to {names} (there {name}) "
            f"is off by {off:.1e} (relative); expected at most {GRADIENTS:.0e}"
        )


def _compare_statistics(who: str, ours: nn.Module, theirs: nn.Module, alignment: Alignment) -> None:
    here = alignment.to_reference({n: b for n, b in ours.named_buffers() if b.is_floating_point()})
    for name, buffer in theirs.named_buffers():
        if buffer.is_floating_point() and name in here:
            off = relative(here[name], buffer)
            assert off < ROUNDING, (
                f"{who}: after a pass in train mode {', '.join(alignment.subject_names(name))} (there {name}) is off "
                f"by {off:.1e}; expected at most {ROUNDING:.0e}: another momentum, or statistics of part of a batch"
            )


def _laid_out(values: Tensor, like: Tensor) -> Tensor:
    """``values`` (out, in), or (out), in the shape of ``like``, which may be its transpose."""
    turned = values.T if values.ndim == 2 and like.squeeze().shape == values.T.shape != values.shape else values
    return turned.reshape(like.shape)


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


def _read_out(bench: Bench, model: nn.Module, task: str, features: Tensor) -> Tensor | None:
    """A task's output from the weights of its head; None where they are no matrix and vector."""
    outputs_, width = WIDTHS[task], features.shape[1]
    own = [p for p in pieces(bench) if p.tasks == (task,)]
    matrices = [p.of(model) for p in own if p.size == outputs_ * width]
    vectors = [p.of(model) for p in own if p.size == outputs_]
    if len(matrices) != 1 or len(vectors) != 1:
        return None
    matrix = matrices[0].squeeze()
    matrix = matrix if matrix.shape == (width, outputs_) else matrix.reshape(outputs_, width).T
    out = features @ matrix + vectors[0].reshape(-1)
    return nn.functional.normalize(out, dim=1) if task == "embedding" else out


class _Classes(nn.Module):
    """The network with its class logits as only output."""

    def __init__(self, bench: Bench, model: nn.Module) -> None:
        super().__init__()
        self.net = model
        self._bench = bench

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) -> (batch, 10)."""
        return outputs(self._bench, self.net, images)["classes"]
