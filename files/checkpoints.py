"""State dicts from files: read without running code, and named as the network names them."""

import importlib
import importlib.util
import json
import logging
import pickle
import re
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import torch

from errors import InputError, cause, quoted
from files.atomic import is_file, is_folder

log = logging.getLogger(__name__)

# Under which of these names a checkpoint holds the state dict; the first that is there is taken.
ENTRIES = (
    *(
        "state_dict",
        "model_state_dict",
        "model_state",
        "model",
        "net",
        "network",
        "weights",
        "params",
    ),
    *("ema", "model_ema", "ema_state_dict", "state_dict_ema"),
)
# Of DataParallel, Lightning, torch.compile …
PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "network.")
# Anywhere in a name
WRAPPERS = re.compile(r"(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
# What a file begins with → what it is and what to do, for those often taken for weights.
OTHER_FILES = {
    b"version https://git-lfs": "a pointer of git-lfs, not the file itself; git lfs pull brings it",
    b"<": "a web page, not weights; download the file itself",
    b"\x1f\x8b": "packed with gzip; unpack it first",
    b"BZh": "packed with bzip2; unpack it first",
    b"\xfd7zXZ": "packed with xz; unpack it first",
    b"\x89HDF": "in Keras' format HDF5, which torch does not read",
}
OF_THE_LOSS = re.compile(r"(criterion|loss\w*)\.")
HOW_TO_SAVE = "save a state dict with torch.save(model.state_dict(), 'weights.pth')"


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Read a state dict from a .safetensors file, or from torch's format without executing code.

    Returns:
        The state dict, and what it goes by: the file's name, with the entry if it was one of a
        checkpoint.

    Raises:
        InputError: no such file, or one without a state dict of floating-point weights.
    """
    content = _read(path)
    state_dicts = OrderedDict(_state_dicts(content))
    entries = sorted(state_dicts, key=lambda entry: (_rank(entry), entry.count(".")))
    items = (item for _, part in _dictionaries(content) for item in part.items())
    if any(
        getattr(value, "is_quantized", False) or "_packed_params" in key for key, value in items
    ):
        raise InputError(
            f"weights {quoted(path)}: they are quantised and have no gradients; give the float "
            f"network's"
        )
    if not entries:
        raise InputError(
            f"weights {quoted(path)}: no state dict (names → tensors) is in it; {HOW_TO_SAVE}"
        )
    if len(entries) > 1 and _rank(entries[0]) == len(ENTRIES):
        names = ", ".join(map(quoted, entries[:4]))
        raise InputError(
            f"weights {quoted(path)}: several state dicts are in it, {names}; {HOW_TO_SAVE}"
        )
    entry = entries[0]
    return state_dicts[entry], f"{path.name} [{entry}]" if entry else path.name


def with_fitting_names(
    state: dict[str, torch.Tensor], wanted: Collection[str]
) -> dict[str, torch.Tensor]:
    """Return a state dict without the prefixes and counters that the network's names lack.

    Prefixes (`module.`, `model.`, `_orig_mod.` and such) are taken off one after the other where
    more names fit so. Names that are still unknown are dropped if they hold a single number, or
    belong to the loss.
    """
    best = state
    candidate: dict[str, torch.Tensor] | None
    candidate = _below_a_prefix(_renamed(state, lambda key: WRAPPERS.sub("", key)) or state, wanted)
    while candidate is not None:
        if len(candidate.keys() & wanted) > len(best.keys() & wanted):
            best = candidate
        candidate = _without_prefix(candidate)
    fitting = OrderedDict(
        (key, value)
        for key, value in best.items()
        if key in wanted or not (value.numel() == 1 or OF_THE_LOSS.match(key))
    )
    fitting._metadata = getattr(best, "_metadata", None)  # type: ignore[attr-defined]
    return fitting


def _without_prefix(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    """Return the state dict without the first known prefix; None if names collide or lack it."""
    prefix = next((prefix for key in state for prefix in PREFIXES if key.startswith(prefix)), None)
    return None if prefix is None else _renamed(state, lambda key: key.removeprefix(prefix))


def _below_a_prefix(
    state: dict[str, torch.Tensor], wanted: Collection[str]
) -> dict[str, torch.Tensor]:
    """Return the entries below the one prefix that holds all wanted names; else all entries.

    Where there are several (`encoder_q.`, `encoder_k.`), the first is taken, with a notice.
    """
    # Old files lack these
    needed = {name for name in wanted if not name.endswith("num_batches_tracked")}
    if not needed or needed <= state.keys():
        return state
    longest = max(needed, key=len)
    prefixes = [key.removesuffix(longest) for key in state if key.endswith(f".{longest}")]
    fitting = [prefix for prefix in prefixes if all(prefix + name in state for name in needed)]
    if not fitting:
        return state
    if len(fitting) > 1:
        log.warning(
            "weights: a whole network stands under each of %s; the first is taken",
            ", ".join(fitting),
        )
    inside = OrderedDict((key, value) for key, value in state.items() if key.startswith(fitting[0]))
    inside._metadata = getattr(state, "_metadata", None)  # type: ignore[attr-defined]
    return _renamed(inside, lambda key: key.removeprefix(fitting[0])) or state


def _renamed(
    state: dict[str, torch.Tensor], rename: Callable[[str], str]
) -> dict[str, torch.Tensor] | None:
    """Return a state dict with its names changed; None if two names become one.

    Its metadata, by which torch converts what earlier releases of a module have saved, stays with
    it.
    """
    renamed = OrderedDict((rename(key), value) for key, value in state.items())
    if len(renamed) < len(state):
        return None
    metadata = getattr(state, "_metadata", None) or {}
    names = ((rename(f"{key}.")[:-1], value) for key, value in metadata.items())
    renamed._metadata = OrderedDict(names)  # type: ignore[attr-defined]
    return renamed


def _read(path: Path) -> object:
    """Return what the file holds: tensors in plain containers."""
    if not is_file(path):
        what = "a folder, not a file" if is_folder(path) else "no such file"
        raise InputError(
            f"weights {quoted(path)}: {what}; give auto, torchvision, bundled, none or a "
            f"checkpoint's path"
        )
    try:
        with path.open("rb") as file:
            head = file.read(32)
        for mark, other in OTHER_FILES.items():
            if head.lstrip().startswith(mark):
                raise InputError(f"weights {quoted(path)}: it is {other}")
        if head.lstrip().startswith(b"{"):
            return _shards(path)
        # After its length, the header of a safetensors file, whatever its name
        if head[8:9] == b"{":
            if not importlib.util.find_spec("safetensors"):
                raise InputError(f"reading {quoted(path)} needs a package: pip install safetensors")
            return importlib.import_module("safetensors.torch").load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on the file's age
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL (\S+)", str(error))
        what = (
            f"more than plain tensors ({match[1]})"
            if match
            else "more than plain tensors, or is damaged"
        )
        why = f"refused, since the file holds {what}, and reading it could run code"
        raise InputError(f"weights {quoted(path)}: {why}; {HOW_TO_SAVE}") from error
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(
            f"weights {quoted(path)}: not a readable state dict: nested too deep"
        ) from error
    except Exception as error:  # a damaged file can make the readers raise nearly anything
        if "TorchScript" in str(error):
            advice = (
                f"save one with torch.save(torch.jit.load({quoted(path.name)}).state_dict(), "
                f"'weights.pth')"
            )
            raise InputError(
                f"weights {quoted(path)}: a TorchScript archive, not a state dict; {advice}"
            ) from error
        raise InputError(
            f"weights {quoted(path)}: not a readable state dict: {cause(error)[:120]}"
        ) from error


def _shards(path: Path) -> dict[str, torch.Tensor]:
    """Join the state dicts that an index lists (JSON, `weight_map`: name → file beside it)."""
    index = json.loads(path.read_text("utf-8"))
    files = index.get("weight_map")
    if not isinstance(files, dict) or not files:
        raise InputError(
            f"weights {quoted(path)}: JSON, but not the index of a checkpoint in parts (weight_map)"
        )
    joined: dict[str, torch.Tensor] = OrderedDict()
    for name in dict.fromkeys(map(str, files.values())):
        if Path(name).name != name or name == path.name:
            raise InputError(
                f"weights {quoted(path)}: its part {quoted(name)} is not a file beside it"
            )
        joined |= dict(_state_dicts(_read(path.with_name(name)))).get("", {})
    return joined


def _dictionaries(content: object) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield a checkpoint's dictionaries with names as keys, each once: dotted name and content."""
    seen, waiting = set[int](), deque([("", content)])
    while waiting:
        entry, value = waiting.popleft()
        if (
            isinstance(value, dict)
            and id(value) not in seen
            and all(isinstance(key, str) for key in value)
        ):
            seen.add(id(value))
            yield entry, value
            waiting.extend(
                (f"{entry}.{key}".removeprefix("."), v)
                for key, v in value.items()
                if isinstance(v, dict)
            )


def _state_dicts(content: object) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Yield a checkpoint's state dicts: name of the entry ("": the checkpoint itself), and content.

    Of a dictionary that holds arrays, what is no tensor is left out.
    """
    for entry, part in _dictionaries(content):
        tensors = OrderedDict(
            (key, value) for key, value in part.items() if isinstance(value, torch.Tensor)
        )
        tensors._metadata = getattr(part, "_metadata", None)  # type: ignore[attr-defined]
        if any(tensor.dim() for tensor in tensors.values()):
            yield entry, tensors


def _rank(entry: str) -> int:
    """Return the place of an entry's last name in `ENTRIES`."""
    name = entry.rpartition(".")[2]
    return ENTRIES.index(name) if name in ENTRIES else len(ENTRIES)
