"""Saliency maps against Captum, central differences and themselves; what is left behind; the
script's figures.
"""

import threading

import numpy as np
import pytest
import torch
from helpers import in_threads, network_state, same_state
from PIL import Image
from torch import nn

from data_utils import load_imagenet_val
from figure_utils import HEADING_BAND, LABEL_BAND, TITLE_BAND
from image_utils import to_batch
from model_utils import load_model
from visualizers import SaliencyMap
from visualizers.evaluation import copied


def compute(X, y, model) -> torch.Tensor:
    return SaliencyMap().compute_saliency_maps(X, y, model)


@pytest.fixture
def tiny_batch():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(40, 3, 7, 11, generator=generator, dtype=torch.float64)
    return X, torch.randint(5, (40,), generator=generator)


# --- The numbers ---


@pytest.mark.slow
def test_the_maps_are_captum_s_on_the_real_network(real_model, batch):
    from captum.attr import Saliency

    X, y = batch
    ours = compute(X, y, real_model)
    theirs = Saliency(real_model).attribute(X.clone().requires_grad_(), target=y).amax(dim=1)
    assert ours.shape == (5, 224, 224) and ours.dtype == torch.float32 and ours.min() >= 0
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).abs().max() <= 1e-5 * other.max() and other.max() > 0
    # The class matters
    assert (compute(X, (y + 1) % 1000, real_model) - ours).abs().max() > 0.1 * ours.max()


def test_the_maps_are_central_differences(tiny_model, tiny_batch):
    X, y = tiny_batch[0][:2, :, :5, :4], tiny_batch[1][:2]
    expected, step = torch.zeros(2, 5, 4, dtype=torch.float64), 1e-6
    for row in range(5):
        for column in range(4):
            for channel in range(3):
                moved = X.new_zeros(X.shape)
                moved[:, channel, row, column] = step
                slope = (tiny_model(X + moved) - tiny_model(X - moved)).gather(1, y[:, None])[
                    :, 0
                ] / (2 * step)
                expected[:, row, column] = torch.maximum(
                    expected[:, row, column], slope.abs().detach()
                )
    assert torch.allclose(compute(X, y, tiny_model), expected, rtol=1e-6, atol=1e-9)
    assert expected.max() > 1e-3


@pytest.mark.parametrize("count", [0, 1, 5, 25, 32, 33, 40])
def test_any_number_of_photos(tiny_model, tiny_batch, count):
    X, y = tiny_batch[0][:count], tiny_batch[1][:count]
    maps = compute(X, y, tiny_model)
    assert maps.shape == (count, 7, 11) and maps.dtype == torch.float64 and not maps.requires_grad
    for i in range(count):
        assert torch.allclose(
            maps[i], compute(X[i : i + 1], y[i : i + 1], tiny_model)[0], rtol=1e-12
        )


@pytest.mark.slow
def test_the_course_s_25_photos(course, bundled_model):
    X, y, _ = load_imagenet_val()
    batch = to_batch(X)
    maps = compute(batch, torch.from_numpy(y), bundled_model)
    assert maps.shape == (25, 224, 224) and (maps.amax(dim=(1, 2)) > 0).all()
    again = compute(batch[17:20], torch.from_numpy(y)[17:20], bundled_model)
    assert (maps[17:20] - again).abs().max() <= 1e-5 * maps.max()  # in other company


def test_a_photo_that_is_not_square(bundled_model, photos):
    X = to_batch(photos[0][:2])[:, :, :, 30:190]
    maps = compute(X, torch.tensor([285, 967]), bundled_model)
    assert maps.shape == (2, 224, 160) and maps.isfinite().all()


def test_types_of_photos_and_labels(tiny_model, tiny_batch):
    X, y = tiny_batch[0][:3], tiny_batch[1][:3]
    expected = compute(X, y, tiny_model)
    for labels in (y.int(), y.tolist(), tuple(y.tolist()), y.numpy(), y.numpy().astype(np.uint8)):
        assert torch.equal(compute(X, labels, tiny_model), expected)
    for one in (4, np.int64(4), torch.tensor(4)):  # for all images
        assert torch.equal(compute(X, one, tiny_model), compute(X, [4, 4, 4], tiny_model))
    assert torch.allclose(
        compute(X.to(memory_format=torch.channels_last), y, tiny_model), expected, rtol=1e-9
    )
    single = compute(X.float(), y, tiny_model)
    assert single.dtype == torch.float32 and torch.allclose(single.double(), expected, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(compute(X, y, tiny_model), expected)


@pytest.mark.gpu
def test_labels_and_photos_on_another_device_than_the_network(bundled_model, batch):
    X, y = batch
    on_gpu = load_model(weights="bundled", device="cuda")
    exact = compute(X.double(), y, copied(bundled_model).double())
    error = (compute(X, y, bundled_model) - exact).abs().quantile(0.9)
    for photos, labels, model in (
        (X.cuda(), y, on_gpu),
        (X, y.cuda(), on_gpu),
        (X.cuda(), y.cuda(), bundled_model),
    ):
        maps = compute(photos, labels, model)
        assert maps.device == photos.device
        # Single pixels differ by more, where a ReLU's input is so near to 0 that its sign is rounding
        assert (maps.cpu() - exact).abs().quantile(0.9) < 10 * error


@pytest.mark.gpu
def test_a_gpu_computes_as_a_cpu_does_and_the_same_each_time(bundled_model, batch):
    X, y = batch
    double = copied(bundled_model).double()
    expected = compute(X.double(), y, double)
    torch.testing.assert_close(compute(X.double(), y, double.cuda()), expected)
    on_gpu = load_model(weights="bundled", device="cuda")
    assert torch.equal(compute(X.cuda(), y, on_gpu), compute(X.cuda(), y, on_gpu))


def test_a_score_that_hardly_depends_on_the_photo_gives_zeros(tiny_batch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 7 * 11, 5)).double()
    nn.init.zeros_(model[1].weight)
    assert (compute(*tiny_batch, model) == 0).all()


# --- What is left behind ---


def test_several_threads_with_one_network(tiny_model, tiny_batch):
    X, y = tiny_batch
    tiny_model.train()  # so that dropout would make every evaluation another
    expected, before, results = compute(X, y, tiny_model), network_state(tiny_model), []
    start = threading.Barrier(6)

    def work():
        start.wait()
        results.extend(compute(X, y, tiny_model) for _ in range(15))

    in_threads(work, [()] * 6)
    assert len(results) == 90 and all(torch.equal(maps, expected) for maps in results)
    assert same_state(before, network_state(tiny_model))


# --- Arguments ---


@pytest.mark.parametrize(
    "change, message",
    [
        ({"X": None}, r"X must be a float tensor \(N, 3, H, W\), got NoneType"),
        ({"X": np.zeros((2, 3, 7, 11))}, "got ndarray"),
        ({"X": torch.zeros(2, 3, 7, 11, dtype=torch.uint8)}, "got a tensor of torch.uint8"),
        ({"X": torch.zeros(3, 7, 11)}, r"^X .*got \(3, 7, 11\)"),
        ({"X": torch.zeros(2, 1, 7, 11)}, r"got \(2, 1, 7, 11\)"),
        ({"X": torch.zeros(2, 3, 0, 11)}, "must have shape"),
        ({"X": torch.full((2, 3, 7, 11), torch.nan)}, "X has values that are not finite"),
        ({"X": torch.full((2, 3, 7, 11), -torch.inf)}, "X has values that are not finite"),
        ({"y": "cat"}, "^y .*got str"),
        ({"y": None}, "^y .*got NoneType"),
        ({"y": [1, 2, 3]}, r"^y .*got shape \(3,\)"),
        ({"y": torch.zeros(2)}, "^y .*got torch.float32"),
        ({"y": torch.tensor([True, False])}, "^y .*got torch.bool"),
        ({"y": torch.tensor([1])}, r"^y .*got shape \(1,\)"),
        ({"y": torch.tensor([[1], [2]])}, r"got shape \(2, 1\)"),
        ({"y": torch.tensor([0, 5])}, "y must lie in 0…4, got 0…5"),
        ({"y": torch.tensor([-1, 2])}, "got -1…2"),
        ({"model": None}, "model .*got NoneType"),
        ({"model": torch.relu}, "got builtin"),
        ({"model": nn.ReLU()}, r"model .*got \(2, 3, 7, 11\)"),
    ],
)
def test_arguments_are_checked(tiny_model, tiny_batch, change, message):
    arguments = {"X": tiny_batch[0][:2], "y": tiny_batch[1][:2], "model": tiny_model, **change}
    with pytest.raises(ValueError, match=message):
        compute(**arguments)


# --- Figures ---


def test_show_saliency_maps_writes_the_course_s_figure(
    tmp_path, monkeypatch, bundled_model, photos
):
    monkeypatch.setattr("figure_utils.FOLDER", tmp_path / "visualization")
    X, y = photos[0][:2, 32:192, 32:192], photos[1][:2]
    # The course's own map lacks a class, too
    names = {int(label): f"name {label}, synonym" for label in y[1:]}
    plt = SaliencyMap().show_saliency_maps(X, y, names, bundled_model)
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*")] == [
        "visualization/saliency_map.png"
    ]
    with Image.open(tmp_path / "visualization" / "saliency_map.png") as figure:
        assert figure.text["Network"] == "squeezenet1_1"
        assert figure.text["Weights"].startswith("bundled")
        pixels = np.asarray(figure.convert("RGB"))
    for name, kind in (("a.jpg", "JPEG"), ("b", "PNG"), ("c.pdf", "")):
        plt.savefig(tmp_path / name, dpi=100, bbox_inches="tight")
        if kind:
            with Image.open(tmp_path / (name if "." in name else f"{name}.png")) as saved:
                assert saved.format == kind and saved.size == figure.size
    assert (tmp_path / "c.pdf").read_bytes().startswith(b"%PDF")
    plt.show(), plt.close("all"), plt.clf()
    assert pixels.shape[1] > pixels.shape[0] > 2 * 160
    left, top = LABEL_BAND, HEADING_BAND + TITLE_BAND
    # a photo pixel by pixel
    assert np.array_equal(pixels[top : top + 160, left : left + 160], X[0])
    with pytest.raises(ValueError, match="X must hold at least one photo"):
        SaliencyMap().show_saliency_maps(X[:0], y[:0], names, bundled_model)
    with pytest.raises(ValueError, match="X must be uint8"):
        SaliencyMap().show_saliency_maps(X.astype(float), y, names, bundled_model)
