"""Attributions in chunks are Captum's own; the figure holds the photos and the maps pixel by
pixel.
"""

import numpy as np
import pytest
import torch
from captum.attr import (
    GuidedBackprop,
    IntegratedGradients,
    LayerActivation,
    LayerConductance,
    Occlusion,
    Saliency,
)
from helpers import network_state, same_state
from PIL import Image
from torch import nn

from captum_utils import compute_attributions, occlusion_windows, visualize_attr_maps
from errors import InputError
from figure_utils import GAP, LABEL_BAND, TITLE_BAND


@pytest.fixture
def inputs():
    """More images than a chunk: (20, 3, 8, 10) and labels."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(20, 3, 8, 10, generator=generator, dtype=torch.float64)
    return X, torch.randint(5, (20,), generator=generator)


# --- compute_attributions ---


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm, kwargs",
    [
        (Saliency, {}),
        (IntegratedGradients, {"n_steps": 9}),
        (IntegratedGradients, {"n_steps": 9, "baselines": 0.5}),
        (Occlusion, {"sliding_window_shapes": (3, 4, 4), "strides": (3, 2, 2)}),
        (Saliency, {"abs": False}),
    ],
)
@pytest.mark.parametrize("labels", ["tensor", "list", "one"])
def test_chunks_give_what_captum_gives_at_once(tiny_model, inputs, algorithm, kwargs, labels):
    X, y = inputs
    target = {"tensor": y, "list": y.tolist(), "one": 3}[labels]
    expected = algorithm(tiny_model).attribute(X.clone().requires_grad_(), target=target, **kwargs)
    before = network_state(tiny_model)
    attributions = compute_attributions(algorithm(tiny_model), X, target=target, **kwargs)
    assert torch.allclose(attributions, expected, rtol=1e-9, atol=1e-12)
    assert not attributions.requires_grad and not X.requires_grad and X.grad is None
    assert same_state(before, network_state(tiny_model))


def test_what_belongs_to_each_image_is_cut_along(tiny_model, inputs):
    X, y = inputs
    baselines = X.flip(0)
    expected = IntegratedGradients(tiny_model).attribute(
        X, target=y, baselines=baselines, n_steps=9
    )
    assert torch.allclose(
        compute_attributions(
            IntegratedGradients(tiny_model), X, target=y, baselines=baselines, n_steps=9
        ),
        expected,
    )


@pytest.mark.parametrize("count", [1, 3, 8, 9])
def test_any_number_of_images(tiny_model, inputs, count):
    X, y = inputs[0][:count], inputs[1][:count]
    expected = Saliency(tiny_model).attribute(X.clone().requires_grad_(), target=y)
    for target in (y, y.numpy(), list(y), list(y.numpy()), y.tolist()):
        maps = compute_attributions(Saliency(tiny_model), X, target=target)
        assert torch.allclose(maps, expected, rtol=1e-9, atol=1e-12)


def test_layers_and_tuples(tiny_model, inputs):
    X, y = inputs
    # Captum hooks the layer's output, which an in-place layer would change
    tiny_model[4] = nn.ReLU()
    expected = LayerActivation(tiny_model, tiny_model[3]).attribute(X)
    assert torch.allclose(
        compute_attributions(LayerActivation(tiny_model, tiny_model[3]), X), expected
    )
    expected = LayerConductance(tiny_model, tiny_model[3]).attribute(X, target=y, n_steps=8)
    conductance = compute_attributions(
        LayerConductance(tiny_model, tiny_model[3]), X, target=y, n_steps=8
    )
    assert torch.allclose(conductance, expected, rtol=1e-6, atol=1e-12)

    class Pair:
        """An algorithm with two results for an image, as for a layer with two outputs."""

        def attribute(self, inputs):
            return inputs.sum(dim=1), inputs * 2

    first, second = compute_attributions(Pair(), X)
    assert torch.equal(first, X.sum(dim=1)) and torch.equal(second, 2 * X)
    assert not second.requires_grad


def test_layer_methods_record_no_graph_below_the_layer(tiny_model, inputs):
    graphs = []
    tiny_model.register_forward_pre_hook(lambda _, args: graphs.append(args[0].requires_grad))
    compute_attributions(LayerActivation(tiny_model, tiny_model[3]), inputs[0])
    assert not any(graphs)
    compute_attributions(Saliency(tiny_model), inputs[0], target=0)
    assert graphs[-1]


def test_memory_stays_flat_by_batches_of_steps(tiny_model, inputs):
    sizes = []
    tiny_model.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    compute_attributions(IntegratedGradients(tiny_model), inputs[0], target=inputs[1], n_steps=50)
    assert max(sizes) <= 32 and sum(sizes) >= 20 * 50
    sizes.clear()
    compute_attributions(
        IntegratedGradients(tiny_model), inputs[0], target=0, n_steps=50, internal_batch_size=16
    )
    assert max(sizes) <= 16


def test_the_network_is_left_as_it_was_after_an_exception(tiny_model, inputs):
    tiny_model[1], tiny_model[4] = nn.ReLU(), nn.ReLU()
    before = network_state(tiny_model)
    with pytest.raises(Exception, match="out of bounds"):
        compute_attributions(Saliency(tiny_model), inputs[0], target=torch.full((20,), 7))
    assert same_state(before, network_state(tiny_model))
    compute_attributions(GuidedBackprop(tiny_model), inputs[0], target=inputs[1])
    assert same_state(before, network_state(tiny_model))


@pytest.mark.parametrize(
    "height, width, square, stride", [(224, 300, 64, 40), (101, 100, 29, 18), (40, 33, 9, 6)]
)
def test_occlusions_squares_are_shares_of_the_short_side(height, width, square, stride):
    windows = occlusion_windows(np.zeros((height, width, 3)))
    assert windows["sliding_window_shapes"] == (3, square, square)
    assert windows["strides"] == (3, stride, stride)


@pytest.mark.parametrize("bad", [torch.zeros(0, 3, 4, 4), None, np.zeros((2, 3, 4, 4))])
def test_inputs_are_checked(tiny_model, bad):
    with pytest.raises(ValueError, match="inputs must be a tensor"):
        compute_attributions(Saliency(tiny_model), bad, target=0)


# --- visualize_attr_maps ---


def expected_map(values: np.ndarray, alpha: float) -> np.ndarray:
    """Colours (H, W, 3) of an attribution, by the course's formula, on white."""
    shown = np.clip((values - values.mean()) / values.std() * 0.2 + 0.5, 0, 1)
    return alpha * 255 * shown + (1 - alpha) * 255


def test_the_figure_holds_photos_and_maps_pixel_by_pixel(tmp_path, photos):
    X, y = photos
    generator = torch.Generator().manual_seed(0)
    colour = torch.randn(5, 3, 224, 224, generator=generator)
    coarse = torch.randn(5, 1, 13, 13, generator=generator, requires_grad=True)
    path = tmp_path / "new" / "figure.png"
    names = {int(label): f"class {label}, synonym" for label in y[:4]}
    visualize_attr_maps(
        path, X, y, names, [colour, coarse], ["three channels", "one"], cmap="gray", alpha=0.6
    )
    with Image.open(path) as figure:
        pixels = np.asarray(figure.convert("RGB")).astype(int)
    assert pixels.shape == (TITLE_BAND + 3 * (224 + GAP) + GAP, LABEL_BAND + 5 * (224 + GAP), 3)
    enlarged = np.arange(224) * 13 // 224
    for i in range(5):
        left, top = LABEL_BAND + i * (224 + GAP), TITLE_BAND
        photo, first, second = (
            pixels[top + row * (224 + GAP) :, left : left + 224][:224] for row in range(3)
        )
        assert np.array_equal(photo, X[i])
        assert np.abs(first - expected_map(colour[i].permute(1, 2, 0).numpy(), 0.6)).max() <= 1
        grey = expected_map(coarse[i, 0].detach().numpy(), 0.6)[enlarged][:, enlarged]
        assert np.abs(second - grey[..., None]).max() <= 2
    band = pixels[:TITLE_BAND]
    # Each has its title
    assert all(band[:, LABEL_BAND + i * (224 + GAP) :][:, :224].min() < 100 for i in range(5))


def test_defaults_are_the_course_s(tmp_path, photos):
    X, y = photos[0][:1], [285]
    visualize_attr_maps(
        str(tmp_path / "f.png"), X, y, {285: "cat"}, [torch.zeros(1, 1, 224, 224)], ["constant"]
    )
    with Image.open(tmp_path / "f.png") as figure:
        tile = np.asarray(figure.convert("RGB"))[
            -2 * GAP - 224 : -2 * GAP, LABEL_BAND : LABEL_BAND + 224
        ]
        assert figure.text["Seed"] == "none" and figure.text["Network"] == "unknown"
    viridis = np.array([32.6, 144.9, 140.4])  # its middle: a constant map is no NaN
    assert np.abs(tile - (0.7 * viridis + 0.3 * 255)).max() <= 2


def test_another_preprocessing_and_a_photo_that_is_not_square(tmp_path):
    X = np.full((2, 160, 240, 3), 77, np.uint8)
    maps = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    visualize_attr_maps(
        tmp_path / "f.png",
        X,
        [1, 2],
        {},
        [maps],
        [""],
        attr_preprocess=lambda a: a.numpy()[0],
        cmap="jet",
    )
    with Image.open(tmp_path / "f.png") as figure:
        pixels = np.asarray(figure.convert("RGB"))
    assert pixels.shape == (TITLE_BAND + 2 * (160 + GAP) + GAP, LABEL_BAND + 2 * (240 + GAP), 3)
    tile = pixels[-2 * GAP - 160 : -2 * GAP, LABEL_BAND : LABEL_BAND + 240]
    assert len(np.unique(tile.reshape(-1, 3), axis=0)) <= 24
    assert (tile[:40, :40] == tile[0, 0]).all()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"titles": ["a", "b"]}, "titles .*got 2"),
        ({"y": [1]}, "y and attributions must hold one entry for each of the 2 photos"),
        (
            {"attributions": [torch.zeros(3, 1, 8, 8)]},
            "must hold one entry for each of the 2 photos",
        ),
        (
            {"attributions": [torch.full((2, 1, 8, 8), torch.nan)]},
            "attributions have values that are not finite",
        ),
        (
            {"attributions": [torch.full((2, 3, 8, 8), torch.inf)]},
            "attributions have values that are not finite",
        ),
        ({"cmap": "no such map"}, "no such map"),
        ({"X": np.zeros((0, 8, 8, 3), np.uint8), "y": []}, "at least one photo"),
    ],
)
def test_arguments_are_checked(tmp_path, change, message):
    arguments = {
        "X": np.zeros((2, 8, 8, 3), np.uint8),
        "y": [1, 2],
        "attributions": [torch.zeros(2, 1, 8, 8)],
    }
    arguments |= change
    if not len(arguments["X"]):
        arguments["attributions"] = [torch.zeros(0, 1, 8, 8)]
    with pytest.raises(ValueError, match=message):
        visualize_attr_maps(tmp_path / "f.png", class_names={}, **{"titles": ["a"], **arguments})
    assert not list(tmp_path.iterdir())


def test_a_figure_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        visualize_attr_maps(
            tmp_path / "file" / "f.png",
            np.zeros((1, 8, 8, 3), np.uint8),
            [1],
            {},
            [torch.zeros(1, 1, 8, 8)],
            ["a"],
        )


def test_forward_arguments_in_a_tuple_are_cut_along_with_the_images():
    class Weighted(nn.Module):
        def forward(self, x, factor, power):
            return (
                (factor[:, None] * x.flatten(1).pow(power)).sum(dim=1, keepdim=True).expand(-1, 2)
            )

    images = torch.rand(20, 3, 2, 2, generator=torch.Generator().manual_seed(0)) + 1
    factor = torch.arange(1.0, 21)
    found = compute_attributions(
        Saliency(Weighted()), images, target=0, additional_forward_args=(factor, 2)
    )
    assert torch.allclose(found, 2 * factor[:, None, None, None] * images)
