"""Messages are one line, whatever a name or a cause holds."""

from pathlib import Path

import numpy as np
import pytest
import torch

from errors import InputError, cause, described, is_out_of_memory, quoted


def test_names_are_quoted_on_one_line():
    assert quoted("a\nb\x1b") == r"'a\nb\x1b'" and quoted(Path("it's ü")) == '"it\'s ü"'


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(2, "No such file or directory", "a.png"), "No such file or directory"),
        (ValueError("two\r\n  lines"), "two lines"),
        (ValueError(), "ValueError"),
        ("text\nof a library", "text of a library"),
    ],
)
def test_causes_are_one_line(error, message):
    assert cause(error) == message and issubclass(InputError, ValueError)


def test_numpy_s_advice_to_run_a_text_is_not_passed_on(tmp_path):
    (tmp_path / "photos.npz").write_text("hello")
    with pytest.raises(ValueError, match="pickle") as caught:
        np.load(tmp_path / "photos.npz")
    assert cause(caught.value) == "it holds no arrays"


def test_the_type_of_an_error_without_words_is_said_once():
    assert (described(AssertionError()), described(KeyError(1))) == (
        "AssertionError",
        "KeyError: 1",
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …"), True),
        (RuntimeError("memory format option is only supported by strided tensors"), False),
    ],
)
def test_exhausted_memory_is_told_from_a_fault_that_speaks_of_memory(error, expected):
    assert is_out_of_memory(error) is expected
