"""The names of a network's classes: ImageNet's, those in a file, and which class a text means."""

import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from torchvision.models import SqueezeNet1_1_Weights

from errors import InputError, cause, quoted


def imagenet_classes() -> dict[int, str]:
    """Return ImageNet's 1000 classes, id → name, as torchvision lists them."""
    return dict(enumerate(SqueezeNet1_1_Weights.IMAGENET1K_V1.meta["categories"]))


def read_class_names(path: Path, count: int) -> dict[int, str]:
    """Read the names of a network's classes: a line each, or JSON: a list, or id → name.

    Args:
        path: the file; synonyms in a name are separated by commas, and titles show the first.
        count: how many classes the network knows.

    Returns:
        class id → name, `count` of them; "class 3" where ids → names leave one out.

    Raises:
        InputError: the file cannot be read, holds something else, or as many names as the network
            has not.
    """
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
        content = (
            json.loads(text)
            if text.startswith(("[", "{"))
            else [line.strip() for line in text.splitlines()]
        )
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        names = {int(key): name for key, name in pairs}
    except RecursionError as error:
        raise InputError(
            f"cannot read the class names in {quoted(path)}: nested too deep"
        ) from error
    except (OSError, ValueError) as error:
        what = (
            "its keys are no ids (id → name is expected)"
            if "invalid literal" in str(error)
            else cause(error)
        )
        raise InputError(f"cannot read the class names in {quoted(path)}: {what}") from error
    wrong = next(
        (name for name in names.values() if not isinstance(name, str) or not name.strip()), None
    )
    if wrong is not None or not names:
        what = (
            "no names"
            if not names
            else "an empty name"
            if wrong == ""
            else f"{wrong!r} among the names"
        )
        raise InputError(
            f"{quoted(path)} holds {what}; a name a line is expected, or JSON: a list, or id → name"
        )
    if (isinstance(content, list) and len(names) != count) or not 0 <= min(names) <= max(
        names
    ) < count:
        ids = (
            f"{len(names)} names"
            if isinstance(content, list)
            else f"ids from {min(names)} to {max(names)}"
        )
        raise InputError(
            f"{quoted(path)} holds {ids}, but the network has {count} classes, 0 to {count - 1}"
        )
    return {i: names.get(i, f"class {i}") for i in range(count)}


def class_title(class_names: Mapping[int, str], label: int) -> str:
    """Return the first synonym of a class's name; the course's own map lacks class 134."""
    return str(class_names.get(int(label), f"class {label}")).split(",")[0]


def parse_label(text: str, class_names: Mapping[int, str]) -> int:
    """Return the class that a text names: by id, name, synonym, or a part that only one name has.

    Args:
        text: for example "285", "Egyptian cat" or "egyptian"; case counts only between equal names.
        class_names: class id → name, synonyms separated by commas.

    Raises:
        InputError: no class, several (they are listed), or an id out of range.
    """
    # é may be one character or two
    spelled = " ".join(unicodedata.normalize("NFC", text).split())  # 264 Cardigan, 474 cardigan
    wanted = spelled.lower()
    names = {i: unicodedata.normalize("NFC", name.lower()) for i, name in class_names.items()}
    if wanted.removeprefix("-").isdecimal() and len(wanted) < 20:
        number = int(wanted)
        named = [i for i, name in names.items() if wanted in name.split(", ") and i != number]
        if named and number in class_names:
            raise InputError(
                f"class {wanted} is ambiguous: it is the id of {quoted(class_names[number])} and "
                f"the name of "
                f"{named[0]}; give --classes names that are no numbers"
            )
        if number in class_names:
            return number
        if not named:
            raise InputError(
                f"class {wanted} is out of range; ids go from {min(class_names)} to "
                f"{max(class_names)}"
            )
    if not wanted:
        raise InputError("an empty class name; give an id or a part of a name")
    for matches in (
        [i for i, name in class_names.items() if spelled == unicodedata.normalize("NFC", name)],
        [i for i, name in names.items() if wanted == name],
        [i for i, name in names.items() if wanted in name.split(", ")],
        [i for i, name in names.items() if wanted in name],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            listed = ", ".join(f"{i} {class_names[i]}" for i in matches[:8])
            more = f" and {len(matches) - 8} more" if len(matches) > 8 else ""
            raise InputError(f"class {quoted(text)} is ambiguous: {listed}{more}; give the id")
    raise InputError(
        f"unknown class {quoted(text)}; give an id (0 to {max(class_names)}) or part of a name"
    )
