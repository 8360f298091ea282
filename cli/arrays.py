"""Maps of any number of photos in one NumPy archive, written page by page: memory stays flat."""

import math
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from errors import InputError, cause, quoted
from files.atomic import atomic_write

BLOCK = 1 << 20  # bytes copied at a time


class MapsFile:
    """Collects maps by technique in a temporary folder, and makes one `.npz` of them."""

    def __init__(self, folder: Path):
        """Keep the maps in a folder that is there and empty."""
        self.folder = folder
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def add(self, technique: str, maps: Iterable[np.ndarray]) -> None:
        """Append maps, each (H, W) or (H, W, 3), to a technique's, as float32."""
        path = self.folder / technique
        try:
            with path.open("ab") as file:
                for values in maps:
                    file.write(np.ascontiguousarray(values, "<f4").tobytes())
                    self.shapes.setdefault(technique, []).append(np.shape(values))
        except OSError as error:
            raise InputError(f"cannot write {quoted(path)}: {cause(error)}") from error

    def save(self, path: Path, arrays: Mapping[str, np.ndarray]) -> None:
        """Write each technique's maps as one array (N, …), and further arrays.

        Maps of different sizes become `technique_0`, `technique_1`, …
        """
        with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w") as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)
            for technique, shapes in self.shapes.items():
                with (self.folder / technique).open("rb") as maps:
                    if len(set(shapes)) == 1:
                        _write(archive, technique, (len(shapes), *shapes[0]), maps)
                    else:
                        for i, shape in enumerate(shapes):
                            _write(archive, f"{technique}_{i}", shape, maps)
                (self.folder / technique).unlink()


def _write(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], maps) -> None:
    """Write the next float32 values of an open file as an array of that shape."""
    left = 4 * math.prod(shape)
    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(entry, header)
        while left and (block := maps.read(min(left, BLOCK))):
            entry.write(block)
            left -= len(block)
