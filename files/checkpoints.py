"""State dicts from files: read without running code, found in a checkpoint, and named as the network names them."""

import importlib
import importlib.util
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Collection, Iterator
from pathlib import Path

import torch

from errors import InputError, cause, quoted
from files.atomic import is_file, is_folder

# Under which of these names a checkpoint holds the state dict; the first that is there is taken.
ENTRIES = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params"),
    *("ema", "model_ema", "ema_state_dict", "state_dict_ema"),
)
PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "network.")  # of DataParallel, Lightning, torch.compile …
OF_THE_LOSS = re.compile(r"(criterion|loss\w*)\.")
HOW_TO_SAVE = "save a state dict with torch.save(model.state_dict(), 'weights.pth')"


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Read a state dict from a .safetensors file, or from torch's format by the reader that never executes code.

    Returns:
        The state dict, and what it goes by: the file's name, with the entry if it was one of a checkpoint.

    Raises:
        InputError: no such file, or one without a state dict of floating-point weights.
    """
    content = _read(path)
    found = OrderedDict(_state_dicts(content))
    entries = sorted(found, key=lambda entry: (_rank(entry), entry.count(".")))
    if any(getattr(value, "is_quantized", False) or "_packed_params" in str(key) for key, value in _items(content)):
        raise InputError(f"weights {quoted(path)}: they are quantised and have no gradients; give the float network's")
    if not entries:
        raise InputError(f"weights {quoted(path)}: no state dict (names → tensors) is in it; {HOW_TO_SAVE}")
    if len(entries) > 1 and _rank(entries[0]) == len(ENTRIES):
        names = ", ".join(map(quoted, entries[:4]))
        raise InputError(f"weights {quoted(path)}: several state dicts are in it, {names}; {HOW_TO_SAVE}")
    entry = entries[0]
    return found[entry], f"{path.name} [{entry}]" if entry else path.name


def with_fitting_names(state: dict[str, torch.Tensor], wanted: Collection[str]) -> dict[str, torch.Tensor]:
    """Return a state dict without the prefixes and the counters that a network with the `wanted` names does not have.

    Prefixes (`module.`, `model.`, `_orig_mod.` and such) are taken off one after the other where more names fit so.
    Names that are still unknown are dropped if they hold a single number, or belong to the loss.
    """
    best = state
    candidate: dict[str, torch.Tensor] | None = state
    while candidate is not None:
        if len(candidate.keys() & wanted) > len(best.keys() & wanted):
            best = candidate
        candidate = _without_prefix(candidate)
    kept = OrderedDict(
        (key, value)
        for key, value in best.items()
        if key in wanted or not (value.numel() == 1 or OF_THE_LOSS.match(key))
    )
    kept._metadata = getattr(best, "_metadata", None)  # type: ignore[attr-defined]
    return kept


def _without_prefix(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    """Return the state dict with the first prefix off that a name has; None if there is none, or two names become one.

    Its metadata, by which torch converts what earlier releases of a module have saved, stays with it.
    """
    prefix = next((prefix for key in state for prefix in PREFIXES if key.startswith(prefix)), None)
    if prefix is None:
        return None
    renamed = OrderedDict((key.removeprefix(prefix), value) for key, value in state.items())
    if len(renamed) < len(state):
        return None
    metadata = getattr(state, "_metadata", None) or {}
    renamed._metadata = OrderedDict((f"{key}.".removeprefix(prefix)[:-1], value) for key, value in metadata.items())  # type: ignore[attr-defined]
    return renamed


def _read(path: Path) -> object:
    """Return what the file holds: tensors in plain containers.

    Raises:
        InputError: no such file, or one that cannot be read so.
    """
    if not is_file(path):
        what = "a folder, not a file" if is_folder(path) else "no such file"
        raise InputError(
            f"weights {quoted(path)}: {what}; give auto, torchvision, bundled, none or a checkpoint's path"
        )
    try:
        if path.suffix == ".safetensors":
            if not importlib.util.find_spec("safetensors"):
                raise InputError(f"reading {quoted(path)} needs a package: pip install safetensors")
            return importlib.import_module("safetensors.torch").load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on the file's age
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"more than plain tensors ({found[1]})" if found else "more than plain tensors, or is damaged"
        why = f"refused, since the file holds {what}, and reading it could run code"
        raise InputError(f"weights {quoted(path)}: {why}; {HOW_TO_SAVE}") from error
    except InputError:
        raise
    except Exception as error:  # a damaged file can make the readers raise nearly anything
        if "TorchScript" in str(error):
            how = f"save one with torch.save(torch.jit.load({quoted(path.name)}).state_dict(), 'weights.pth')"
            raise InputError(f"weights {quoted(path)}: a TorchScript archive, not a state dict; {how}") from error
        raise InputError(f"weights {quoted(path)}: not a readable state dict: {cause(error)[:120]}") from error


def _state_dicts(content: object, entry: str = "") -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Yield a checkpoint's state dicts, each with the dotted name of its entry ("": the checkpoint itself is one)."""
    if not isinstance(content, dict) or not content or not all(isinstance(key, str) for key in content):
        return
    if all(isinstance(value, torch.Tensor) for value in content.values()):
        yield entry, content
        return
    for key, value in content.items():
        yield from _state_dicts(value, f"{entry}.{key}".removeprefix("."))


def _items(content: object) -> Iterator[tuple[object, object]]:
    """Yield the entries of a dictionary and of the dictionaries in it."""
    for key, value in content.items() if isinstance(content, dict) else ():
        yield key, value
        yield from _items(value)


def _rank(entry: str) -> int:
    """Return the place of an entry's last name in `ENTRIES`."""
    name = entry.rpartition(".")[2]
    return ENTRIES.index(name) if name in ENTRIES else len(ENTRIES)
