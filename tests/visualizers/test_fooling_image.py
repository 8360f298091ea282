"""Fooling images against hand-worked steps and a textbook loop, on the real network, saved and
loaded, and abused.
"""

import math

import numpy as np
import pytest
import torch
from helpers import replayed_and_not
from PIL import Image
from torch import nn

from image_utils import (
    SQUEEZENET_MEAN,
    SQUEEZENET_STD,
    deprocess,
    preprocess,
    round_to_8_bits,
    to_batch,
)
from model_utils import load_model
from visualizers import FoolingImage, fooling_image
from visualizers.fooling_image import unit_length

TARGETS = (6, 120, 487, 950)  # stingray, fiddler crab, mobile phone, orange


@pytest.fixture
def linear() -> nn.Module:
    """Three classes whose scores are linear in an image (1, 3, 2, 2); class 2 does not depend on it
    at all.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    with torch.no_grad():
        model[1].weight[2] = 0
        model[1].bias.copy_(torch.tensor([50.0, 0.0, -50.0]))
    return model


@pytest.fixture
def small() -> torch.Tensor:
    return torch.randn(1, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def pixels(image: torch.Tensor) -> np.ndarray:
    """A normalised image (1, 3, H, W) as pixels 0…255, (H, W, 3) in float64."""
    return 255 * (image[0].permute(1, 2, 0).double().numpy() * SQUEEZENET_STD + SQUEEZENET_MEAN)


def make(*arguments, **options) -> tuple[torch.Tensor, list]:
    """The fooling image and the progress that was reported on the way."""
    reports = []
    return FoolingImage().make_fooling_image(
        *arguments, callback=reports.append, **options
    ), reports


# --- By hand ---


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_by_hand_steps(linear, small, steps):
    weight = linear[1].weight[1].detach().reshape(1, 3, 2, 2)
    expected = small + steps * 10 * weight / weight.square().sum().sqrt()
    image, reports = make(small, 1, linear, max_iter=steps)
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-12)
    assert [report.iteration for report in reports] == list(range(steps))


def test_by_hand_stops_at_the_first_success(linear, small):
    """Each step raises score 1 by 4·‖w1‖ and score 0 by 4·w0·w1/‖w1‖, so the number of steps can be
    worked out.
    """
    weight, length = linear[1].weight.detach(), linear[1].weight[1].norm().item()
    gap = (linear(small)[0, 0] - linear(small)[0, 1]).item()
    gain = 4 * (length - (weight[0] @ weight[1]).item() / length)
    image, reports = make(small, 1, linear, learning_rate=4)
    assert reports[-1].iteration == math.floor(gap / gain) + 1 > 1
    assert torch.equal(image, reports[-1].image)
    assert linear(image).argmax() == 1 and linear(reports[-2].image).argmax() == 0
    assert [report.score for report in reports] == [linear(r.image)[0, 1].item() for r in reports]


def test_by_hand_nothing_to_do(linear, small):
    image, reports = make(small, 0, linear)
    assert torch.equal(image, small) and image.data_ptr() != small.data_ptr()
    assert [report.iteration for report in reports] == [0]


def test_by_hand_too_few_steps(linear, small):
    image, reports = make(small, 1, linear, learning_rate=0.01, max_iter=7)
    assert len(reports) == 7 and abs((image - small).norm().item() - 0.07) < 1e-12
    assert not FoolingImage().is_fooled(image, 1, linear)
    assert FoolingImage().is_fooled(image, 0, linear)


def test_by_hand_zero_gradient(linear, small):
    image, reports = make(small, 2, linear)
    assert torch.equal(image, small) and len(reports) == 100


def test_by_hand_unit_length_is_per_image():
    gradient = torch.arange(1.0, 181).view(3, 3, 4, 5) * torch.tensor([1e-9, 0, 1e9]).view(
        3, 1, 1, 1
    )
    lengths = unit_length(gradient).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.tensor([1.0, 0.0, 1.0]))


# --- Against a plain loop ---


def textbook(X, target, model, valid):
    mean, std = (
        torch.tensor(a, dtype=X.dtype).view(3, 1, 1) for a in (SQUEEZENET_MEAN, SQUEEZENET_STD)
    )
    state = X.clone()

    def look():
        return (
            ((((state * std + mean) * 255).round() / 255).clip(0, 1) - mean) / std
            if valid
            else state
        )

    for _ in range(6):
        image = look().clone().requires_grad_()
        scores = model(image)
        if scores.argmax() == target:
            break
        scores[0, target].backward()
        state = state + 0.7 * image.grad / image.grad.norm()
        if valid:
            state = ((state * std + mean).clip(0, 1) - mean) / std
    return look()


@pytest.mark.parametrize("valid", [False, True])
@pytest.mark.parametrize("target", range(5))
def test_textbook_loop_equal(tiny_model, target, valid):
    X = 2 * torch.randn(
        1, 3, 9, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    ours, _ = make(X, target, tiny_model, learning_rate=0.7, max_iter=6, valid=valid)
    torch.testing.assert_close(ours, textbook(X, target, tiny_model, valid), rtol=0, atol=1e-10)


# --- The real network ---


def test_real_network_course_task(real_model, course):
    with np.load(course / "imagenet_val_25.npz", allow_pickle=True) as data:
        X = to_batch(data["X"][:1])
    image, reports = make(X, 6, real_model)
    assert FoolingImage().is_fooled(image, 6, real_model)
    assert reports[-1].iteration <= 10


@pytest.mark.slow
@pytest.mark.parametrize("valid", [False, True])
def test_real_network_photos(real_model, batch, valid, tmp_path):
    lengths = []
    for X in batch[0][:3].split(1):
        for target in TARGETS:
            image, reports = make(X, target, real_model, max_iter=30, valid=valid)
            assert real_model(image).argmax() == target, (reports[-1].iteration, target)
            lengths.append((image - X).norm().item())
            if valid:
                deprocess(image, should_rescale=False).save(tmp_path / "valid.png")
                with Image.open(tmp_path / "valid.png") as stored:
                    loaded = preprocess(stored)
                assert torch.equal(loaded, image)
                assert FoolingImage().is_fooled(loaded, target, real_model)
    assert np.median(lengths) < 20


def test_real_network_every_step_of_a_valid_image_can_be_stored(bundled_model, batch):
    bright = torch.full_like(batch[0][:1], 2.2)  # steps from here leave the range at once
    _, reports = make(bright, 6, bundled_model, max_iter=4, valid=True)
    for report in reports:
        values = pixels(report.image)
        assert np.abs(values - values.round()).max() < 1e-4
        assert values.min() > -1e-4 and values.max() < 255 + 1e-4
    assert len(reports) > 1 and pixels(reports[1].image).min() < 255


@pytest.mark.slow
def test_real_network_small_steps_add_up(bundled_model, batch):
    """Each step is far below half a grey level, which rounding alone would undo for ever."""
    image, reports = make(batch[0][:1], 6, bundled_model, learning_rate=0.5, valid=True)
    assert FoolingImage().is_fooled(image, 6, bundled_model) and 1 < reports[-1].iteration < 100


def test_real_network_rounding_keeps_photos(batch):
    assert torch.equal(round_to_8_bits(batch[0]), batch[0])


# --- Tensors ---


def test_tensors_dtype_follows_the_input(tiny_model):
    image, _ = make(torch.zeros(1, 3, 8, 12), 3, tiny_model, max_iter=3)
    assert image.dtype == torch.float32 and image.shape == (1, 3, 8, 12)


@pytest.mark.parametrize("target", [np.int64(3), torch.tensor(3), torch.tensor([3])])
def test_tensors_kinds_of_target(tiny_model, target):
    X = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(
        make(X, target, tiny_model, max_iter=3)[0], make(X, 3, tiny_model, max_iter=3)[0]
    )


@pytest.mark.gpu
@pytest.mark.parametrize("valid", [False, True])
def test_tensors_cuda(tiny_model, valid):
    X = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    expected, _ = make(X, 3, tiny_model, max_iter=3, valid=valid)
    image, _ = make(X, 3, tiny_model.cuda(), max_iter=3, valid=valid)
    assert image.device == X.device
    torch.testing.assert_close(image, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("valid", [False, True])
def test_replayed_steps_are_the_same_to_the_bit(batch, valid, monkeypatch):
    model = load_model(weights="bundled", device="cuda")

    def fool():
        image, reports = make(batch[0][:1], 6, model, learning_rate=0.01, max_iter=25, valid=valid)
        return image.tolist(), [each.score for each in reports]

    replayed, plain = replayed_and_not(monkeypatch, fooling_image, fool)
    assert len(plain[1]) == 25 and replayed == plain


# --- Bad arguments ---


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"X": torch.zeros(2, 3, 8, 8)}, r"X must hold one image.*2, 3, 8, 8"),
        ({"X": torch.zeros(3, 8, 8)}, r"X must have shape.*\(3, 8, 8\)"),
        ({"X": torch.full((1, 3, 8, 8), math.nan)}, "X has values that are not finite"),
        ({"X": np.zeros((1, 3, 8, 8))}, "X must be a float tensor.*ndarray"),
        ({"target_y": 5}, r"target_y .*got 5"),
        ({"target_y": -1}, "target_y .*got -1"),
        ({"target_y": 2.5}, "target_y .*got 2.5"),
        ({"target_y": "3"}, "target_y .*got '3'"),
        ({"model": "net"}, "model must be"),
        ({"learning_rate": 0}, "learning_rate .*got 0"),
        ({"learning_rate": math.inf}, "learning_rate .*got inf"),
        ({"learning_rate": "fast"}, "learning_rate .*got 'fast'"),
        ({"max_iter": -1}, "max_iter .*got -1"),
        ({"max_iter": 1.5}, "max_iter .*got 1.5"),
    ],
)
def test_bad_arguments_are_named(tiny_model, changed, message):
    arguments = {"X": torch.zeros(1, 3, 8, 8), "target_y": 3, "model": tiny_model} | changed
    with pytest.raises(ValueError, match=message):
        FoolingImage().make_fooling_image(**arguments)


def test_bad_arguments_gradient_that_is_not_finite(small):
    class Root(nn.Module):
        def forward(self, x):
            return torch.stack([x.sum() * 0, x.sum().sub(x.sum()).sqrt() - 1])[None]

    with pytest.raises(ValueError, match="gradient is not finite"):
        FoolingImage().make_fooling_image(small, 1, Root())
