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

import torch
from torch import nn
from torchvision import models

from bundled_weights import bundled_state
from errors import InputError, cause, quoted
from file_utils import download, is_file, is_folder, sha256_of

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
            f"unknown network {quoted(arch)}; "
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
        raise InputError(f"unknown device {quoted(device)}; use auto, cuda, mps or cpu") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {chosen}: torch sees {torch.cuda.device_count()} CUDA GPUs here; use cpu or auto")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("device mps: torch sees no Apple GPU here; use cpu or auto")
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"device {quoted(device)} is not supported; use auto, cuda, mps or cpu")
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
        raise InputError(f"the weights {quoted(name)} do not fit {arch}: {why}") from error
    broken = [key for key, value in model.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise InputError(f"the weights {quoted(name)} hold NaN or infinity in {', '.join(broken[:3])}")


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
        return _official_state(entry), f"torchvision {entry}"
    except InputError as error:
        advice = "download it elsewhere and pass the file's path as weights"
        if not fall_back or arch != "squeezenet1_1":
            raise InputError(f"{error}; {advice}, or 'none' for random ones") from error
        log.warning(
            "weights: bundled, the original SqueezeNet v1.1 release, since torchvision's cannot be had: %s; "
            "%s; SQUEEZENET_WEIGHTS=bundled stops the attempt",
            error,
            advice,
        )
    return _read_weights(arch, "bundled")


def _official_entry(arch: str):
    """torchvision's best weights for a network, among those for pictures of 224×224 where it has such."""
    enum = models.get_model_weights(arch)
    return next((w for w in (enum.DEFAULT, *enum) if min(w.meta["min_size"]) <= 224), enum.DEFAULT)


def _official_state(entry) -> dict:
    """Return the state dict of torchvision's weights, whose file name carries the first digits of its checksum."""
    url, name = entry.url, entry.url.rsplit("/", 1)[-1]
    most = round(1.1 * entry.meta.get("_file_size", 4096)) + 1  # megabytes
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
            download(url, Path(temporary) / name, checksum, most)
            return _read_file(Path(temporary) / name)
    download(url, cached, checksum, most)
    return _read_file(cached)


def _read_file(path: Path) -> dict:
    """A state dict from a .safetensors file, or from torch's format by the reader that never executes code."""
    if not is_file(path):
        what = "a folder, not a file" if is_folder(path) else "no such file"
        raise InputError(f"weights {quoted(path)}: {what}; give {', '.join(WEIGHTS)} or the path of a state dict")
    try:
        if path.suffix == ".safetensors":
            if not importlib.util.find_spec("safetensors"):
                raise InputError(f"reading {quoted(path)} needs a package: pip install safetensors")
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # remarks on the file's age
                state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"weights {quoted(path)}: refused, since the file holds more than plain tensors or is "
            "damaged; a state dict saved by torch.save is expected"
        ) from error
    except InputError:
        raise
    except Exception as error:  # a damaged file can make the readers raise nearly anything
        raise InputError(f"weights {quoted(path)}: not a readable state dict: {cause(error)[:120]}") from error
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise InputError(f"weights {quoted(path)}: a state dict (names → tensors) is expected")
    return state
