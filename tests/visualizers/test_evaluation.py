"""How networks are evaluated on a GPU, as far as that can be tried without one."""

import copy

import numpy as np
import pytest
import torch
from helpers import network_state, same_state
from networks import assert_close, small_network
from PIL import Image
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import utils

from captum_utils import attr, compute_attributions
from errors import InputError
from image_utils import to_batch
from style_modules import ContentLoss, StyleLoss, TotalVariationLoss
from style_utils import style_transfer
from visualizers import ClassVisualization, FoolingImage, GradCam, SaliencyMap
from visualizers.common import check_images, check_labels, class_scores, finite
from visualizers.evaluation import at_once, copied, evaluation_mode, full_precision, in_chunks

MATMUL = torch.backends.cuda.matmul


def settings() -> list:
    """Everything that can be read about a GPU's precision, by the old interface and the new one."""
    new = (
        [MATMUL.fp32_precision, torch.backends.cudnn.conv.fp32_precision]
        if hasattr(MATMUL, "fp32_precision")
        else []
    )
    return [
        torch.backends.cudnn.allow_tf32,
        MATMUL.allow_tf32,
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.enabled,
        *new,
    ]


@pytest.mark.parametrize("changed", [False, True])
def test_full_precision_gives_back_the_caller_s_settings(changed):
    torch.backends.cudnn.allow_tf32 = not changed
    torch.set_float32_matmul_precision("high" if changed else "highest")
    try:
        before = settings()
        with pytest.raises(KeyError), full_precision(one_image=changed):
            assert torch.backends.cudnn.deterministic
            assert torch.backends.cudnn.enabled != changed
            if hasattr(MATMUL, "fp32_precision"):
                assert (MATMUL.fp32_precision, torch.backends.cudnn.conv.fp32_precision) == (
                    "ieee",
                    "ieee",
                )
            else:
                assert not (torch.backends.cudnn.allow_tf32 or MATMUL.allow_tf32)
            raise KeyError
        assert settings() == before
    finally:
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("highest")


def test_techniques_compute_in_full_precision():
    class Noting(nn.Module):
        def __init__(self, keeps: bool = False):
            super().__init__()
            self.keeps = keeps

        def forward(self, x):
            seen.append(torch.backends.cudnn.conv.fp32_precision)
            return x if self.keeps else x.mean(dim=(2, 3))

    if not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("the interface of torch 2.9")
    seen: list[str] = []
    X = torch.randn(1, 3, 4, 4)
    SaliencyMap().compute_saliency_maps(X, 0, Noting())
    compute_attributions(attr.Saliency(Noting()), X, target=0)
    noise = Image.effect_noise((32, 32), 50)
    losses = ContentLoss(), StyleLoss(), TotalVariationLoss()
    weights = (0, 1, (0,), (1,), 1)
    kwargs = {"testing": True, "num_iterations": 1}
    count, layers = len(seen), nn.Sequential(Noting(keeps=True))
    style_transfer("x", noise, noise, 32, 32, *weights, *losses, layers, torch.float32, **kwargs)
    assert len(seen) > count
    assert set(seen) == {"ieee"} and torch.backends.cudnn.conv.fp32_precision == "tf32"


@pytest.mark.parametrize("most", [1, 3, 8])
def test_halves_where_memory_does_not_hold_all_images(most):
    sizes = []

    def technique(images, labels):
        if len(images) > most:
            raise torch.OutOfMemoryError("too many")
        sizes.append(len(images))
        return 2 * images, labels

    images, labels = torch.arange(10.0), torch.arange(10)
    doubled, same = at_once(technique, images, labels)
    assert torch.equal(doubled, 2 * images) and torch.equal(same, labels)
    assert max(sizes) <= most and sum(sizes) == 10
    with pytest.raises(torch.OutOfMemoryError):
        at_once(lambda images: technique(torch.zeros(9), images), images)


def test_no_number_is_waited_for_before_the_end():
    """Of a fake CUDA tensor no number can be read: to ask for one is an error."""
    with FakeTensorMode():
        model = nn.Sequential(
            nn.Conv2d(3, 5, 3, device="cuda"), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ).eval()
        X, y = torch.randn(2, 3, 8, 8, device="cuda"), torch.tensor([1, 9], device="cuda")
        at_the_end = False
        with pytest.raises(DataDependentOutputException), evaluation_mode(model):
            images = check_images(X, model)
            labels = check_labels(y, images)
            # 9 is no class; autograd needs a real GPU
            scores = finite(class_scores(model, images, labels))
            at_the_end = True
        with pytest.raises(DataDependentOutputException):  # at once, where nobody reads it later
            check_images(X, model)
    assert at_the_end and scores.shape == (2,)
    X = torch.randn(1, 3, 8, 8)  # nothing is left over for the next call
    assert (
        SaliencyMap()
        .compute_saliency_maps(X, 0, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
        .any()
    )


@pytest.mark.parametrize("count", [0, 1, 15, 16, 31, 32, 33, 64, 100])
def test_chunks_are_small_and_in_order(count):
    sizes = []

    def compute(a, b):
        sizes.append(len(a))
        return a + b, 2 * a

    a, b = torch.arange(count), torch.arange(count) * 10
    total, twice = in_chunks(compute, a, b)
    assert torch.equal(total, 11 * torch.arange(count)) and torch.equal(twice, 2 * a)
    assert sum(sizes) == count and max(sizes) < 48


def test_modes_and_gradients_inside_and_after(model):
    model.train()
    model.features[3].eval()
    with torch.no_grad(), evaluation_mode(model):
        assert not any(module.training for module in model.modules()) and torch.is_grad_enabled()
    trained = [module.training for module in model.modules()]
    assert model.training and not model.features[3].training and sum(trained) > 50


NETWORK = small_network()


OURS, FOOLING, GROWN = GradCam(), FoolingImage(), ClassVisualization()
TECHNIQUES = {
    "saliency": lambda model, X, y: SaliencyMap().compute_saliency_maps(X, y, model),
    "Grad-CAM": lambda model, X, y: OURS.grad_cam(X, y, model),
    "guided backprop": lambda model, X, y: OURS.guided_backprop(X, y, model),
    "Guided Grad-CAM": lambda model, X, y: OURS.guided_grad_cam(X, y, model),
    "fooling image": lambda model, X, _: FOOLING.make_fooling_image(X[:1], 3, model, max_iter=3),
    "class visualization": lambda model, *_: GROWN.visualize_classes(
        [2], model, num_iterations=2, seed=0
    ),
}


def results(model, X, y) -> list[np.ndarray]:
    """What every technique makes of a network."""
    return [torch.as_tensor(make(model, X, y)).float().numpy() for make in TECHNIQUES.values()]


def with_dropout() -> nn.Sequential:
    *layers, last = small_network()
    return nn.Sequential(*layers, nn.Dropout(0.5), last)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", TECHNIQUES)
def test_network_and_photos_are_left_as_they_were_and_dropout_is_off(data, name, frozen):
    expected = torch.as_tensor(TECHNIQUES[name](with_dropout().eval(), *data))
    model, (X, y) = with_dropout().train().requires_grad_(not frozen), data
    model[1].eval()  # modes of every kind
    model[-1].weight.grad = torch.ones_like(model[-1].weight)
    X.requires_grad_()
    X.grad = torch.ones_like(X)
    before, copies = network_state(model), (X.detach().clone(), y.clone())
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            result = torch.as_tensor(TECHNIQUES[name](model, X, y))
        assert torch.equal(result, expected) and not result.requires_grad
    assert isinstance(FOOLING.is_fooled(X[:1], 3, model), bool)
    assert same_state(before, network_state(model))
    assert torch.equal(X, copies[0]) and torch.equal(y, copies[1])
    assert X.requires_grad and torch.equal(X.grad, torch.ones_like(X))


class Stop(Exception):
    pass


def stop(*_):
    raise Stop


@pytest.mark.parametrize("name", TECHNIQUES)
def test_also_after_an_exception(data, name):
    model = small_network().train()
    for register in (model[2].register_forward_hook, model[8].register_full_backward_hook):
        handle = register(stop)
        before = network_state(model)
        with pytest.raises(Stop):
            TECHNIQUES[name](model, *data)
        assert same_state(before, network_state(model))
        handle.remove()


def test_also_when_a_callback_fails(data):
    model = small_network().train()
    before = network_state(model)
    with pytest.raises(Stop):
        FOOLING.make_fooling_image(data[0][:1], 3, model, callback=stop)
    with pytest.raises(Stop):
        GROWN.visualize_classes([2], model, callback=stop)
    assert same_state(before, network_state(model))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", [*TECHNIQUES, "is fooled"])
def test_damaged_weights_are_reported_not_drawn(data, name, value):
    model = small_network()
    with torch.no_grad():
        model[8].bias[:] = value
    with pytest.raises(InputError, match=r"not finite .* damaged"):
        if name == "is fooled":
            FOOLING.is_fooled(data[0][:1], 3, model)
        TECHNIQUES[name](model, *data)


def test_inference_mode_around_a_call_and_tensors_made_there(data):
    expected = results(small_network(), *data)
    with torch.inference_mode():
        X, y = data[0].clone(), data[1].clone()
        assert X.is_inference()
        assert_close(results(NETWORK, X, y), expected, 0)
    assert_close(results(NETWORK, X, y), expected, 0)
    with torch.inference_mode():
        made_there = small_network()
    with pytest.raises(InputError, match=r"made under torch\.inference_mode\(\)"):
        SaliencyMap().compute_saliency_maps(*data, made_there)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_default_types(data, dtype):
    expected = results(NETWORK, *data)
    torch.set_default_dtype(dtype)
    try:
        found = results(NETWORK, *data)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_close(found, expected, 0)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float16, 0.02), (torch.bfloat16, 0.1)]
)
def test_networks_of_other_types(data, dtype, tolerance):
    expected, model = results(small_network(), *data), small_network().to(dtype)
    found = GradCam().grad_cam(*data, model)
    assert found.dtype == np.float32
    assert_close([found], expected[1:2], tolerance)
    for a, b in zip(results(model, *data), expected, strict=True):
        assert np.isfinite(a).all() and np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.97
    plain = SaliencyMap().compute_saliency_maps(*data, model)
    assert plain.dtype == torch.float32  # as the images


def test_networks_that_alter_their_input(data):
    class Altering(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small_network()

        def forward(self, x):
            return self.net(x.mul_(2))

    class Doubling(Altering):
        def forward(self, x):
            return self.net(x * 2)

    before = data[0].clone()
    assert_close(results(Altering(), *data), results(Doubling(), *data), 1e-6)
    assert torch.equal(data[0], before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wrapped", "in place", "a part"])
def test_compiled_networks_that_were_used_before(data, kind):
    expected, model = results(small_network(), *data), small_network()
    if kind == "wrapped":
        model = torch.compile(model, backend="aot_eager")
    elif kind == "in place":
        model.compile(backend="aot_eager")
    else:
        model[0] = torch.compile(model[0], backend="aot_eager")
    for X in (data[0], data[0].clone().requires_grad_()):
        model(X)
    assert_close(results(model, *data), expected, 0)
    assert GradCam().grad_cam(*data, model, layer="4").any()
    with torch.no_grad():
        assert torch.allclose(model(data[0]), small_network()(data[0]), atol=1e-5)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
def test_torchscript_and_quantised_networks(data):
    for made in (torch.jit.script(small_network()), torch.jit.trace(small_network(), data[0])):
        saliency = SaliencyMap().compute_saliency_maps(*data, made)
        assert torch.allclose(
            saliency, SaliencyMap().compute_saliency_maps(*data, small_network()), atol=1e-6
        )
        for method in (GradCam().guided_backprop, GradCam().grad_cam, GradCam().guided_grad_cam):
            with pytest.raises(InputError, match="TorchScript hides a network's layers and ReLUs"):
                method(*data, made)
    quantised = torch.ao.quantization.quantize_dynamic(small_network(), {nn.Linear})
    for method in (
        SaliencyMap().compute_saliency_maps,
        GradCam().guided_backprop,
        GradCam().grad_cam,
    ):
        with pytest.raises(InputError, match="the network is quantised, so it has no gradients"):
            method(*data, quantised)


def normed() -> nn.Module:
    """By the older `weight_norm` and `spectral_norm`, whose hooks compute the weight before each
    evaluation.
    """
    torch.manual_seed(0)
    features = nn.Sequential(*(nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1) for i in range(8)))
    utils.weight_norm(features[0])
    utils.spectral_norm(features[1])
    model = nn.Sequential()
    model.features, model.pool, model.head = (
        features,
        nn.AdaptiveAvgPool2d(1),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 5)),
    )
    model.eval()(torch.zeros(1, 3, 8, 8))
    return model


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_networks_with_computed_weights(tmp_path):
    model = normed()
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    before, X = network_state(model), torch.randn(2, 3, 8, 8)
    assert torch.equal(copied(model)(X), model(X))
    double = ClassVisualization().visualize_classes(
        [1], model, torch.float64, num_iterations=2, seed=0
    )
    single = ClassVisualization().visualize_classes([1], model, num_iterations=2, seed=0)
    assert double.dtype == torch.float64 and torch.allclose(double.float(), single, atol=1e-3)
    rng = np.random.default_rng(0)
    content, style = (rng.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(2))
    losses = ContentLoss(), StyleLoss(), TotalVariationLoss()
    weights = (3, 0.05, (1, 4), (10, 10), 0.02)
    pictures = Image.fromarray(content), Image.fromarray(style)
    with torch.inference_mode():
        result = style_transfer(
            "x",
            *pictures,
            40,
            40,
            *weights,
            *losses,
            model,
            torch.float32,
            testing=True,
            num_iterations=2,
        )
    assert result.isfinite().all() and not torch.allclose(result, to_batch(content[None]), atol=0.1)
    assert same_state(before, network_state(model))
