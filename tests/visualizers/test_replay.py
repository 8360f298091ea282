"""Evaluations that a GPU replays: what is recorded, what never is, and what a CPU does."""

import pytest
import torch
from helpers import replayed_and_not
from torch import nn
from torchvision import models

from errors import InputError
from style_modules import ContentLoss, StyleLoss
from visualizers import ClassVisualization, class_visualization
from visualizers.evaluation import evaluation_mode, read_flags, refuse_unless
from visualizers.replay import agree, is_steady, replayed


class Branching(nn.Module):
    """Waits for a number, which no recording can do."""

    def forward(self, x):
        return x * 2 if x.sum().item() > 0 else x


class OwnLoss(StyleLoss):
    """Someone else's."""


def hooked() -> nn.Module:
    module = nn.Sequential(nn.ReLU())
    module[0].register_forward_hook(lambda *_: None)
    return module


def overridden() -> nn.Module:
    module = nn.ReLU()
    module.forward = lambda x: x
    return module


@pytest.mark.parametrize(
    ("make", "steady"),
    [
        (models.squeezenet1_1, True),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), True),
        (StyleLoss, True),
        (ContentLoss, True),
        (OwnLoss, False),
        (lambda: nn.Sequential(nn.ReLU(), Branching()), False),
        (lambda: torch.jit.script(nn.ReLU()), False),
        (hooked, False),
        (overridden, False),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_only_what_does_the_same_each_time_is_recorded(make, steady):
    with torch.device("meta"):
        assert is_steady(make()) == steady


def test_a_cpu_evaluates_as_before():
    def evaluate(x):
        return (x,)

    assert replayed(evaluate, [torch.zeros(1)], [nn.ReLU()]) is evaluate


def test_a_recording_with_other_results_or_gradients_is_refused():
    example, constant = torch.ones(2, requires_grad=True), torch.ones(2)

    def evaluate(x, y):
        return (x * y).sum(), (2 * x).detach()

    assert agree(evaluate, evaluate, [example, constant])
    assert not agree(
        evaluate, lambda x, y: ((x * y).sum(), torch.full((2,), 2.0)), [example, constant]
    )
    assert not agree(
        evaluate,
        lambda x, y: (((x + (x - x.detach())) * y).sum(), (2 * x).detach()),
        [example, constant],
    )


def test_numbers_are_read_with_the_flags():
    with evaluation_mode(nn.ReLU()):
        score = torch.tensor(2.5, requires_grad=True)
        assert read_flags(score, torch.tensor(True)) == [2.5, 1]
        with pytest.raises(InputError):
            refuse_unless(torch.tensor(False), lambda: InputError("at once on a CPU"))


@pytest.mark.gpu
def test_a_replay_reads_new_inputs_gives_gradients_and_sets_its_flags():
    calls = []
    weight = torch.tensor([2.0, 3.0], device="cuda")

    def evaluate(x, y):
        calls.append(1)
        refuse_unless((x > 0).all(), lambda: ValueError("not positive"))
        return (weight * x * y).sum(), (x * y).detach()

    given = (torch.ones(2, device="cuda", requires_grad=True), torch.ones(2, device="cuda"))
    with pytest.raises(ValueError, match="not positive"), evaluation_mode(nn.ReLU()):
        replay = replayed(evaluate, given, [nn.ReLU()])
        count = len(calls)
        assert replay is not evaluate and count > 1
        for value in (1.0, 5.0):
            x = torch.full((2,), value, device="cuda", requires_grad=True)
            total, product = replay(x, 2 * torch.ones(2, device="cuda"))
            (gradient,) = torch.autograd.grad(total, x)
            assert total.item() == 10 * value and product.tolist() == [2 * value] * 2
            assert gradient.tolist() == [4, 6]
            read_flags()
        replay(-x.detach().requires_grad_(), given[1])
        assert len(calls) == count  # nothing but kernels ran again


@pytest.mark.gpu
def test_what_waits_for_the_gpu_is_not_recorded_and_leaves_its_random_numbers_alone():
    def evaluate(x):
        return (x * 2 if x.sum().item() > 0 else x,)

    before = torch.cuda.get_sync_debug_mode()
    assert replayed(evaluate, [torch.ones(2, device="cuda")], [nn.ReLU()]) is evaluate
    assert torch.cuda.get_sync_debug_mode() == before
    assert torch.rand(2, device="cuda").isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("targets", [[3], [3, 1, 4]])
def test_class_visualization_is_the_same_to_the_bit(targets, monkeypatch):
    torch.manual_seed(0)
    model = models.squeezenet1_1(num_classes=5).cuda().eval()

    def visualize():
        told = []
        images = ClassVisualization().visualize_classes(
            targets, model, num_iterations=5, seed=1, callback=told.append
        )
        return images.tolist(), torch.stack([each.score for each in told]).tolist()

    replayed, plain = replayed_and_not(monkeypatch, class_visualization, visualize)
    assert replayed == plain
    with pytest.raises(ValueError, match=r"target_y .*got 9"):
        ClassVisualization().visualize_classes([9], model)
