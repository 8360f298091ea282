"""Class visualization against a numpy loop, SciPy's blur and itself; on the real network, many
classes and abuse.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import network_state, same_state, tile_of
from scipy.ndimage import gaussian_filter1d
from torch import nn

from image_utils import SQUEEZENET_MEAN, SQUEEZENET_STD, deprocess
from visualizers import ClassVisualization
from visualizers.class_visualization import is_shown

LOW, HIGH = ((bound - SQUEEZENET_MEAN) / SQUEEZENET_STD for bound in (0, 1))  # of each channel
COURSE_CLASSES = (187, 366, 76, 604, 683)  # Yorkshire terrier, gorilla, tarantula, hourglass, oboe


def blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter1d(gaussian_filter1d(images, sigma, axis=2), sigma, axis=3)


def visualize(*arguments, **options) -> tuple[torch.Tensor, list]:
    """The pictures, and the progress that was reported on the way."""
    reports = []
    return ClassVisualization().visualize_classes(
        *arguments, callback=reports.append, **options
    ), reports


# --- Jitter ---


@pytest.mark.parametrize(("ox", "oy"), [(0, 0), (1, 0), (0, 2), (16, 5), (-3, 7), (9, 8)])
def test_jitter_is_undone(ox, oy):
    X = torch.randn(2, 3, 8, 9)
    shifted = ClassVisualization().jitter(X, ox, oy)
    assert torch.equal(ClassVisualization().jitter(shifted, -ox, -oy), X)
    assert shifted[1, 2, (3 + oy) % 8, (4 + ox) % 9] == X[1, 2, 3, 4]


# --- Blur ---


@pytest.mark.parametrize("sigma", [0.5, 1, 2.3])
@pytest.mark.parametrize("shape", [(1, 3, 224, 224), (2, 3, 17, 30), (1, 1, 3, 2)])
def test_blur_equals_scipy(sigma, shape):
    X = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = blurred(X.double().numpy(), sigma)
    result = ClassVisualization().blur_image(X, sigma)
    assert result is X
    assert np.abs(X.numpy() - expected).max() < 1e-6


def test_blur_default_sigma():
    X = torch.randn(1, 3, 9, 9, dtype=torch.float64)
    expected = blurred(X.numpy(), 1)
    assert np.abs(ClassVisualization().blur_image(X).numpy() - expected).max() < 1e-12


@pytest.mark.gpu
def test_blur_on_the_device():
    X = torch.randn(1, 3, 50, 40)
    on_gpu = ClassVisualization().blur_image(X.cuda(), 0.5)
    assert on_gpu.is_cuda
    assert np.abs(on_gpu.cpu().numpy() - blurred(X.double().numpy(), 0.5)).max() < 1e-6


@pytest.fixture(scope="module")
def linear() -> nn.Module:
    """Two classes whose scores are linear in the pixels, each pixel with its own weight, so that a
    shift matters.
    """
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 2)).double()


# --- Against NumPy ---


def by_hand(weight, seed, *, iterations=1, l2_reg=1e-3, rate=25.0, blur_every=10, max_jitter=16):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(1, 3, 224, 224, generator=generator).double().numpy()
    for t in range(iterations):
        ox, oy = torch.randint(max_jitter + 1, (2,), generator=generator).tolist()
        image = np.roll(image, (oy, ox), (2, 3))
        gradient = weight - 2 * l2_reg * image
        image = image + rate * gradient / np.sqrt((gradient**2).sum())
        image = np.roll(image, (-oy, -ox), (2, 3))
        image = image.clip(LOW[:, None, None].astype(float), HIGH[:, None, None].astype(float))
        if t % blur_every == 0:
            image = blurred(image, 0.5)
    return image


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"num_iterations": 1}, {"iterations": 1}),
        (
            {"num_iterations": 1, "l2_reg": 0, "max_jitter": 0},
            {"iterations": 1, "l2_reg": 0, "max_jitter": 0},
        ),
        # The L2 term is most of the gradient
        ({"num_iterations": 1, "l2_reg": 10}, {"iterations": 1, "l2_reg": 10}),
        (
            {"num_iterations": 5, "blur_every": 3, "learning_rate": 200},
            {"iterations": 5, "blur_every": 3, "rate": 200},
        ),
    ],
)
def test_numpy_loop_equal(linear, ours, theirs):
    weight = linear[1].weight[1].detach().numpy().reshape(1, 3, 224, 224)
    image, _ = visualize([1], linear, torch.float64, seed=3, **ours)
    # Bounds are rounded to float32
    assert np.abs(image.numpy() - by_hand(weight, 3, **theirs)).max() < 1e-6


# --- Each iteration ---


@pytest.mark.slow
def test_each_iteration_pixels_stay_in_range(bundled_model):
    _, reports = visualize([187, 366], bundled_model, seed=0, num_iterations=12, learning_rate=300)
    low, high = (torch.from_numpy(bound).view(3, 1, 1) for bound in (LOW, HIGH))
    for report in reports:
        assert (report.image >= low).all() and (report.image <= high).all()
    # Not blurred
    assert all(((report.image == low) | (report.image == high)).any() for report in reports[1:10])


@pytest.mark.slow
def test_each_iteration_reports(tiny_model):
    image, reports = visualize(
        [1, 4], tiny_model, torch.float64, seed=0, num_iterations=11, max_jitter=0
    )
    assert [report.iteration for report in reports] == list(range(1, 12))
    assert torch.equal(reports[-1].image, image) and not image.requires_grad
    for before, after in itertools.pairwise(reports):
        expected = tiny_model(before.image)[[0, 1], [1, 4]]
        torch.testing.assert_close(after.score, expected.detach())


@pytest.mark.parametrize(
    ("show_every", "num_iterations", "expected"),
    [(4, 10, [1, 4, 8, 10]), (4, 4, [1, 4]), (25, 100, [1, 25, 50, 75, 100]), (9, 1, [1])],
)
def test_each_iteration_that_the_course_plots(show_every, num_iterations, expected):
    shown = [t for t in range(1, num_iterations + 1) if is_shown(t, show_every, num_iterations)]
    assert shown == expected


# --- Random numbers ---


def test_reproducible_sources_of_random_numbers(tiny_model):
    first, _ = visualize([1], tiny_model, seed=5, num_iterations=3)
    again, _ = visualize([1], tiny_model, seed=5, num_iterations=3)
    generator = torch.Generator().manual_seed(5)
    by_generator, _ = visualize([1], tiny_model, generator=generator, num_iterations=3)
    goes_on, _ = visualize([1], tiny_model, generator=generator, num_iterations=3)
    torch.manual_seed(5)
    by_global, _ = visualize([1], tiny_model, num_iterations=3)
    other, _ = visualize([1], tiny_model, seed=6, num_iterations=3)
    assert torch.equal(first, again) and torch.equal(first, by_generator)
    assert torch.equal(first, by_global)
    assert not torch.equal(first, goes_on) and not torch.equal(first, other)


def test_reproducible_a_seed_leaves_the_global_source_alone(tiny_model):
    before = torch.get_rng_state()
    visualize([1], tiny_model, seed=5, num_iterations=3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_reproducible_several_are_what_each_is_alone(bundled_model):
    """To the bit: whatever differs in the last one is another picture 100 iterations later."""
    together, _ = visualize([187, 366, 76], bundled_model, seed=2, num_iterations=12)
    for image, target in zip(together, [187, 366, 76], strict=True):
        alone, _ = visualize([target], bundled_model, seed=2, num_iterations=12)
        assert torch.equal(alone[0], image)
    assert not torch.equal(together[0], together[1])


# --- The real network ---


@pytest.mark.slow
@pytest.mark.parametrize("target", COURSE_CLASSES)
def test_real_network_reaches_99_per_cent(real_model, target):
    """Within 100 iterations. The class's score grows always, but whether it outgrows that of a
    class that looks alike is up to the noise and to how a processor rounds: for the original
    release's oboe, which has a cornet beside it, with about half of the seeds; for the others with
    nearly every one.
    """

    class Reached(Exception):
        pass

    def look(report):
        if report.iteration % 5 == 0 and real_model(report.image).softmax(dim=1)[0, target] >= 0.99:
            raise Reached

    for seed in range(8 if target == 683 else 2):
        try:
            ClassVisualization().visualize_classes([target], real_model, seed=seed, callback=look)
        except Reached:
            return
    pytest.fail("no seed led there")


# --- The course's interface ---


def test_course_interface_picture(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("figure_utils.FOLDER", tmp_path / "visualization")
    options = {"seed": 1, "num_iterations": 3}
    arguments = (3, {3: "cat"}, tiny_model, torch.DoubleTensor)
    picture = ClassVisualization().create_class_visualization(
        *arguments, generate_plots=False, **options
    )
    image, _ = visualize([3], tiny_model, torch.float64, **options)
    assert (picture.mode, picture.size) == ("RGB", (224, 224))
    assert np.array_equal(np.asarray(picture), np.asarray(deprocess(image, should_rescale=False)))
    assert not list(tmp_path.iterdir())


def test_course_interface_plots(tiny_model, tmp_path, monkeypatch):
    """The first, each `show_every`-th and the last iteration; the last is the picture that is
    returned.
    """
    monkeypatch.setattr("figure_utils.FOLDER", tmp_path / "visualization")
    reports = []
    picture = ClassVisualization().create_class_visualization(
        3,
        None,
        tiny_model,
        torch.float64,
        show_every=2,
        seed=1,
        num_iterations=5,
        callback=reports.append,
    )
    shown = {path.name for path in (tmp_path / "visualization").iterdir()}
    assert shown == {f"class_visualization_iter_{t}.png" for t in (1, 2, 4, 5)}
    assert len(reports) == 5
    assert np.array_equal(
        tile_of(tmp_path / "visualization/class_visualization_iter_5.png", 0, 1),
        np.asarray(picture),
    )


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float64,
        torch.FloatTensor,
        torch.DoubleTensor,
        "torch.DoubleTensor",
        torch.device("cpu"),
    ],
)
def test_course_interface_dtypes(tiny_model, dtype):
    before = network_state(tiny_model)
    image, _ = visualize([3], tiny_model.train(), dtype, seed=1, num_iterations=2)
    assert image.dtype == (
        torch.float32 if "oat32" in str(dtype) or "FloatT" in str(dtype) else torch.float64
    )
    assert same_state(before, network_state(tiny_model.eval()))
    assert all(parameter.dtype == torch.float64 for parameter in tiny_model.parameters())
    expected, _ = visualize([3], tiny_model, torch.float64, seed=1, num_iterations=2)
    torch.testing.assert_close(image.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.cuda.DoubleTensor, torch.device("cuda")])
def test_course_interface_cuda(tiny_model, dtype):
    image, _ = visualize([3], tiny_model, dtype, seed=1, num_iterations=2)
    expected, _ = visualize([3], tiny_model, torch.float64, seed=1, num_iterations=2)
    assert image.is_cuda and not next(tiny_model.parameters()).is_cuda
    torch.testing.assert_close(image.cpu(), expected)


# --- Bad arguments ---


def test_bad_arguments_unknown_keyword(tiny_model):
    with pytest.raises(TypeError, match="num_iteration'"):
        ClassVisualization().create_class_visualization(
            3, {}, tiny_model, torch.float32, num_iteration=3
        )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target_y": 5}, "target_y .*got 5"),
        ({"target_y": -1}, "target_y .*got -1"),
        ({"target_y": "cat"}, "target_y .*got 'cat'"),
        ({"model": "net"}, "model .*got str"),
        ({"dtype": torch.int64}, "dtype .*got torch.int64"),
        ({"dtype": 7}, "dtype 7 cannot be used here"),
        ({"dtype": None}, "dtype .*got None"),
        ({"l2_reg": -1}, "l2_reg .*got -1"),
        ({"learning_rate": math.nan}, "learning_rate must be positive and finite, got nan"),
        ({"num_iterations": 0}, "num_iterations .*got 0"),
        ({"blur_every": 0}, "blur_every .*got 0"),
        ({"show_every": 0}, "show_every .*got 0"),
        ({"max_jitter": 1.5}, "max_jitter .*got 1.5"),
        ({"seed": 1, "generator": torch.Generator()}, "generator and seed"),
    ],
)
def test_bad_arguments_are_named(tiny_model, changed, message):
    arguments = {
        "target_y": 3,
        "class_names": {},
        "model": tiny_model,
        "dtype": torch.float32,
    } | changed
    with pytest.raises(ValueError, match=message):
        ClassVisualization().create_class_visualization(**arguments)


def test_bad_arguments_no_targets(tiny_model):
    with pytest.raises(ValueError, match="targets must name at least one class"):
        ClassVisualization().visualize_classes([], tiny_model)
