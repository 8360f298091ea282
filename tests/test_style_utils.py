"""Features, the course's helpers, reference values, and style transfer: its update rules, faults
and interruptions.
"""

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import HALF_WEIGHTS, network_state, replayed_and_not, same_state
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchvision import models

import style_utils
from errors import InputError
from files.course import course_file, package_file
from image_utils import SQUEEZENET_STD, deprocess
from model_utils import load_model
from style_modules import ContentLoss, StyleLoss, TotalVariationLoss
from style_transfer import presets
from style_utils import ITERATIONS, extract_features, features_from_img, rel_error, style_transfer

content_loss, style_loss, tv_loss = ContentLoss(), StyleLoss(), TotalVariationLoss()
STYLE_LAYERS = (1, 4, 6, 7)
STARRY = {
    "style_size": 192,
    "content_weight": 6e-2,
    "style_weights": (300000, 1000, 15, 3),
    "tv_weight": 2e-2,
}
INVERSION = {**STARRY, "style_weights": (0, 0, 0, 0), "init_random": True}


@pytest.fixture(scope="module")
def official(course):
    """The real network with torchvision's weights, rounded to half precision."""
    return load_model(weights=str(course / HALF_WEIGHTS), device="cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A content and a style picture of a few pixels, cut from real photos; not square, neither like
    the other.
    """
    folder = tmp_path_factory.mktemp("pictures")
    for name, size in (("chelsea", (64, 48)), ("coffee", (50, 61))):
        Image.open(package_file("skimage", f"data/{name}.png")).resize(size).save(
            folder / f"{name}.png"
        )
    return folder / "chelsea.png", folder / "coffee.png"


def run(pictures, cnn, size=48, dtype=torch.FloatTensor, name="picture", testing=True, **changes):
    """Style transfer with the starry preset; returns the result and what the callback got."""
    reports = []
    setting = {**STARRY, "style_size": size, "callback": reports.append, **changes}
    result = style_transfer(
        name,
        *pictures,
        size,
        content_layer=3,
        style_layers=setting.pop("style_layers", STYLE_LAYERS),
        content_loss=content_loss,
        style_loss=style_loss,
        tv_loss=tv_loss,
        cnn=cnn,
        dtype=dtype,
        testing=testing,
        **setting,
    )
    return result, reports


# --- Features and helpers ---


def test_features_do_not_overwrite_one_another(bundled_model):
    x = torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    before, state = x.clone(), network_state(bundled_model)
    features = extract_features(x, bundled_model)
    assert len(features) == 13 and torch.equal(x, before)
    assert same_state(state, network_state(bundled_model))
    out = x
    for feature, layer in zip(features, bundled_model.features, strict=True):
        out = layer(out.clone())
        torch.testing.assert_close(feature, out)
    assert features[0].min() < 0 <= features[1].min()


def test_features_of_a_network_whose_first_layer_works_in_place():
    x = torch.tensor([[[[-1.0, 2.0]]]])
    features = extract_features(
        x, nn.Sequential(nn.ReLU(inplace=True), nn.Hardtanh(0, 1, inplace=True))
    )
    assert [f.flatten().tolist() for f in (x, *features)] == [[-1, 2], [0, 2], [0, 1]]


def test_a_layer_that_comes_again_counts_again():
    half = nn.AvgPool2d(2)
    features = extract_features(torch.zeros(1, 3, 8, 8), nn.Sequential(half, nn.ReLU(), half))
    assert [f.shape[3] for f in features] == [4, 4, 2]


def test_features_can_stop_early(bundled_model):
    x, ran = torch.zeros(1, 3, 40, 40), []
    cnn = copy.deepcopy(bundled_model).features
    for i, layer in enumerate(cnn):
        layer.register_forward_hook(lambda *_, i=i: ran.append(i))
    features = extract_features(x, cnn, last_layer=4)
    assert ran == [0, 1, 2, 3, 4] and len(features) == 5
    whole = extract_features(x, bundled_model)
    assert all(torch.equal(a, b) for a, b in zip(features, whole, strict=False))


def test_a_layer_that_does_not_exist_is_named(bundled_model):
    for layer, message in ((13, "last_layer .*got 13"), (-1, "last_layer .* got -1")):
        with pytest.raises(ValueError, match=message):
            extract_features(torch.zeros(1, 3, 40, 40), bundled_model, last_layer=layer)


def test_features_carry_gradients_to_the_picture(bundled_model):
    x = torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for feature in extract_features(x, bundled_model):
        (gradient,) = torch.autograd.grad(feature.square().sum(), x, retain_graph=True)
        assert gradient.abs().max() > 0


class Fixed(nn.Module):
    """A layer that takes pictures of one size alone."""

    def __init__(self, error: type[BaseException]):
        super().__init__()
        self.error = error

    def forward(self, x):
        if x.shape[2:] != (64, 64):
            raise self.error("only 64")
        return x


@pytest.mark.parametrize("error", [AssertionError, KeyError, SystemExit])
def test_layers_that_fail_are_one_line_with_the_picture_s_size(pictures, error):
    cnn = nn.Sequential(*(nn.Conv2d(3, 3, 3), nn.ReLU(), Fixed(error)), *[nn.ReLU()] * 6)
    words = rf"network's layers .* on a picture of 64×48: {error.__name__}: .*only 64"
    with pytest.raises(InputError, match=words):
        features_from_img(pictures[0], 48, cnn, torch.float32)
    with pytest.raises(InputError, match=words):
        run(pictures, cnn, num_iterations=1)


@pytest.mark.parametrize(
    "dtype", [torch.FloatTensor, torch.float32, torch.device("cpu"), "torch.FloatTensor"], ids=str
)
def test_features_from_img(bundled_model, pictures, dtype):
    features, image = features_from_img(pictures[0], 48, bundled_model, dtype)
    assert image.shape == (1, 3, 48, 64) and image.dtype == torch.float32
    torch.testing.assert_close(image, style_utils.preprocess(Image.open(pictures[0]), 48))
    assert all(
        torch.equal(a, b)
        for a, b in zip(features, extract_features(image, bundled_model), strict=True)
    )
    assert not any(feature.requires_grad for feature in features)


def test_preprocess_brings_the_short_side_to_size():
    photo = Image.open(package_file("skimage", "data/chelsea.png"))  # 451×300
    assert style_utils.preprocess(photo).shape == (1, 3, 512, 769)
    assert style_utils.preprocess(photo, size=150).shape == (1, 3, 150, 225)
    stretched = np.asarray(style_utils.deprocess(style_utils.preprocess(photo, 150)))
    assert stretched.min() == 0 and stretched.max() == 255


def test_rescale_goes_from_0_to_1_and_takes_a_constant():
    assert style_utils.rescale(torch.tensor([3.0, 5.0, 4.0])).tolist() == [0, 1, 0.5]
    assert style_utils.rescale(torch.full((2, 2), 7.0)).tolist() == [[0, 0], [0, 0]]


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_rel_error_of_numbers(x, y):
    expected = abs(x - y) / max(1e-8, abs(x) + abs(y))
    assert rel_error(np.array([x]), np.array(y)) == pytest.approx(expected)
    assert rel_error(np.array([x, y]), np.array([y, y])) == pytest.approx(expected)


def test_check_scipy(monkeypatch):
    style_utils.check_scipy()
    monkeypatch.setattr(style_utils, "version", lambda package: {"scipy": "0.15.1"}[package])
    with pytest.raises(ImportError, match=r"0\.16"):
        style_utils.check_scipy()


# --- The course's reference values ---


def test_losses_agree_with_the_courses_values(course, official):
    content, image = features_from_img(
        course_file("styles_images/tubingen.jpg"), 192, official, torch.FloatTensor
    )
    style, _ = features_from_img(
        course_file("styles_images/starry_night.jpg"), 192, official, torch.FloatTensor
    )
    black = extract_features(torch.zeros_like(image), official)
    targets = [style_loss.gram_matrix(style[layer]) for layer in STYLE_LAYERS]
    found = {
        "cl_out": content_loss(6e-2, content[3], black[3]),
        "gm_out": style_loss.gram_matrix(style[5]),
        "sl_out": style_loss(content, STYLE_LAYERS, targets, STARRY["style_weights"]),
        "tv_out": tv_loss(image, 2e-2),
    }
    limits = {"cl_out": 0.001, "gm_out": 0.005, "sl_out": 0.004, "tv_out": 0.001}
    with np.load(course_file("data/style-transfer-checks.npz")) as wanted:
        errors = {name: rel_error(wanted[name], value.numpy()) for name, value in found.items()}
    assert all(errors[name] <= limits[name] for name in limits), errors


@pytest.mark.parametrize("content", [None, b"no archive"])
def test_check_values_that_cannot_be_read_are_named(tmp_path, content):
    if content:
        (tmp_path / "values.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"values\.npz"):
        style_utils.reference_values(tmp_path / "values.npz")


# --- The update rules ---


def textbook_transfer(pictures, cnn, steps):
    """The course's loop word by word, but for the number of steps: coarse until 20 before the end,
    and so on.
    """
    content, style = (style_utils.preprocess(Image.open(path), 48).double() for path in pictures)
    content_target = extract_features(content, cnn)[3]
    style_feats = extract_features(style, cnn)
    targets = [style_loss.gram_matrix(style_feats[layer]) for layer in STYLE_LAYERS]
    img = content.clone().requires_grad_()
    optimizer = torch.optim.Adam([img], lr=3.0)
    losses = []
    for t in range(steps):
        if t < steps - 10:
            img.data.clamp_(-1.5, 1.5)
        optimizer.zero_grad()
        feats = extract_features(img, cnn)
        loss = content_loss(6e-2, feats[3], content_target) + tv_loss(img, 2e-2)
        loss = loss + style_loss(feats, STYLE_LAYERS, targets, STARRY["style_weights"])
        losses.append(loss.item())
        loss.backward()
        if t == steps - 20:
            optimizer = torch.optim.Adam([img], lr=0.1)
        optimizer.step()
    return img.detach(), losses


@pytest.mark.slow
def test_the_courses_rule_is_followed(bundled_model, pictures):
    cnn = copy.deepcopy(bundled_model).double().to(memory_format=torch.channels_last)
    wanted, losses = textbook_transfer(pictures, cnn, 26)
    result, reports = run(pictures, cnn, dtype=torch.DoubleTensor, num_iterations=26)
    assert result.dtype == torch.float64
    torch.testing.assert_close(result, wanted, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose([p.total for p in reports[:-1]], losses, rtol=1e-6)
    assert wanted.abs().max() > 1.5  # the last steps are not clipped


def test_the_callback_sees_every_picture_and_its_losses(bundled_model, pictures):
    result, reports = run(pictures, bundled_model, num_iterations=5)
    assert [p.iteration for p in reports] == list(range(6))
    assert torch.equal(reports[-1].image, result) and not result.requires_grad
    content, style = (style_utils.preprocess(Image.open(path), 48) for path in pictures)
    target = extract_features(content, bundled_model)[3]
    style_feats = extract_features(style, bundled_model)
    targets = [style_loss.gram_matrix(style_feats[layer]) for layer in STYLE_LAYERS]
    for p in reports:
        feats = extract_features(p.image, bundled_model)
        terms = (
            content_loss(6e-2, feats[3], target),
            tv_loss(p.image, 2e-2),
            style_loss(feats, STYLE_LAYERS, targets, STARRY["style_weights"]),
        )
        np.testing.assert_allclose((p.content, p.total_variation, p.style), terms, rtol=1e-3)
        assert p.total == pytest.approx(p.content + p.style + p.total_variation)


@pytest.mark.parametrize("optimizer", ITERATIONS)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_short_runs(bundled_model, pictures, optimizer, steps):
    result, reports = run(pictures, bundled_model, optimizer=optimizer, num_iterations=steps)
    assert len(reports) == steps + 1 and result.shape == (1, 3, 48, 64)
    content = style_utils.preprocess(Image.open(pictures[0]), 48)
    assert (steps == 0) == torch.allclose(result, content, atol=1e-4)


@pytest.mark.slow
def test_the_number_of_steps_is_the_optimizers_own_by_default(bundled_model, pictures):
    for optimizer, steps in ITERATIONS.items():
        _, reports = run(pictures, bundled_model, size=32, optimizer=optimizer)
        assert reports[-1].iteration == steps


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_fast_rules_get_further_on_any_picture(bundled_model, pictures, optimizer):
    _, slow = run(pictures, bundled_model)
    _, fast = run(pictures, bundled_model, optimizer=optimizer)
    assert fast[-1].total < slow[-1].total < slow[0].total and fast[-1].iteration <= 50


@pytest.fixture(scope="module", params=range(3), ids=["composition", "scream", "starry"])
def by_rule(course, official, request):
    """One of the course's presets by each rule; the first two at a third of the size."""
    preset = presets()[request.param]
    part = 1 if request.param == 2 else 3
    return {
        rule: run(
            (preset.content, *preset.styles),
            official,
            preset.image_size // part,
            name=preset.name,
            style_size=preset.style_size // part,
            content_weight=preset.content_weight,
            style_weights=preset.style_weights,
            tv_weight=preset.tv_weight,
            optimizer=rule,
        )[1]
        for rule in ITERATIONS
    }


@pytest.mark.slow
def test_every_rule_ends_where_it_should(by_rule, request):
    slow = by_rule["course"]
    # The learning rate of 3.0 drives the loss up first
    assert max(p.total for p in slow) > 10 * slow[0].total
    if "starry" in request.node.name:
        assert 44_000 < slow[0].total < 47_000 and slow[-1].total <= 19_500
    for fast in (by_rule["adam"], by_rule["lbfgs"]):
        assert fast[-1].total <= slow[-1].total and fast[-1].style <= slow[-1].style
        assert fast[-1].iteration <= 0.25 * slow[-1].iteration  # a step costs the same


@pytest.mark.slow
def test_feature_inversion(official, course):
    photo = course_file("styles_images/tubingen.jpg")
    result, reports = run((photo, photo), official, size=192, **INVERSION)
    assert reports[-1].content <= 0.15 * reports[0].content
    assert all(p.style == 0 for p in reports)
    original = style_utils.preprocess(Image.open(photo), 192)
    grey, wanted = (x.mean(dim=1).flatten() for x in (result, original))
    assert torch.corrcoef(torch.stack([grey, wanted]))[0, 1] > 0.6  # recognisable; the noise has 0
    start = reports[0].image.mean(dim=1).flatten()
    assert torch.corrcoef(torch.stack([start, wanted]))[0, 1].abs() < 0.05


class NoStyle(StyleLoss):
    """A style loss that begins with the number 0 and gets no layers."""

    def forward(self, *_):
        return 0


def test_a_style_loss_may_be_the_number_0(bundled_model, pictures, monkeypatch):
    setting = {"num_iterations": 2, "style_weights": (0, 0, 0, 0)}
    wanted, _ = run(pictures, bundled_model, **setting)
    monkeypatch.setitem(globals(), "style_loss", NoStyle())
    assert torch.equal(run(pictures, bundled_model, **setting)[0], wanted)


# --- Options ---


def test_layers_of_weight_zero_are_not_computed(bundled_model, pictures):
    ran = []
    cnn = copy.deepcopy(bundled_model)
    for i, layer in enumerate(cnn.features):
        layer.register_forward_hook(lambda *_, i=i: ran.append(i))
    run(pictures, cnn, num_iterations=1, **{**INVERSION, "style_size": 48})
    assert set(ran) == {0, 1, 2, 3}
    run(pictures, cnn, num_iterations=1)
    assert set(ran) == set(range(8))


def test_random_start_is_seeded_and_uniform(bundled_model, pictures):
    results = [
        run(pictures, bundled_model, num_iterations=2, init_random=True, seed=seed)[0]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    start = run(pictures, bundled_model, num_iterations=0, init_random=True)[0]
    assert 0 <= start.min() < 0.01 and 0.99 < start.max() < 1 and abs(start.mean() - 0.5) < 0.01


def test_shares_of_one_and_nothing_are_one_style(bundled_model, pictures):
    content, style = pictures
    alone, _ = run(pictures, bundled_model, num_iterations=2)
    shared, _ = run(
        (content, [style, content]), bundled_model, num_iterations=2, style_shares=(1, 0)
    )
    mixed, _ = run(
        (content, [style, content]), bundled_model, num_iterations=2, style_shares=(1, 1)
    )
    assert torch.equal(alone, shared) and not torch.equal(alone, mixed)


def test_a_mask_of_ones_changes_nothing(bundled_model, pictures):
    alone, reports = run(pictures, bundled_model, num_iterations=2, optimizer="adam")
    white = [Image.new("L", (64, 48), 255)]
    masked, seen = run(pictures, bundled_model, num_iterations=2, optimizer="adam", masks=white)
    torch.testing.assert_close(masked, alone, rtol=0, atol=1e-6)
    assert [p.style for p in seen] == pytest.approx([p.style for p in reports], rel=1e-6)
    assert sum(seen[0].style_by_layer) == pytest.approx(seen[0].style)
    assert len(seen[0].style_by_layer) == 4


def test_a_large_picture_needs_less_memory_and_has_the_same_bits(
    bundled_model, pictures, monkeypatch
):
    plain, _ = run(pictures, bundled_model, num_iterations=2)
    inputs: list[int] = []
    evaluate = style_utils.Recomputed.forward
    monkeypatch.setattr(style_utils, "LARGE", 48 * 64)
    monkeypatch.setattr(
        style_utils.Recomputed,
        "forward",
        lambda self, x: (inputs.append(x.shape[1]), evaluate(self, x))[1],
    )
    large, _ = run(pictures, bundled_model, num_iterations=2)
    assert torch.equal(plain, large)
    assert inputs[:4] == [64, 128, 128, 256]  # what is kept: the outputs that a loss needs


def test_coarse_to_fine_keeps_the_colours_of_the_content(bundled_model, pictures):
    """Nearly as well as one scale does, place by place; with `preserve_color` exactly."""
    content = chroma(style_utils.preprocess(Image.open(pictures[0]), 48))
    setting = {"optimizer": "adam", "style_size": 48}
    found = {}
    for kept in (False, True):
        setting["preserve_color"] = kept
        coarse, _ = run(pictures, bundled_model, 32, num_iterations=10, **setting)
        fine, _ = run(pictures, bundled_model, 48, num_iterations=4, start=coarse, **setting)
        found[kept] = (chroma(fine) - content).abs().mean()
    setting["preserve_color"] = False
    plain, _ = run(pictures, bundled_model, 48, num_iterations=10, **setting)
    assert found[True] < 1e-6 and found[False] < 1.3 * (chroma(plain) - content).abs().mean()


def chroma(picture: torch.Tensor) -> torch.Tensor:
    """Red minus green and blue minus green of a normalised picture, at 6×8 places."""
    places = nn.functional.adaptive_avg_pool2d(picture[0], (6, 8))
    red, green, blue = places * torch.from_numpy(SQUEEZENET_STD).view(3, 1, 1)
    return torch.stack([red - green, blue - green])


def gram_distances(cnn, image, styles):
    """The distance of a picture's Gram matrices from each style's, relative to the style's, over
    the style layers.
    """
    feats = extract_features(image, cnn)
    return [
        sum(
            (
                (
                    style_loss.gram_matrix(feats[k]) - (wanted := style_loss.gram_matrix(maps[k]))
                ).norm()
                / wanted.norm()
            ).item()
            for k in STYLE_LAYERS
        )
        for maps in (extract_features(style, cnn) for style in styles)
    ]


@pytest.mark.slow
def test_each_half_has_its_own_style(bundled_model, pictures):
    names = ("hard_edges", "swirling_night")
    paths = [
        Path(style_utils.__file__).parent / "data" / "styles" / f"{name}.jpg" for name in names
    ]
    left = np.zeros((48, 64), np.uint8)
    left[:, :32] = 255
    halves = [Image.fromarray(left), Image.fromarray(255 - left)]
    setting = {"optimizer": "adam", "style_size": 64, "size": 96, "content_weight": 0.01}
    result, _ = run((pictures[0], paths), bundled_model, masks=halves, **setting)
    styles = [style_utils.preprocess(Image.open(path), 64) for path in paths]
    for half, own in ((result[..., :64], 0), (result[..., 64:], 1)):
        distances = gram_distances(bundled_model, half, styles)
        assert distances[own] < distances[1 - own]


@pytest.mark.slow
def test_a_texture_has_the_styles_gram_matrices(bundled_model, pictures):
    result, reports = run((None, pictures[1]), bundled_model, optimizer="adam", size=64)
    assert result.shape == (1, 3, 64, 64) and reports[-1].style < 0.1 * reports[0].style
    assert all(p.content == 0 for p in reports)


def test_it_starts_from_a_given_picture_of_any_size(bundled_model, pictures):
    small = style_utils.preprocess(Image.open(pictures[0]), 32)
    start, _ = run(pictures, bundled_model, num_iterations=0, start=small, optimizer="adam")
    content = style_utils.preprocess(Image.open(pictures[0]), 48)
    assert start.shape == content.shape
    torch.testing.assert_close(start.mean((2, 3)), content.mean((2, 3)), rtol=0, atol=0.1)


def test_preserved_colors_are_those_of_the_content(bundled_model, pictures):
    result, reports = run(
        pictures, bundled_model, optimizer="adam", num_iterations=10, preserve_color=True
    )
    plain, _ = run(pictures, bundled_model, optimizer="adam", num_iterations=10)
    assert torch.equal(reports[-1].image, result)

    def ycc(image):
        mean, std = (
            torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
        r, g, b = image[0] * std + mean
        luminance = 0.299 * r + 0.587 * g + 0.114 * b
        return luminance, torch.stack([b - luminance, r - luminance])

    content = style_utils.preprocess(Image.open(pictures[0]), 48)
    torch.testing.assert_close(ycc(result)[1], ycc(content)[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(ycc(result)[0], ycc(plain)[0], rtol=0, atol=1e-5)
    assert (ycc(plain)[1] - ycc(content)[1]).abs().max() > 0.05


def stop(progress):
    raise RuntimeError("stop")


@pytest.mark.parametrize("frozen", [True, False])
def test_the_network_is_left_as_it_was_and_gradients_may_be_off(bundled_model, pictures, frozen):
    cnn = copy.deepcopy(bundled_model).requires_grad_(not frozen).train()
    before = network_state(cnn)
    with torch.no_grad():
        result, reports = run(pictures, cnn, num_iterations=2)
        assert not torch.is_grad_enabled()
    with pytest.raises(RuntimeError, match="stop"):
        run(pictures, cnn, num_iterations=2, callback=stop)
    assert same_state(before, network_state(cnn)) and reports[-1].total != reports[0].total
    torch.testing.assert_close(result, run(pictures, bundled_model.features, num_iterations=2)[0])


@pytest.mark.slow
def test_batch_norm_is_evaluated_and_not_updated(pictures):
    torch.manual_seed(0)
    cnn = models.vgg11_bn().train()
    before = network_state(cnn)
    setting = {"num_iterations": 2, "style_layers": (2, 6), "style_weights": (1, 1)}
    results = [run(pictures, net, **setting)[0] for net in (cnn, cnn, copy.deepcopy(cnn).eval())]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    assert same_state(before, network_state(cnn))


def test_the_same_seed_gives_the_same_bytes(bundled_model, pictures, tmp_path):
    for folder in ("a", "b"):
        for rule in ITERATIONS:
            run(
                pictures,
                bundled_model,
                name=rule,
                testing=False,
                output=tmp_path / folder,
                optimizer=rule,
                num_iterations=4,
            )
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(
        f"{rule}{end}" for rule, end in itertools.product(ITERATIONS, (".png", "_before.png"))
    )
    assert all(
        (tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names
    )


# --- What is written ---


def test_the_pictures_are_written_and_none_when_testing(bundled_model, pictures, tmp_path):
    result, _ = run(pictures, bundled_model, num_iterations=2, output=tmp_path)
    assert list(tmp_path.iterdir()) == []
    folder = tmp_path / "made" / "when missing"
    nothing, _ = run(pictures, bundled_model, num_iterations=2, testing=False, output=folder)
    assert nothing is None
    assert {p.name for p in folder.iterdir()} == {"picture.png", "picture_before.png"}
    with Image.open(folder / "picture.png") as written:
        assert written.mode == "RGB" and written.size == (64, 48)
        assert written.text["Weights"].startswith("bundled") and written.text["Seed"] == "0"
        assert np.array_equal(written, deprocess(result, should_rescale=False))
    with Image.open(folder / "picture_before.png") as before:
        assert before.width > 128 and before.height > 48


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), RuntimeError("stop"), SystemExit(143)], ids=repr
)
def test_a_run_cut_short_leaves_the_picture_reached(bundled_model, pictures, tmp_path, error):
    reached = []

    def callback(progress):
        reached.append(deprocess(progress.image, should_rescale=False))
        if progress.iteration == 2:
            raise error

    with pytest.raises(type(error)):
        run(pictures, bundled_model, testing=False, output=tmp_path, callback=callback)
    written = np.asarray(Image.open(tmp_path / "picture.png"))
    assert np.array_equal(written, reached[2]) and not np.array_equal(written, reached[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["picture.png", "picture_before.png"]


class DamagedLoss(nn.Module):
    """A content loss that is no number from its fourth evaluation on."""

    def __init__(self, value):
        super().__init__()
        self.value, self.calls = value, 0

    def forward(self, weight, current, original):
        self.calls += 1
        return ContentLoss()(weight, current, original) * (self.value if self.calls > 3 else 1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_at_once(
    bundled_model, pictures, tmp_path, monkeypatch, value
):
    damaged = DamagedLoss(value)
    monkeypatch.setitem(globals(), "content_loss", damaged)
    with pytest.raises(
        ValueError, match=r"not finite at step 3 \(content (nan|inf).*picture of step 2 is kept"
    ):
        run(
            pictures,
            bundled_model,
            num_iterations=23,
            testing=False,
            output=tmp_path,
            optimizer="adam",
        )
    assert damaged.calls == 4
    monkeypatch.setitem(globals(), "content_loss", ContentLoss())
    _, reports = run(pictures, bundled_model, num_iterations=23, optimizer="adam")
    assert np.array_equal(
        Image.open(tmp_path / "picture.png"), deprocess(reports[2].image, should_rescale=False)
    )


def test_a_damaged_network_writes_no_picture(bundled_model, pictures, tmp_path):
    cnn = copy.deepcopy(bundled_model)
    cnn.features[0].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        run(pictures, cnn, testing=False, output=tmp_path)
    assert not (tmp_path / "picture.png").exists()


# --- Odd pictures and arguments ---


def save(folder: Path, name: str, image: Image.Image) -> Path:
    image.save(folder / name)
    return folder / name


@pytest.mark.slow
def test_odd_pictures_are_taken(bundled_model, pictures, tmp_path):
    rgb = Image.open(pictures[0])
    alpha = rgb.convert("RGBA")
    alpha.putalpha(rgb.convert("L"))
    odd = [
        save(tmp_path, "one_pixel.png", Image.new("RGB", (1, 1), (200, 30, 90))),
        save(tmp_path, "huge.png", Image.new("RGB", (6000, 4000), (20, 130, 90))),
        save(tmp_path, "grey.png", rgb.convert("L")),
        save(tmp_path, "transparent.png", alpha),
        save(tmp_path, "palette.gif", rgb.convert("P")),
    ]
    for path in odd:
        for pair in ((path, pictures[1]), (pictures[0], path)):
            result, reports = run(pair, bundled_model, size=32, num_iterations=2)
            assert min(result.shape[2:]) == 32 and torch.isfinite(result).all()
            assert len(reports) == 3


def test_pictures_that_cannot_be_used_are_refused(bundled_model, pictures, tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    refused = {
        text: "cannot be read as an image",
        tmp_path / "absent.png": "no such file",
        tmp_path: "not a file",
        save(
            tmp_path, "long.png", Image.new("RGB", (1, 5000))
        ): "1×5000 pixels; the long side may be at most 8 times",
    }
    for path, message in refused.items():
        for pair in ((path, pictures[1]), (pictures[0], path)):
            with pytest.raises(ValueError, match=message):
                run(pair, bundled_model, testing=False, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_iterations": 2.5}, "num_iterations .*got 2.5"),
        ({"optimizer": "sgd"}, "optimizer .*got 'sgd'"),
        ({"num_iterations": -1}, "num_iterations .*got -1"),
        ({"size": 31}, "image_size must be at least 32, got 31"),
        ({"style_size": -5}, "style_size .*got -5"),
        ({"style_layers": (1, 13, 6, 7)}, "style_layers .*got 13"),
        ({"style_layers": (1, 4)}, "style_layers has 2 entries, but style_weights has 4"),
        ({"style_weights": (1, -2, 3, 4)}, "style_weights .*got -2"),
        ({"content_weight": float("nan")}, "content_weight .*got nan"),
        ({"tv_weight": -0.1}, "tv_weight .*got -0.1"),
        ({"dtype": "complex numbers"}, "dtype 'complex numbers' cannot be used here"),
    ],
)
def test_arguments_that_do_not_fit_are_named(bundled_model, pictures, changes, message):
    with pytest.raises(ValueError, match=message):
        run(pictures, bundled_model, **changes)


def test_an_output_that_is_a_file_is_refused(bundled_model, pictures, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write .*file/picture_before\.png"):
        run(pictures, bundled_model, testing=False, output=tmp_path / "file")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.cuda.FloatTensor, torch.device("cuda")], ids=str)
def test_style_transfer_on_a_gpu(bundled_model, pictures, dtype):
    result, reports = run(pictures, bundled_model, dtype=dtype, num_iterations=3)
    assert result.is_cuda
    _, wanted = run(pictures, bundled_model, num_iterations=3)
    np.testing.assert_allclose([p.total for p in reports], [p.total for p in wanted], rtol=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ITERATIONS)
def test_replayed_steps_are_the_same_to_the_bit(bundled_model, pictures, optimizer, monkeypatch):
    def paint():
        setting = {"dtype": torch.device("cuda"), "optimizer": optimizer, "num_iterations": 12}
        result, reports = run(pictures, bundled_model, **setting)
        return result.tolist(), [(p.content, *p.style_by_layer, p.total) for p in reports]

    replayed, plain = replayed_and_not(monkeypatch, style_utils, paint)
    assert replayed == plain


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["course", "adam", "lbfgs"])
def test_style_transfer_in_bfloat16_comes_near_that_in_float32(optimizer, bundled_model):
    totals = {}
    for dtype in (torch.float32, torch.bfloat16):
        seen = []
        style_transfer(
            *(
                "x",
                package_file("skimage", "data/chelsea.png"),
                package_file("skimage", "data/coffee.png"),
                64,
                64,
            ),
            *(3, 6e-2, (1, 4, 6, 7), (300000, 1000, 15, 3), 2e-2),
            *(ContentLoss(), StyleLoss(), TotalVariationLoss(), bundled_model, dtype),
            testing=True,
            optimizer=optimizer,
            num_iterations=8,
            callback=lambda progress, seen=seen: seen.append(progress.total),
        )
        totals[dtype] = seen
    assert np.allclose(totals[torch.float32], totals[torch.bfloat16], rtol=0.1)
    assert totals[torch.bfloat16][-1] < 0.7 * totals[torch.bfloat16][0]


def test_a_block_that_begins_in_place_leaves_the_feature_before_it():
    torch.manual_seed(0)
    blocks = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3)),
        nn.Sequential(nn.Sequential(nn.ReLU(inplace=True)), nn.MaxPool2d(2)),
    ).requires_grad_(False)
    x = torch.randn(1, 3, 12, 12)
    first, second, third = extract_features(x, blocks)
    assert torch.equal(first, blocks[0](x)) and first.min() < 0
    assert torch.equal(second, blocks[1][1](first.clone().relu())) and second.min() < 0
    assert torch.equal(third, nn.functional.max_pool2d(second.relu(), 2))


def test_style_layers_without_feature_maps_are_refused():
    cnn = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2))
    losses = ContentLoss(), StyleLoss(), TotalVariationLoss()
    picture = Image.new("RGB", (64, 64))
    with pytest.raises(InputError, match=r"style layer 1 gives \(1, 4, 3844\)"):
        style_transfer(
            "x",
            picture,
            picture,
            64,
            64,
            0,
            1,
            (1,),
            (1,),
            0,
            *losses,
            cnn,
            torch.float32,
            testing=True,
        )
