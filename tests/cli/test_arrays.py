"""The archive of maps: any number of them in little memory, as NumPy reads it."""

import tracemalloc

import numpy as np
import pytest

from cli.arrays import MapsFile
from errors import InputError


def test_maps_of_one_size_are_one_array_others_are_numbered(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    maps, first, second = MapsFile(folder), np.eye(3), np.arange(6.0).reshape(2, 3)
    maps.add("same", [first])
    maps.add("same", np.stack([2 * first, 3 * first]))
    maps.add("sizes", [first, second.T[..., None].repeat(3, 2)])
    maps.save(tmp_path / "maps.npz", {"names": np.array(["a", "ü"])})
    with np.load(tmp_path / "maps.npz") as found:
        assert sorted(found) == ["names", "same", "sizes_0", "sizes_1"]
        assert found["same"].dtype == np.float32 and found["same"].shape == (3, 3, 3)
        assert np.array_equal(found["same"][2], 3 * first)
        assert np.array_equal(found["sizes_0"], first)
        assert np.array_equal(found["sizes_1"][..., 1], second.T)
        assert found["names"].tolist() == ["a", "ü"]
    assert not list(folder.iterdir())


def test_memory_does_not_grow_with_the_number_of_maps(tmp_path):
    peaks = []
    for count in (10, 100):
        folder = tmp_path / str(count)
        folder.mkdir()
        maps = MapsFile(folder)
        tracemalloc.start()
        maps.add("maps", (np.full((96, 96, 3), i) for i in range(count)))
        maps.save(tmp_path / "maps.npz", {})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    with np.load(tmp_path / "maps.npz") as found:
        assert found["maps"][:, 5, 5, 1].tolist() == list(range(100))
    assert peaks[1] < peaks[0] + 1_500_000  # bytes; the maps take 11 million


def test_a_folder_that_has_gone_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot write .*gone"):
        MapsFile(tmp_path / "gone").add("maps", [np.eye(2)])
