"""The three losses against NumPy in float64, central differences, and numbers worked out by
hand.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from style_modules import ContentLoss, StyleLoss, TotalVariationLoss

content_loss, style_loss, tv_loss = ContentLoss(), StyleLoss(), TotalVariationLoss()
gram_matrix = style_loss.gram_matrix

LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "strided": lambda x: x.repeat_interleave(2, dim=3)[..., ::2],
    "expanded batch": lambda x: x[:1].expand_as(x),
}


def features(*shape, seed=0, dtype=torch.float64):
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def numpy_gram(x, normalize=True):
    """Entry by entry, as the definition reads."""
    n, c, h, w = x.shape
    gram = np.array(
        [[[(x[b, i] * x[b, j]).sum() for j in range(c)] for i in range(c)] for b in range(n)]
    )
    return gram / (c * h * w) if normalize else gram


def central_differences(function, x):
    """The gradient of a scalar function of a tensor, element by element."""
    eps = 1e-5
    steps = eps * torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape)
    return torch.stack(
        [(function(x + step) - function(x - step)) / (2 * eps) for step in steps]
    ).view(x.shape)


def style_term(x):
    """A style loss over two layers whose features depend on `x` (2, 3, 4, 5)."""
    targets = [gram_matrix(features(2, 3, 4, 5, seed=1)), gram_matrix(features(2, 3, 2, 2, seed=2))]
    return style_loss([x, x[..., ::2], x.tanh()[:, :, :2, 1:3]], [0, 2], targets, [3.0, 0.5])


TERMS = {
    "content": lambda x: content_loss(0.7, x, features(2, 3, 4, 5, seed=1)),
    "style": style_term,
    "total variation": lambda x: tv_loss(x, 0.3),
}


def test_numbers_worked_out_by_hand():
    x = torch.tensor([[[[1.0, 2.0], [4.0, 8.0]], [[0.0, 1.0], [0.0, 1.0]]]])
    assert content_loss(0.5, x, torch.zeros_like(x)).item() == 0.5 * (1 + 4 + 16 + 64 + 1 + 1)
    assert tv_loss(x, 10.0).item() == 10 * ((9 + 36 + 0 + 0) + (1 + 16 + 1 + 1))
    assert gram_matrix(x, normalize=False).tolist() == [[[85.0, 10.0], [10.0, 2.0]]]
    assert gram_matrix(x).tolist() == [[[85 / 8, 10 / 8], [10 / 8, 2 / 8]]]
    assert (
        style_loss([x, x], [1], [torch.zeros(1, 2, 2)], [64.0]).item() == 85**2 + 2 * 10**2 + 2**2
    )


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_agree_with_numpy_for_any_layout_and_batch(layout, dtype):
    x, y = layout(features(2, 3, 5, 4, dtype=dtype)), features(2, 3, 5, 4, seed=1, dtype=dtype)
    a, b = x.numpy().astype(float), y.numpy().astype(float)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    np.testing.assert_allclose(content_loss(0.3, x, y), 0.3 * ((a - b) ** 2).sum(), rtol=tolerance)
    np.testing.assert_allclose(gram_matrix(x), numpy_gram(a), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(
        gram_matrix(x, normalize=False), numpy_gram(a, False), rtol=tolerance, atol=tolerance
    )
    expected = 3 * ((numpy_gram(a) - numpy_gram(b)) ** 2).sum()
    np.testing.assert_allclose(
        style_loss([y, x], [1], [gram_matrix(y)], [3.0]), expected, rtol=tolerance
    )
    expected = 2 * ((np.diff(a, axis=2) ** 2).sum() + (np.diff(a, axis=3) ** 2).sum())
    np.testing.assert_allclose(tv_loss(x, 2.0), expected, rtol=tolerance)
    for loss in (content_loss(1, x, y), style_loss([x], [0], [gram_matrix(y)], [1]), tv_loss(x, 1)):
        assert loss.shape == () and loss.dtype == dtype


def test_several_style_layers_add_up():
    feats = [features(1, c, 6, 7, seed=c) for c in (2, 3, 4)]
    targets = [gram_matrix(features(1, c, 5, 5, seed=10 + c)) for c in (4, 2)]
    alone = [
        style_loss(feats, [layer], [a], [w])
        for layer, a, w in zip((2, 0), targets, (5.0, 0.25), strict=True)
    ]
    torch.testing.assert_close(style_loss(feats, (2, 0), targets, (5.0, 0.25)), sum(alone))


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
def test_gradients_agree_with_central_differences(term, layout):
    x = LAYOUTS[layout](features(2, 3, 4, 5)).requires_grad_()
    (gradient,) = torch.autograd.grad(term(x), x)
    torch.testing.assert_close(
        gradient, central_differences(term, x.detach()), rtol=1e-6, atol=1e-6
    )
    assert gradient.abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
def test_losses_are_differentiable_twice(term):
    x = features(2, 3, 4, 5).requires_grad_()
    assert torch.autograd.gradgradcheck(term, x)


def test_gram_gradients_in_both_layouts_are_the_same():
    weights = features(2, 3, 3, seed=5)  # not symmetric: each of the two products counts
    gradients = []
    for layout in ("contiguous", "channels-last"):
        x = LAYOUTS[layout](features(2, 3, 4, 5)).requires_grad_()
        gradients.append(torch.autograd.grad((gram_matrix(x) * weights).sum(), x)[0])
    torch.testing.assert_close(*gradients)
    x = features(2, 3, 4, 5)
    expected = central_differences(lambda x: (gram_matrix(x) * weights).sum(), x)
    torch.testing.assert_close(gradients[0], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    npst.arrays(
        st.sampled_from([np.float32, np.float64]),
        npst.array_shapes(min_dims=4, max_dims=4, max_side=5),
        elements=st.floats(-1000, 1000, width=32),
    )
)
def test_gram_matrix_is_symmetric_and_positive_semi_definite(array):
    gram = gram_matrix(torch.from_numpy(array)).double()
    scale = max(gram.abs().max().item(), 1e-30)
    torch.testing.assert_close(gram, gram.mT, rtol=0, atol=1e-6 * scale)
    assert torch.linalg.eigvalsh(gram).min() >= -1e-5 * scale


@settings(deadline=None, max_examples=30)
@given(
    npst.arrays(
        np.float64, npst.array_shapes(min_dims=4, max_dims=4, max_side=4), elements=st.floats(-9, 9)
    )
)
def test_losses_are_zero_at_their_targets_and_never_negative(array):
    x = torch.from_numpy(array)
    shifted = x + 1
    assert content_loss(2.0, x, x).item() == 0
    assert content_loss(2.0, x, shifted).item() >= 0
    assert style_loss([x], [0], [gram_matrix(x)], [2.0]).item() == 0
    assert style_loss([x], [0], [gram_matrix(shifted)], [2.0]).item() >= 0
    assert tv_loss(torch.ones_like(x), 2.0).item() == 0
    assert tv_loss(x, 2.0).item() >= 0


def test_style_loss_over_no_layers_is_a_zero_tensor():
    for feats in ([], [features(1, 2, 3, 3)]):
        loss = style_loss(feats, [], [], [])
        assert isinstance(loss, torch.Tensor) and loss.shape == () and loss.item() == 0
    assert style_loss([features(1, 2, 3, 3)], (), (), ()).dtype == torch.float64


def test_modules_hold_no_state():
    assert all(not list(module.state_dict()) for module in (content_loss, style_loss, tv_loss))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: gram_matrix(x[0]), ["features", "(N, C, H, W)", "(2, 3, 3)"]),
        (lambda x: gram_matrix(x[..., :0]), ["features", "(1, 2, 3, 0)"]),
        (
            lambda x: style_loss([x], [0], [], [1]),
            ["style_layers", "style_targets", "style_weights", "1, 0 and 1"],
        ),
        (lambda x: style_loss([x], [0], [gram_matrix(x)], [1, 2]), ["style_weights", "1, 1 and 2"]),
        (lambda x: style_loss([x], [1], [gram_matrix(x)], [1]), ["style_layers", "1", "0 to 0"]),
        (lambda x: style_loss([x], [-2], [gram_matrix(x)], [1]), ["style_layers", "-2", "0 to 0"]),
        (
            lambda x: style_loss([x], [0], [torch.zeros(1, 3, 3)], [1]),
            ["layer 0", "(1, 3, 3)", "(1, 2, 2)"],
        ),
        (
            lambda x: style_loss([x], [0], [gram_matrix(x)[0]], [1]),
            ["layer 0", "(2, 2)", "(1, 2, 2)"],
        ),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError) as error:
        call(torch.ones(1, 2, 3, 3))
    assert all(word in str(error.value) for word in message), error.value


def test_negative_layers_count_from_the_end():
    feats = [features(1, 2, 3, 4, seed=seed) for seed in (1, 2)]
    target = gram_matrix(features(1, 2, 3, 4, seed=3))
    assert style_loss(feats, [-1], [target], [2]) == style_loss(feats, [1], [target], [2])
    assert style_loss(feats, [-2], [target], [2]) == style_loss(feats, [0], [target], [2])
