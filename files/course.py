"""The course's files and those in packages: where they are, checksums, how to bring them here.

As a command: `python -m files.course --from STARTER.zip` (or a folder), or `--fetch` for the 25
photos alone. Standard library only, so that the command answers at once and needs no environment.
"""

import argparse
import functools
import importlib.util
import logging
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from errors import InputError, cause, quoted
from files.atomic import ROOT, atomic_write, is_file, sha256_of, unwinding_signals
from files.download import download

log = logging.getLogger(__name__)

PHOTOS_URL = "http://cs231n.stanford.edu/imagenet_val_25.npz"

# The course's files: where they lie in the project → sha256.
COURSE_FILES = {
    "data/imagenet_val_25.npz": "35141609d22457c791e8fbe10c2d3b09ed0d6a04b669173e9fbebb0b4915cd3c",
    "data/style-transfer-checks.npz": "659a64eb251c9c4ff0c12d5abcc2a93713ac7167d823edd47dbf3805aaa3f3d2",
    "styles_images/composition_vii.jpg": "8f992ed4aecd6dd56972d7bc8166761de7c94e670ee6effa8fd05f3daeb33409",
    "styles_images/muse.jpg": "b8a36cd8752497510389782159ccf141d41c3446002a079b458fb7b774d3928a",
    "styles_images/starry_night.jpg": "c31741a09141c2e2d07fc7aa6bdf135c369b804f9433e43fa3ceac19386d1ee6",
    "styles_images/the_scream.jpg": "f3075cddeb974a9ee1d6418f7f33fd05185a7ac7dcb4288bd2805d499a9dcaee",
    "styles_images/tubingen.jpg": "e67d1869f01fd805385c681a80d9ebcf0f70ea4a5fe6127f0606bb1c7f4bf506",
}
# What CS231n ships under the same name: its values are of another resizing (total variation
# 303.470, not 303.224).
CS231N_FILES = {
    "data/style-transfer-checks.npz": "2f9b3cf861971f30e842281535420685ed51ed4d4f932e529fc9c27503eb9008"
}
UNKNOWN = "its checksum is not that of the course's file"
Fault = Callable[[str, bytes], str]
# Where the courses' notebooks keep data, beside them.
NOTEBOOK_FOLDERS = ("", "cs231n/datasets", "cs7643/datasets", "datasets", "styles", "images/styles")


def course_file(name: str) -> Path | None:
    """Find a file of the course's in $CS7643_DATA, the working directory or the project; else None.

    Another file than the courses' under this name is taken too, with a notice in the log: its
    reader checks it.

    Args:
        name: one of `COURSE_FILES`.
    """
    places = [
        Path.cwd() / name,
        *(Path.cwd() / folder / Path(name).name for folder in NOTEBOOK_FOLDERS),
        ROOT / name,
    ]
    if elsewhere := os.environ.get("CS7643_DATA"):
        # A flat folder of the course's data keeps only styles_images/ apart.
        places[:0] = [Path(elsewhere) / name, Path(elsewhere) / name.removeprefix("data/")]
    path = next(filter(is_file, places), None)
    if path and not is_official(name, sha256_of(path)):
        _notice(path)
    return path


def is_official(name: str, checksum: str) -> bool:
    """Tell whether a file of `COURSE_FILES` with this checksum is one that a course ships."""
    return checksum in (COURSE_FILES[name], CS231N_FILES.get(name))


@functools.cache
def _notice(path: Path) -> None:
    log.warning(
        "%s is not the course's file (its checksum differs); it is taken as it is", quoted(path)
    )


def package_file(package: str, name: str) -> Path:
    """Find a file that an installed package ships, without importing the package.

    Raises:
        InputError: the package or the file is not there.
    """
    spec = importlib.util.find_spec(package)
    path = Path(spec.submodule_search_locations[0]) / name if spec else None
    if path is None or not path.is_file():
        raise InputError(
            f"{name} of package {package} is missing; pip install -r requirements.txt brings it"
        )
    return path


def take_course_files(source: Path, fault: Fault = lambda *_: UNKNOWN) -> list[str]:
    """Copy the course's files that a starter zip or folder holds to their places in the project.

    Args:
        source: a zip file or a folder.
        fault: what is wrong with a file whose checksum is another than the courses', by its name
            in the project and its content; where it is "", the file is taken, with a notice.

    Returns:
        A line for each file of the course's by name: taken, or why not.

    Raises:
        InputError: neither a readable zip nor a folder, or nothing in it that is the course's.
    """
    destinations = {Path(name).name: name for name in COURSE_FILES}
    lines, taken = [], set()
    members = [
        (destinations[Path(w).name], w, content) for w, content in _members(source, destinations)
    ]
    unknown = [not is_official(name, sha256(content).hexdigest()) for name, _, content in members]
    # The courses' own come first.
    ordered = sorted(zip(unknown, members, strict=True), key=lambda pair: pair[0])
    for is_unknown, (name, where, content) in ordered:
        if is_unknown and (wrong := fault(name, content)):
            lines.append(f"{quoted(where)}: not taken, {wrong}")
        elif name not in taken:
            with atomic_write(ROOT / name) as temporary:
                temporary.write_bytes(content)
            taken.add(name)
            lines.append(f"{name}: taken")
            if is_unknown:
                _notice(Path(where))
    if not taken:
        raise InputError("; ".join([f"{quoted(source)} holds none of the course's files", *lines]))
    return lines


def _members(source: Path, names: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of every file of one of these names in a zip or folder."""
    try:
        if source.is_dir():
            for path in sorted(p for p in source.rglob("*") if p.name in names and p.is_file()):
                yield str(path.relative_to(source)), path.read_bytes()
        elif source.is_file():
            with zipfile.ZipFile(source) as archive:
                for info in archive.infolist():
                    name = info.filename.replace("\\", "/")  # as Windows' own zips have it
                    if Path(name).name in names and info.file_size < 1 << 26:
                        yield name, archive.read(info)
        else:
            raise InputError(f"{quoted(source)}: no such zip file or folder")
    except InputError:
        raise
    except Exception as error:  # of a zip's decompressors, of names in no encoding, …
        raise InputError(f"cannot read {quoted(source)}: {cause(error)}") from error


def fetch_photos() -> list[str]:
    """Download the course's 25 photos, verified, if they are not there. Returns a line about it."""
    name = "data/imagenet_val_25.npz"
    path = ROOT / name
    if path.is_file() and sha256_of(path) == COURSE_FILES[name]:
        return [f"{name}: is there already"]
    download(PHOTOS_URL, path, COURSE_FILES[name])
    return [f"{name}: fetched from {PHOTOS_URL}"]


def main(argv: Sequence[str] | None = None, fault: Fault = lambda *_: UNKNOWN) -> int:
    """Bring the course's data into the project. Returns the exit status.

    Args:
        argv: the options, without the program's name.
        fault: as for `take_course_files`.
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # for a console that lacks a letter
    parser = argparse.ArgumentParser(
        description="Bring the course's data into the project, verified by checksum."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--from", dest="source", metavar="PATH", help="a starter zip or folder")
    source.add_argument(
        "--fetch", action="store_true", help=f"download the 25 photos from {PHOTOS_URL}"
    )
    options = parser.parse_args(argv)
    try:
        with unwinding_signals():
            if options.source == "":  # Path takes it for the working directory
                raise InputError("--from: the name is empty")
            path = Path(options.source or "")
            lines = fetch_photos() if options.fetch else take_course_files(path, fault)
    except InputError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: error: interrupted", file=sys.stderr)
        return 130
    try:
        print(*lines, sep="\n", flush=True)
    except BrokenPipeError:  # a reader who has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # usually a full disk
        print(
            f"{parser.prog}: error: cannot write to standard output: {cause(error)}",
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
