from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.measure.contenders import LeftOut, reference_contenders
from harness.measure.machine import matmul_peak
from harness.measure.setting import Setting
from harness.measure.workload import Inference, Training, liven, random_batch
from harness.tests.measure.test_benchmark import FAMILY, Subject, network
from reference.libraries.reference import Reference


def test_batches_are_repeatable_and_of_float32() -> None:
    one, two = random_batch(2, 8), random_batch(2, 8)
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.labels, two.labels)
    assert (one.images.shape, one.images.dtype, one.size) == ((2, 3, 8, 8), torch.float32, 2)
    assert one.images.is_contiguous()


def test_inference_is_in_eval_mode_and_keeps_no_graph() -> None:
    seen: list[tuple[bool, bool]] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((self.training, torch.is_inference_mode_enabled()))
            return x

    Inference(Spy(), random_batch(1, 8))()
    assert seen == [(False, True)]
    assert not torch.is_inference_mode_enabled()


def test_a_training_step_is_sgd_with_momentum() -> None:
    batch = random_batch(2, 16)
    model, by_hand = network(), network()
    by_hand.load_state_dict(model.state_dict())
    work = Training(model, batch)
    velocity = {n: torch.zeros_like(p) for n, p in by_hand.named_parameters()}
    for _ in range(3):
        work()
        by_hand.zero_grad()
        nn.functional.cross_entropy(by_hand(batch.images), batch.labels).backward()
        with torch.no_grad():
            for name, parameter in by_hand.named_parameters():
                assert parameter.grad is not None
                velocity[name].mul_(0.9).add_(parameter.grad)
                parameter.sub_(1e-4 * velocity[name])
    for name, parameter in by_hand.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter)
        assert model.get_parameter(name).grad is None


def test_zero_weights_come_alive_and_others_stay() -> None:
    linear, norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
    nn.init.zeros_(norm.weight)
    before = linear.weight.clone()
    liven(nn.Sequential(linear, norm))
    assert norm.weight.all()
    assert not norm.bias.any()
    assert torch.equal(linear.weight, before)


def test_libraries_that_are_not_installed_are_left_out() -> None:
    def missing() -> tuple[Reference, ...]:
        raise ImportError("No module named 'library'")

    class Alone(Subject):
        family = type(FAMILY)(name="alone", architectures=FAMILY.architectures, model="", references=missing)

    (absent,) = reference_contenders(Alone(), Setting(mode="infer"), random_batch(1, 16))
    assert absent == LeftOut(label="references", reason="can't be imported: No module named 'library'")


def test_matmul_peak_is_a_possible_speed() -> None:
    samples = matmul_peak(torch.device("cpu"))
    assert samples
    assert all(1e6 < s < 1e15 for s in samples)
