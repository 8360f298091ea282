"""Networks, weights and devices: pretrained torchvision classifiers, and networks of your own."""

import contextlib
import difflib
import importlib.util
import io
import logging
import os
import re
import sys
import tempfile
import textwrap
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torchvision import models

from adapters.outputs import find_reading
from adapters.preparation import (
    ASSUMED,
    Preparation,
    find_preparation,
    given_preparation,
    with_channels,
)
from adapters.trial import Trial, try_out
from errors import InputError, cause, described, quoted
from files.atomic import is_file, sha256_of
from files.bundled_weights import bundled_state
from files.checkpoints import read_checkpoint, with_fitting_names
from files.download import download
from image_utils import memory_format

log = logging.getLogger(__name__)

# Of the random weights "none", and of those that a network of one's own begins with
RANDOM_SEED = 0
IMAGENET = 1000  # classes
BUNDLED = "bundled (original SqueezeNet v1.1 release, package ndf)"
# What their names begin with
WITH_AUXILIARY_HEADS = {"googlenet": "aux1.", "inception_v3": "AuxLogits."}


def load_model(
    arch: str = "squeezenet1_1",
    weights: str = "auto",
    device: str | torch.device = "auto",
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | None = None,
    pixel_range: int | None = None,
    output: str | None = None,
    sigmoid: bool = False,
) -> nn.Module:
    """Return a frozen classifier in eval mode and channels-last layout (1.4 times faster on a CPU).

    Args:
        arch: any torchvision classification network by name, or one of your own as FILE.py:NAME:
            the file is run, and NAME in it is a module, or what returns one when it is called.
        weights: where the parameters come from: "torchvision": the official ImageNet weights, from
            torch hub's cache or else downloaded into it; "bundled": SqueezeNet v1.1's original
            release, which the package `ndf` ships; a path: a state dict, or a checkpoint that holds
            one, in a .pth or .safetensors file, loaded without
                executing code. A torchvision network gets as many classes as its last layer there
                has;
            "none": random numbers, the same every time; "auto": $SQUEEZENET_WEIGHTS for
            squeezenet1_1 if set, else torchvision's, and where these cannot be had
                bundled, with one notice in the log (standard error). A network of your own stays as
                its file gives it.
        device: "auto" (cuda, else mps, else cpu) or a device's name.
        mean, std: of its photos, one number or three each; by default what the network says of
            itself, see `adapters.preparation`.
        size: pixels of its photos' short side; by default likewise.
        pixel_range: 1 or 255, the largest value of a pixel before mean and std; by default 255
            where a mean is above 1. Without mean and std the pixels are not normalised.
        output: of a network with several outputs, the one with the scores: a key, a field's name or
            a number.
        sigmoid: the classes do not exclude one another.

    Returns:
        The network, in float32 but for quantised parts. It takes images (N, 3, H, W) normalised by
        ImageNet's mean and standard deviation, whatever its own are, and gives logits (N, classes):
        of one logit s it makes −s and s. `.arch` and `.weights_name` say what it is,
        `.photo_preparation` and `.score_reading` how it is used.

    Raises:
        InputError: an unknown network or device, or weights that cannot be had, read or fitted.
    """
    device = pick_device(device)
    if own := re.fullmatch(r"(.+\.py):(\w+)", str(arch), re.DOTALL):
        model, name = _own_network(Path(own[1]), own[2], str(weights))
        arch = f"{Path(own[1]).name}:{own[2]}"
    else:
        model, name = _torchvision_network(arch, str(weights))
    for attribute, value in (("arch", arch), ("weights_name", name)):
        if not hasattr(model, attribute):  # else it is the network's own
            setattr(model, attribute, value)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.eval().to(device)
    # Else torch refuses the layout
    if all(parameter.dim() < 5 for parameter in model.parameters()):
        model.to(memory_format=memory_format(device))
    _adapt(model, arch, bool(own), (mean, std, size, pixel_range), output, sigmoid)
    return model


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device by that name; "auto" is cuda, else mps, else cpu.

    Raises:
        InputError: no such device here.
    """
    if str(device) == "auto":
        kind = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
        return torch.device(kind)
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(f"unknown device {quoted(device)}; use auto, cuda, mps or cpu") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {chosen}: torch sees {torch.cuda.device_count()} CUDA GPUs here; use cpu or "
            f"auto"
        )
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("device mps: torch sees no Apple GPU here; use cpu or auto")
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"device {quoted(device)} is not supported; use auto, cuda, mps or cpu")
    return chosen


# --- How a network is used ---


def _adapt(
    model: nn.Module, arch: str, own: bool, given: tuple, output: str | None, sigmoid: bool
) -> None:
    """Give a network hooks where it needs them.

    One makes its own inputs of images normalised as ImageNet's, the other makes scores (N, classes)
    of its outputs.
    """
    preparation = Preparation()
    if own or not isinstance(model, models.SqueezeNet):  # whose way is the course's
        preparation = find_preparation(model, None if own else _official_entry(arch).transforms())
    preparation, trial = given_preparation(preparation, *given), Trial()
    if own or output is not None or len(_last_weight(model)[1]) == 1:
        trial = try_out(model, preparation.size)
        preparation = with_channels(preparation, trial.channels, arch)
    model.photo_preparation = preparation  # type: ignore[assignment]
    scripted = isinstance(model, torch.jit.ScriptModule)
    if not preparation.is_imagenets and not scripted:
        model.register_forward_pre_hook(_prepared)
    if preparation.channels == 1:
        trial = try_out(model, preparation.size)
    reading = find_reading(trial, output, sigmoid, arch)
    model.score_reading = reading  # type: ignore[assignment]
    if scripted and not (preparation.is_imagenets and reading.is_plain):
        raise InputError(f"{arch} is TorchScript, whose inputs and outputs cannot be changed here")
    if not reading.is_plain:
        model.register_forward_hook(_scores)
    # A network that fails is told of later, by that alone
    if own and preparation.source == ASSUMED and trial.output is not None:
        log.warning(
            "the network %s does not say how its photos are prepared: ImageNet's mean and standard "
            "deviation are taken, at %s pixels; --mean, --std, --range and --size say otherwise",
            *(arch, preparation.size),
        )


def _prepared(model: nn.Module, inputs: tuple) -> tuple:
    return (model.photo_preparation(inputs[0]), *inputs[1:])


def _scores(model: nn.Module, _: tuple, output: object) -> object:
    return model.score_reading(output)


def _last_weight(model: nn.Module) -> tuple[str, torch.Tensor]:
    """Return the weight of a torchvision network's last layer, with its name."""
    return [(name, value) for name, value in model.state_dict().items() if value.dim() > 1][-1]


# --- Networks ---


def _torchvision_network(arch: str, weights: str) -> tuple[nn.Module, str]:
    """Return a network of torchvision's, and the name of its weights."""
    known = models.list_models(module=models)
    if arch not in known:
        near = difflib.get_close_matches(str(arch), known, n=3)
        raise InputError(
            f"unknown network {quoted(arch)}; "
            + (
                f"did you mean {', '.join(near)}?"
                if near
                else "give a torchvision classification network's name"
            )
            + (" or FILE.py:NAME" if ".py" in str(arch) else "")
        )
    state, name = _read_weights(arch, weights)
    if state is None:
        return _build(arch), name
    model = _build(arch)
    state = with_fitting_names(state, model.state_dict().keys())
    if differences := _differences(arch, model, state):
        model = _build(arch, **differences)
        state = with_fitting_names(state, model.state_dict().keys())
    _fit(model, state, arch, name)
    return model, name


def _build(arch: str, **options) -> nn.Module:
    """Return the bare network with seeded random parameters; the global random state stays."""
    # These two were trained on another normalisation, which transform_input undoes; their own
    # initialisation is slow.
    extra = {"init_weights": False, "transform_input": True} if arch in WITH_AUXILIARY_HEADS else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        model = models.get_model(arch, weights=None, **extra, **options)
        # Begins with a last layer of zeros, which would show nothing
        if isinstance(model, models.VisionTransformer):
            nn.init.trunc_normal_(model.heads[-1].weight, std=0.02)
        return model


def _differences(arch: str, model: nn.Module, state: dict[str, torch.Tensor]) -> dict:
    """Return the options with which the network must be built for a state dict.

    Another number of classes, or no auxiliary heads.
    """
    options = {}
    last_layer, _ = _last_weight(model)
    if last_layer in state and state[last_layer].dim() > 1 and len(state[last_layer]) != IMAGENET:
        if not len(state[last_layer]):
            raise InputError(f"the weights' last layer, {last_layer}, has 0 classes")
        options["num_classes"] = len(state[last_layer])
    if arch in WITH_AUXILIARY_HEADS and not any(
        key.startswith(WITH_AUXILIARY_HEADS[arch]) for key in state
    ):
        options["aux_logits"] = False
    return options


def _own_network(path: Path, name: str, weights: str) -> tuple[nn.Module, str]:
    """Return the network that a user's Python file holds under a name, and its weights' name."""
    if weights in ("torchvision", "bundled", "none"):
        raise InputError(
            f"weights {weights!r} are for torchvision's networks; for {path.name}:{name} give a "
            f"checkpoint's path, or "
            "leave them out, and the network is taken as the file gives it"
        )
    state, weights_name = (
        _read_weights(name, weights) if weights != "auto" else (None, f"as {path.name} gives it")
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        model = _made_by(path, name)
    model = getattr(model, "_orig_mod", model)  # compiled, its layers could not be looked into
    if isinstance(model, nn.DataParallel):
        model = model.module
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{quoted(path)}: {name} gives a {type(model).__name__}, not a torch.nn.Module"
        )
    _initialise_lazy(model, f"{path.name}:{name}")
    if state is not None:
        _fit(
            model,
            with_fitting_names(state, model.state_dict().keys()),
            f"{path.name}:{name}",
            weights_name,
        )
    if not isinstance(model, torch.jit.ScriptModule):  # TorchScript takes no hooks
        # It may alter them
        model.register_forward_pre_hook(lambda _, inputs: tuple(x.clone() for x in inputs))
    return model.float(), weights_name


def _initialise_lazy(model: nn.Module, name: str) -> None:
    """Give lazy layers their shapes by a black picture of 224×224."""
    if any(nn.parameter.is_lazy(p) for p in (*model.parameters(), *model.buffers())):
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                model.eval()(torch.zeros(1, 3, 224, 224))
        except Exception as error:
            raise InputError(
                f"the network {name} has lazy layers and fails on a picture of 224×224: "
                f"{cause(error)}"
            ) from error
    if any(p.is_meta for p in (*model.parameters(), *model.buffers())):
        raise InputError(f"the network {name} is on the device meta, where numbers have no memory")


def _made_by(path: Path, name: str) -> object:
    """Return what a Python file holds under a name; a function or class is called."""
    if not is_file(path):
        raise InputError(f"network {quoted(path)}: no such file; give FILE.py:NAME")
    spec = importlib.util.spec_from_file_location("_own_network", path.resolve())
    assert spec is not None and spec.loader is not None  # of a file that is there
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as dataclasses and pickle want it
    if str(path.resolve().parent) not in sys.path:
        # Modules beside it; at the end, so that ours keep their names
        sys.path.append(str(path.resolve().parent))
    argv, sys.argv = sys.argv, [str(path)]  # a script that parses options at once gets none
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            spec.loader.exec_module(module)
            if not hasattr(module, name):
                raise InputError(f"network {quoted(path)}: it holds no {name}")
            made = getattr(module, name)
            made = made() if callable(made) and not isinstance(made, nn.Module) else made
        print(said.getvalue(), end="", file=sys.stderr)
        return made
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == path.resolve()]
        where = f", line {lines[-1]}" if lines else ""
        why = described(error)
        if isinstance(error, SystemExit):  # whoever ends a program says why before
            why = ["it ends", *said.getvalue().splitlines()][-1]
        raise InputError(f"network {quoted(path)}{where}: {why}") from error
    finally:
        sys.argv = argv


def _fit(model: nn.Module, state: dict, arch: str, name: str) -> None:
    """Load a state dict, or say which keys do not fit."""
    # densenet's official files carry the key names of an early release. Renamed in place: a state
    # dict's metadata, by which torch converts what earlier releases of a module have saved, stays
    # with it.
    for key in list(state):
        state[re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", key)] = state.pop(
            key
        )
    if odd := [
        k
        for k, v in state.items()
        if v.is_complex() or (v.dtype in (torch.int8, torch.uint8) and v.dim())
    ]:
        raise InputError(
            f"the weights {quoted(name)}: {odd[0]} is {state[odd[0]].dtype}; floating point is "
            f"expected"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mnasnet's advice to train a newer model
            model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        first, *differences = (
            textwrap.shorten(line, 120, placeholder=" …") for line in str(error).splitlines()
        )
        why = "; ".join(differences[:3]) or first
        raise InputError(
            f"the weights {quoted(name)} do not fit {arch}: {why}; a network that you have altered "
            f"is given as "
            "FILE.py:NAME"
        ) from error
    broken = [key for key, value in model.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise InputError(
            f"the weights {quoted(name)} hold NaN or infinity in {', '.join(broken[:3])}"
        )


# --- Weights ---


def _read_weights(arch: str, weights: str) -> tuple[dict | None, str]:
    """Return the state dict for a choice of weights (None: keep the random ones), and its name."""
    if weights == "auto" and arch == "squeezenet1_1":
        weights = os.environ.get("SQUEEZENET_WEIGHTS") or "auto"
    if weights == "none":
        return None, f"random (seed {RANDOM_SEED})"
    if weights == "bundled":
        if arch != "squeezenet1_1":
            raise InputError(
                f"weights 'bundled' are SqueezeNet 1.1's, not {arch}'s; use torchvision, none or a "
                f"path"
            )
        return bundled_state(), BUNDLED
    if weights in ("auto", "torchvision"):
        return _official_or_bundled(arch, fall_back=weights == "auto")
    return read_checkpoint(Path(weights))


def _official_or_bundled(arch: str, fall_back: bool) -> tuple[dict | None, str]:
    entry = _official_entry(arch)
    try:
        return _official_state(entry), f"torchvision {entry}"
    except InputError as error:
        advice = "download it elsewhere and pass the file's path as weights"
        if not fall_back or arch != "squeezenet1_1":
            raise InputError(f"{error}; {advice}, or 'none' for random ones") from error
        log.warning(
            "weights: bundled, the original SqueezeNet v1.1 release, since torchvision's cannot be "
            "had: %s; "
            "%s; SQUEEZENET_WEIGHTS=bundled stops the attempt",
            error,
            advice,
        )
    return bundled_state(), BUNDLED


def _official_entry(arch: str):
    """Return torchvision's best weights for a network, for pictures of 224×224 if there are any."""
    enum = models.get_model_weights(arch)
    return next((w for w in (enum.DEFAULT, *enum) if min(w.meta["min_size"]) <= 224), enum.DEFAULT)


def _official_state(entry) -> dict:
    """Return the state dict of torchvision's weights; the file's name carries its checksum."""
    url, name = entry.url, entry.url.rsplit("/", 1)[-1]
    most = round(1.1 * entry.meta.get("_file_size", 4096)) + 1  # megabytes
    checksum = re.search(r"-([0-9a-f]{8,})\.", name)[1]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    cached = folder / name
    if is_file(cached) and sha256_of(cached).startswith(checksum):
        return read_checkpoint(cached)[0]
    try:
        if not folder.is_absolute():  # no home folder is known
            raise OSError
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:  # a cache that cannot be written: fetch for this time only
        with tempfile.TemporaryDirectory() as temporary:
            download(url, Path(temporary) / name, checksum, most)
            return read_checkpoint(Path(temporary) / name)[0]
    download(url, cached, checksum, most)
    return read_checkpoint(cached)[0]
