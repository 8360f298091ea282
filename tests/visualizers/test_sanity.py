"""Sanity checks: numbers worked out by hand on toy networks, the known findings on the real one, and the script."""

import csv
import itertools

import numpy as np
import pytest
import torch
from helpers import assert_one_line_error, network_state, run_script, same_state
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import nn

import sanity_checks
from captum_utils import RADIUS, SAMPLES, explanation_methods, max_sensitivity
from data_utils import load_imagenet_val
from errors import InputError
from figure_utils import draw_curves
from image_utils import to_batch
from model_utils import load_model
from report.markdown import read_table
from report.questions import QUESTIONS
from visualizers import sanity
from visualizers.sanity import Findings

CASCADE = ["classifier", *(f"features.{i}" for i in (12, 11, 10, 9, 7, 6, 4, 3, 0))]
FILES = ["faithfulness.csv", "faithfulness.png", "sanity_checks.csv", "sanity_curves.png", "sanity_randomization.png"]


@pytest.fixture
def linear():
    """A linear network with two classes, an image of 2×3 pixels, and what each pixel adds to class 1's advantage."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(18, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(2, 18, generator=generator))
        model[1].bias.copy_(torch.tensor([0.3, 0.1]))
    image = torch.randn(1, 3, 2, 3, generator=generator, dtype=torch.float64)
    advantage = (model[1].weight[1] - model[1].weight[0]).detach().view(1, 3, 2, 3) * image
    return model, image, advantage.sum(dim=1)


def areas(model, image, maps, **kwargs) -> np.ndarray:
    """The areas of deletion to black and of insertion for class 1, (2,), a step a pixel."""
    label, black = torch.ones(len(image), dtype=torch.int64), torch.zeros_like(image)
    return sanity.area(sanity.deletion_insertion(model, image, label, maps, black, steps=6, **kwargs))[0]


# --- Ranks, similarity, order, areas ---


def test_rank_correlations_worked_out_by_hand():
    def blocks(*values):  # 8×8 pixels of each value, which leaves the correlation of the ranks what it is
        return np.kron(np.array(values, dtype=float).reshape(1, 2, 2), np.ones((8, 8)))

    first = blocks(10, 20, 20, 70)  # ranks 1, 2.5, 2.5, 4
    for second, expected in (
        (blocks(1, 3, 2, 2), 0.5),  # ranks 1, 4, 2.5, 2.5: 2.25 / √(4.5 · 4.5)
        (blocks(0.1, 0.2, 0.2, 9), 1),
        (blocks(-0.1, 0.2, -0.2, 9), 1),  # of absolute values
        (blocks(9, 2, 2, 1), -1),
        (blocks(1, 2, 3, 4), 4.5 / np.sqrt(4.5 * 5)),
    ):
        assert sanity.agreement(second, first)[0, 0] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(sanity.agreement(blocks(2, 2, 2, 2), first)).all()
    assert np.isnan(sanity.agreement(first, blocks(0, 0, 0, 0))).all()


def test_similarity_is_that_of_the_paper():
    """Wang et al. 2004, equation 13, with Gaussian windows of 11×11 pixels, inside the image."""
    a, b = np.random.default_rng(0).random((2, 1, 20, 24))
    x, y = a[0] / a.max(), b[0] / b.max()

    def blur(values):
        return gaussian_filter(values, 1.5, truncate=3.5, mode="reflect")

    covariance, c1, c2 = blur(x * y) - blur(x) * blur(y), 0.01**2, 0.03**2
    variances = blur(x * x) - blur(x) ** 2 + blur(y * y) - blur(y) ** 2
    index = (2 * blur(x) * blur(y) + c1) / (blur(x) ** 2 + blur(y) ** 2 + c1) * (2 * covariance + c2) / (variances + c2)
    assert sanity.agreement(a, -3 * b)[0, 1] == pytest.approx(index[5:-5, 5:-5].mean(), abs=1e-12)
    assert sanity.agreement(a, 7 * a)[0, 1] == pytest.approx(1, abs=1e-12)


def test_each_photo_is_compared_alone():
    maps = np.random.default_rng(1).random((3, 16, 16))
    found = sanity.agreement(torch.from_numpy(maps), maps[[0, 2, 1]])
    assert found.shape == (3, 2) and found[0] == pytest.approx([1, 1]) and (found[1:] < 0.5).all()
    assert found[1:2] == pytest.approx(sanity.agreement(maps[1:2], maps[2:]))


def test_pixels_go_from_the_largest_to_the_smallest():
    maps = torch.tensor([[[0.1, 0.5, -2.0], [7.0, 0.2, -1.0]], [[3.0, 2.0, 1.0], [6.0, 5.0, 4.0]]])
    assert sanity.pixel_order(maps).tolist() == [[3, 1, 4, 0, 5, 2], [3, 4, 5, 0, 1, 2]]
    assert sanity.pixel_order(maps.numpy()).tolist() == sanity.pixel_order(maps).tolist()


def test_ties_are_broken_at_random_and_only_ties():
    maps = np.array([[[1.0, 5.0, 1.0], [1.0, 1.0, 0.0]]])
    orders = np.array([sanity.pixel_order(maps, seed)[0].tolist() for seed in range(400)])
    assert (orders[:, 0] == 1).all() and (orders[:, 5] == 5).all()
    shares = [(orders[:, 1] == pixel).mean() for pixel in (0, 2, 3, 4)]
    assert sum(shares) == 1 and max(shares) < 0.33 and min(shares) > 0.17  # 1/4 each, standard error 0.02
    assert (orders[7] == sanity.pixel_order(maps, 7)[0].numpy()).all()


def test_areas_worked_out_by_hand():
    assert sanity.area(np.array([[1, 0.5, 0], [0, 1, 1]])).tolist() == [0.5, 0.75]
    assert sanity.area(np.full((2, 3, 17), 0.3)) == pytest.approx(np.full((2, 3), 0.3))


# --- Deletion and insertion ---


def test_deletion_and_insertion_worked_out_by_hand():
    """Scores are the sum of a pixel's colours, and zero: the probability is the logistic function of what is there."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0], [0.0]]).expand(2, 12))
        model[1].bias.zero_()
    image = torch.tensor([[3.0, -1.0], [1.0, 0.0]], dtype=torch.float64).expand(1, 3, 2, 2) / 3
    maps = torch.tensor([[[4.0, 1.0], [3.0, 2.0]]])  # 3 goes first, then 1, 0 and −1
    before = network_state(model)
    found = sanity.deletion_insertion(model, image, torch.tensor([0]), maps, torch.zeros_like(image), steps=4)
    logistic = [1 / (1 + np.exp(-x)) for x in (3, 0, -1, -1, 0)], [1 / (1 + np.exp(-x)) for x in (0, 3, 4, 4, 3)]
    assert found.shape == (1, 2, 5) and found[0] == pytest.approx(np.array(logistic), abs=1e-12)
    deleted = [0.95257, 0.5, 0.26894, 0.26894, 0.5]
    assert sanity.area(found)[0, 0] == pytest.approx((sum(deleted) - (deleted[0] + deleted[-1]) / 2) / 4, abs=1e-4)
    assert same_state(before, network_state(model))


@pytest.mark.slow
def test_the_truth_about_a_linear_network_has_the_best_possible_areas(linear):
    model, image, truth = linear
    every = np.array(
        [
            areas(model, image, np.array(order, dtype=float).reshape(1, 2, 3))
            for order in itertools.permutations(range(6))
        ]
    )
    best = areas(model, image, truth)
    assert best[0] == pytest.approx(every[:, 0].min(), abs=1e-12) and best[0] < np.median(every[:, 0]) - 0.05
    assert best[1] == pytest.approx(every[:, 1].max(), abs=1e-12) and best[1] > np.median(every[:, 1]) + 0.05
    worst = areas(model, image, -truth)
    assert worst == pytest.approx([every[:, 0].max(), every[:, 1].min()], abs=1e-12)


@pytest.mark.slow
def test_noise_has_the_areas_of_a_random_order_within_their_error(linear):
    model, image, truth = linear
    count, generator = 400, np.random.default_rng(5)
    nothing = sanity.random_order(model, image, None)
    random = np.array([areas(model, image, nothing, seed=seed) for seed in range(count)])
    noise = np.array([areas(model, image, generator.random((1, 2, 3))) for _ in range(count)])
    error = np.sqrt((random.var(axis=0) + noise.var(axis=0)) / count)
    assert (np.abs(random.mean(axis=0) - noise.mean(axis=0)) < 3 * error).all()
    assert (np.abs(areas(model, image, truth) - random.mean(axis=0)) > 10 * error).all()


def test_every_photo_has_its_own_order_class_and_baseline(tiny_model):
    X = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y, maps = torch.tensor([4, 0, 2]), X.sum(dim=1)
    together = sanity.deletion_insertion(tiny_model.train(), X, y, maps)
    assert together.shape == (3, 2, sanity.STEPS + 1) and tiny_model.training
    for i in range(3):
        alone = sanity.deletion_insertion(tiny_model, X[i : i + 1], y[i : i + 1], maps[i : i + 1])
        assert alone[0] == pytest.approx(together[i], abs=1e-12)
    assert together[:, 0] == pytest.approx(together[:, 1, ::-1], abs=1) and not np.allclose(
        together[:, 0], together[:, 1]
    )
    assert together[:, 0, 0] == pytest.approx(together[:, 1, -1]) and together[:, 0, -1] == pytest.approx(
        together[:, 1, 0]
    )


def test_what_cannot_be_checked_is_refused(tiny_model):
    X, y = torch.zeros(2, 3, 8, 8), torch.tensor([0, 5])
    with pytest.raises(ValueError, match="labels must hold one label for each of the 2 images"):
        sanity.deletion_insertion(tiny_model, X, y[:1], X[:, 0])
    with pytest.raises(InputError, match="labels must lie in 0…4"):
        sanity.deletion_insertion(tiny_model, X, y, X[:, 0])


# --- Controls ---


def test_the_edge_detector_finds_a_step_and_nothing_else():
    image = torch.zeros(1, 3, 6, 8)
    image[..., 4:] = 1
    found = sanity.edges(None, image, None)
    assert found.shape == (1, 6, 8) and found[0, :, 3:5] == pytest.approx(np.full((6, 2), np.sqrt(0.5)))
    assert not found[0, :, :3].any() and not found[0, :, 5:].any()
    assert not sanity.edges(None, torch.full((1, 3, 64, 64), -1.7), None).any()


def test_the_blob_lies_in_the_middle():
    blob = sanity.central_blob(None, torch.zeros(2, 3, 5, 7), None)
    assert blob.shape == (2, 5, 7) and blob[1].argmax() == 17 and blob[0, 2, 3] == 1
    assert blob[0, 0, 0] == blob.min() == pytest.approx(np.exp(-4))


# --- The cascade ---


def test_the_layers_of_the_cascade(bundled_model, tiny_model):
    assert sanity.parameter_layers(bundled_model) == CASCADE
    assert sanity.parameter_layers(tiny_model) == ["8", "3", "0"]
    resnet = load_model("resnet18", "none", "cpu")
    assert sanity.parameter_layers(resnet) == ["fc", "layer4", "layer3", "layer2", "layer1", "bn1", "conv1"]


def test_one_layer_more_is_random_at_each_step_of_a_copy(bundled_model):
    original = bundled_model.state_dict()
    before, random_state, seen = network_state(bundled_model), torch.get_rng_state(), []
    for layer, network in sanity.cascade(bundled_model, seed=1):
        seen.append(layer)
        for name, value in network.state_dict().items():
            is_random = any(name.startswith(f"{done}.") for done in seen[1:])
            assert torch.equal(value, original[name]) != is_random, (layer, name)
        assert network is not bundled_model and not network.training
    assert seen == ["original", *CASCADE]
    assert same_state(before, network_state(bundled_model)) and torch.equal(random_state, torch.get_rng_state())


def test_random_parameters_have_he_s_variance_and_come_from_the_seed(bundled_model):
    first, again, other = (sanity.reinitialised(bundled_model, seed).state_dict() for seed in (1, 1, 2))
    for name, value in first.items():
        if name.endswith("bias"):
            assert not value.any()
        else:
            assert torch.equal(value, again[name]) and not torch.equal(value, other[name])
            expected = (2 / value[0].numel()) ** 0.5
            assert value.std().item() == pytest.approx(expected, rel=0.1) and abs(value.mean().item()) < 0.1 * expected


def test_normalisation_layers_begin_anew():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    for value in network[1].state_dict().values():
        value.fill_(7)
    norm = sanity.reinitialised(network, 0)[1]
    assert norm.weight.tolist() == norm.running_var.tolist() == [1] * 4
    assert norm.bias.tolist() == norm.running_mean.tolist() == [0] * 4 and network[1].weight.tolist() == [7] * 4


def test_a_method_that_fails_leaves_the_network_alone(tiny_model):
    before, X = network_state(tiny_model), torch.zeros(1, 3, 16, 16)
    with pytest.raises(ZeroDivisionError):
        sanity.randomization(tiny_model, {"broken": lambda *_: 1 / 0}, X, torch.tensor([0]), seed=0)
    assert same_state(before, network_state(tiny_model))


def test_randomization_compares_with_the_original_and_reports_every_state(tiny_model):
    X = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y, states = torch.tensor([0, 3]), []
    methods = {"saliency": explanation_methods(2)["saliency"], "edge detector": sanity.edges}
    found = sanity.randomization(tiny_model, methods, X, y, seed=2, callback=states.append)
    assert [state.layer for state in states] == ["original", "8", "3", "0"]
    assert found["edge detector"] == pytest.approx(np.ones((2, 4, 2)))
    assert found["saliency"].shape == (2, 4, 2) and found["saliency"][:, 0] == pytest.approx(np.ones((2, 2)))
    expected = sanity.agreement(states[3].maps["saliency"], methods["saliency"](tiny_model, X, y))
    assert found["saliency"][:, 3] == pytest.approx(expected, nan_ok=True)
    again = sanity.randomization(tiny_model, methods, X, y, seed=2)
    assert np.array_equal(found["saliency"], again["saliency"], equal_nan=True)
    assert states[1].of_first_image().maps["saliency"] == pytest.approx(states[1].maps["saliency"][0])


# --- Sensitivity, findings ---


@pytest.mark.parametrize("count", [1, 3])
def test_sensitivity_is_the_largest_relative_change(tiny_model, count):
    X = torch.randn(count, 3, 6, 5, generator=torch.Generator().manual_seed(2))
    y, asked = torch.arange(count), []

    def squares(_, images, labels):
        asked.append(labels.tolist())
        return (images**2).sum(dim=1)

    state = torch.get_rng_state()
    found = max_sensitivity(squares, tiny_model, X, y, seed=4)
    torch.manual_seed(4)
    moved = X.repeat_interleave(SAMPLES, dim=0)
    moved = moved + torch.FloatTensor(moved.shape).uniform_(-RADIUS, RADIUS)
    torch.set_rng_state(state)
    original = (X**2).sum(dim=1).repeat_interleave(SAMPLES, dim=0)
    change = ((moved**2).sum(dim=1) - original).flatten(1).norm(dim=1) / original.flatten(1).norm(dim=1)
    assert found == pytest.approx(change.view(count, SAMPLES).amax(dim=1).numpy(), rel=1e-5)
    assert asked == [list(range(count)), [i for i in range(count) for _ in range(SAMPLES)]]
    assert not max_sensitivity(lambda _, images, __: torch.ones(len(images), 6, 5), tiny_model, X, y, 0).any()


def test_findings_add_up_and_sum_up():
    agreement = np.array([[[1, 1], [0.1, 0.9]], [[1, 1], [0.4, 0.5]], [[1, 1], [np.nan, np.nan]]])
    probability = np.array([[[1, 0.5, 0], [0, 1, 1]], [[1, 1, 1], [0, 0, 0]], [[1, 1, 1], [1, 1, 1]]])
    one = Findings(probability[:1], agreement[:1], np.array([0.3]))
    rest = Findings(probability[1:], agreement[1:], np.array([0.1, 0.2]))
    assert (one + rest).summary() == pytest.approx((0.25, 0.7, 2.5 / 3, 1.75 / 3, 0.2))
    assert (one + rest).spread()[:, 0] == pytest.approx(np.ones((3, 2)))
    control = (Findings(probability[:1]) + Findings(probability[1:])).summary()
    assert np.isnan([*control[:2], control[4]]).all() and control[2:4] == pytest.approx((2.5 / 3, 1.75 / 3))


# --- The known findings on the real network ---


@pytest.fixture(scope="module")
def methods():
    return explanation_methods(10) | {"edge detector": sanity.edges}


@pytest.mark.slow
def test_edges_ignore_the_network_guided_backprop_hardly_minds_and_grad_cam_falls(real_model, batch, methods):
    chosen = {name: methods[name] for name in ("saliency", "guided backprop", "Grad-CAM", "edge detector")}
    before = network_state(real_model)
    draws = [sanity.randomization(real_model, chosen, *batch, seed) for seed in (1, 2)]
    found = {name: np.concatenate([draw[name] for draw in draws]) for name in chosen}
    assert same_state(before, network_state(real_model))
    ranks = {name: sanity.median(values)[:, 0] for name, values in found.items()}
    assert found["edge detector"] == pytest.approx(np.ones((10, 11, 2)))
    assert (ranks["guided backprop"][1:8] > ranks["saliency"][1:8] + 0.1).all()  # down to features.6
    assert (sanity.median(found["guided backprop"])[-1] > sanity.median(found["saliency"])[-1]).all()
    assert ranks["Grad-CAM"][-1] < 0.3 and ranks["guided backprop"][2] > 0.8


def mean_areas(model, images, labels, method) -> np.ndarray:
    maps = method(model, images, labels)
    return sanity.area(sanity.deletion_insertion(model, images, labels, maps)).mean(axis=0)


@pytest.mark.slow
def test_grad_cam_and_integrated_gradients_name_pixels_that_count(real_model, batch, methods):
    """Not by every measure: inserted by integrated gradients, these photos do no better than in a random order."""
    random = mean_areas(real_model, *batch, sanity.random_order)
    cam = mean_areas(real_model, *batch, methods["Grad-CAM"])
    assert cam[0] < random[0] and cam[1] > 1.5 * random[1]
    assert mean_areas(real_model, *batch, methods["integrated gradients"])[0] < random[0]


@pytest.mark.slow
def test_integrated_gradients_beat_a_random_order_on_the_course_s_photos(course, real_model, methods):
    X, y, _ = load_imagenet_val(5)
    arguments = real_model, to_batch(X), torch.from_numpy(y)
    ours, random = (mean_areas(*arguments, m) for m in (methods["integrated gradients"], sanity.random_order))
    assert ours[0] < random[0] and ours[1] > random[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Setting backward hooks:UserWarning")
def test_the_methods_are_those_of_captum(real_model, batch, methods):
    from captum.attr import GuidedBackprop, IntegratedGradients, Occlusion, Saliency

    X, y = batch[0][:2], batch[1][:2]
    windows = {"sliding_window_shapes": (3, 64, 64), "strides": (3, 54, 54)}
    expected = {
        "saliency": Saliency(real_model).attribute(X.clone().requires_grad_(), target=y).amax(dim=1),
        "guided backprop": GuidedBackprop(real_model).attribute(X.clone().requires_grad_(), target=y).abs().amax(dim=1),
        "integrated gradients": IntegratedGradients(real_model)
        .attribute(X, target=y, n_steps=10, internal_batch_size=10)
        .sum(dim=1),
        "occlusion": Occlusion(real_model).attribute(X, target=y, **windows).sum(dim=1),
    }
    for name, theirs in expected.items():
        mine = torch.as_tensor(methods[name](real_model, X, y))
        assert mine.shape == (2, 224, 224) and (mine - theirs).abs().max() < 1e-3 * theirs.abs().max(), name


# --- The script ---


@pytest.mark.slow
def test_the_script_writes_figures_and_tables(tmp_path):
    result = run_script("sanity_checks.py", "--num", "1", "--steps", "4", "--out", tmp_path, "--seed", "3")
    assert result.returncode == 0 and result.stdout == "", result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    for name in FILES:
        if name.endswith("png"):
            with Image.open(tmp_path / name) as picture:
                assert '"steps": 4' in picture.text["Options"] and picture.text["Seed"] == "3"
    header, *rows = read_table(tmp_path / "sanity_checks.csv")
    assert header == ["method", *sanity_checks.MEASURES]
    assert [row[0] for row in rows] == [*explanation_methods(1), "edge detector", *sanity.CONTROLS]
    assert {row[0]: row[1:3] for row in rows}["edge detector"] == ["1.000", "1.000"]
    assert all(0 <= float(value) <= 1 for row in rows for value in row[3:5])
    assert all(row[1] == row[2] == row[5] == "" for row in rows[-2:])
    with (tmp_path / "faithfulness.csv").open(newline="") as file:
        photos = list(csv.DictReader(file))
    assert [row["method"] for row in photos] == [row[0] for row in rows]
    assert [row["deletion area"] for row in photos] == [row[3] for row in rows]  # of one photo, the mean is its own

    again = tmp_path / "again"
    assert sanity_checks.main(["--num", "1", "--steps", "4", "--out", str(again), "--seed", "3"]) == 0
    assert all((tmp_path / name).read_bytes() == (again / name).read_bytes() for name in FILES)


@pytest.mark.slow
def test_what_a_user_gets_wrong_is_one_line(tmp_path):
    assert_one_line_error(run_script("sanity_checks.py", "--steps", "0"), "--steps", "at least 1")
    assert_one_line_error(run_script("sanity_checks.py", "--images", "none.jpg", "--out", tmp_path), "none.jpg")


@pytest.mark.slow
def test_curves_with_and_without_a_band_over_names_and_numbers():
    plain = draw_curves({"a": {"line": np.array([0.0, 1.0, 2.0])}}, [0, 1, 2], "x", "y")
    band = draw_curves({"a": {"line": np.array([[0, 0, 0], [0, 1, 2], [2, 2, 4]])}}, ["p", "q", "r"], "x", "y")
    two = draw_curves({"a": {"line": np.arange(3)}, "b": {"line": np.arange(3)}}, [0, 1, 2], "x", "y")
    assert plain.size == band.size and abs(two.width - 2 * plain.width) <= 1
    tint = (228, 239, 246)  # the first curve's blue, 12 % on white
    shaded = [(abs(np.asarray(picture).astype(int) - tint).max(axis=2) <= 2).sum() for picture in (plain, band)]
    assert shaded[1] > 1000 + shaded[0]


def test_the_chapter_of_the_report_is_made_on_demand(tmp_path, capsys):
    (question,) = (question for question in QUESTIONS if not question.by_default)
    assert question.name == "sanity_checks" and sorted([*question.figures, *question.tables]) == FILES[1:]
    (tmp_path / "broken.csv").write_bytes(b"\xff\xfe\xff")
    assert read_table(tmp_path / "broken.csv") == [] and read_table(tmp_path / "none.csv") == []
    assert capsys.readouterr().err.count("is not a readable table") == 2
