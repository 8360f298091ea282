"""Class names that are numbers, letters written in two ways, files nested too deep."""

import pytest

from errors import InputError
from files.class_names import parse_label, read_class_names

DIGITS = {0: "10", 1: "1", 2: "10, ten", 3: "2"}


def test_a_number_that_is_the_id_of_one_class_and_the_name_of_another_is_ambiguous():
    with pytest.raises(InputError, match=r"class 2 .*ambiguous.*'10, ten'.* 3"):
        parse_label("2", DIGITS)
    assert parse_label("1", DIGITS) == 1 and parse_label("0", DIGITS) == 0
    assert parse_label("ten", DIGITS) == 2
    assert parse_label("12", {0: "11", 1: "12"}) == 1  # no id, so the name is meant
    with pytest.raises(InputError, match="out of range"):
        parse_label("13", {0: "11", 1: "12"})


@pytest.mark.parametrize("name", ["caf\u00e9", "cafe\u0301"])
@pytest.mark.parametrize("text", ["caf\u00e9", "cafe\u0301", "Cafe\u0301"])
def test_accents_match_however_they_are_written(name, text):
    assert parse_label(text, {0: "bar", 1: name}) == 1


def test_names_nested_too_deep_are_one_line(tmp_path):
    (tmp_path / "names.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"names\.json"):
        read_class_names(tmp_path / "names.json", 3)
