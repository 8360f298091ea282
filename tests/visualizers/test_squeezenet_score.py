"""SqueezeNet's quick way: the whole network's score, and only where nobody would see the difference."""

import shutil
import sys

import pytest
import torch
from torch import nn
from torchvision.models import SqueezeNet

from model_utils import load_model
from visualizers.common import class_scores


def calls_of(module: nn.Module) -> list[tuple]:
    """Count a module's evaluations; the shapes of its outputs."""
    calls = []
    module.register_forward_hook(lambda _, __, output: calls.append(tuple(output.shape)))
    return calls


def full(model: nn.Module, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(X).gather(1, y[:, None])[:, 0]


def test_the_score_is_that_of_the_whole_network(real_model, batch):
    X, y = batch
    expected = full(real_model, X, y)
    assert torch.allclose(
        class_scores(real_model, X, y), expected, rtol=1e-6, atol=1e-6 * expected.abs().max()
    )
    other = (y + 500) % 1000
    expected = full(real_model, X, other)
    assert torch.allclose(
        class_scores(real_model, X, other), expected, rtol=1e-6, atol=1e-6 * expected.abs().max()
    )


@pytest.mark.slow
def test_in_float64_and_with_gradients(model, batch):
    X, y = batch[0][:2].double().requires_grad_(), batch[1][:2]
    model.double()
    (quick,) = torch.autograd.grad(class_scores(model, X, y).sum(), X)
    (whole,) = torch.autograd.grad(model(X).gather(1, y[:, None]).sum(), X)
    assert (quick - whole).abs().max() < 1e-12 * whole.abs().max()


def test_the_quick_way_evaluates_no_classifier(model, batch, monkeypatch):
    calls, forward = [], nn.Conv2d.forward
    monkeypatch.setattr(
        nn.Conv2d, "forward", lambda self, x: calls.append(self) or forward(self, x)
    )
    class_scores(model, batch[0][:1], batch[1][:1])
    assert calls and model.classifier[1] not in calls
    calls.clear()
    model(batch[0][:1])
    assert model.classifier[1] in calls  # so that the comparison means something


def test_other_networks_are_evaluated_whole(batch, tiny_model):
    X, y = batch[0][:2].double(), torch.tensor([0, 4])
    assert torch.equal(class_scores(tiny_model, X, y), full(tiny_model, X, y))


def test_hooks_see_one_call_with_every_channel(model, batch):
    X, y = batch[0][:2], batch[1][:2]
    calls, expected = calls_of(model.classifier[1]), class_scores(model, X, y)
    assert calls == [(2, 1000, 13, 13)]
    assert torch.equal(expected, full(model, X, y))


@pytest.mark.parametrize(
    "where", ["", "classifier", "classifier.0", "classifier.1", "classifier.2", "classifier.3"]
)
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_any_hook_on_the_classifier_is_called(model, batch, where, kind):
    seen, module = [], model.get_submodule(where)
    model.classifier[2].inplace = False  # in-place layers and backward hooks do not go together
    getattr(module, f"register_{kind}_hook")(lambda *_: seen.append(True))
    X = batch[0][:1, :, :64, :64].clone().requires_grad_()
    torch.autograd.grad(class_scores(model, X, batch[1][:1]).sum(), X)
    assert seen == [True]


class Own(SqueezeNet):
    """A subclass with a forward of its own: all scores, halved."""

    def forward(self, x):
        return super().forward(x) / 2


def test_networks_with_a_forward_of_their_own(model, batch):
    X, y = batch[0][:2], batch[1][:2]
    expected = full(model, X, y)
    own = Own("1_1")
    own.load_state_dict(model.state_dict())
    assert torch.allclose(class_scores(own.eval(), X, y), expected / 2, rtol=1e-5)
    wrapped = nn.Sequential(model)
    assert torch.equal(class_scores(wrapped, X, y), expected)
    model.forward = lambda x: SqueezeNet.forward(model, x) + 1  # set on the instance
    assert torch.allclose(class_scores(model, X, y), expected + 1, rtol=1e-5)


def test_changed_classifiers(model, batch):
    X, y = batch[0][:1], batch[1][:1]
    model.classifier[2] = nn.LeakyReLU(0.5)
    assert torch.equal(class_scores(model, X, y), full(model, X, y))
    model.classifier[2] = nn.ReLU()
    model.classifier[1] = nn.Conv2d(512, 1000, 3, padding=1)
    assert torch.equal(class_scores(model, X, y), full(model, X, y))
    model.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(512, 1000, 1))
    assert torch.equal(class_scores(model, X, y), full(model, X, y))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler's own
@pytest.mark.skipif(
    shutil.which("c++") is None or sys.platform == "win32", reason="torch.compile needs a compiler"
)
def test_a_compiled_network(model, batch):
    X, y = batch[0][:1, :, :64, :64], batch[1][:1]
    expected, whole = full(model, X, y), []
    model.compile(backend="eager")
    forward = model._compiled_call_impl
    model._compiled_call_impl = lambda *inputs: whole.append(True) or forward(*inputs)
    assert torch.allclose(class_scores(model, X, y), expected, rtol=1e-4) and whole


@pytest.mark.slow
def test_a_random_squeezenet_1_0_takes_the_quick_way_too(batch):
    model = load_model("squeezenet1_0", "none", "cpu")
    X, y = batch[0][:2], batch[1][:2]
    assert torch.allclose(class_scores(model, X, y), full(model, X, y), rtol=1e-5, atol=1e-7)
