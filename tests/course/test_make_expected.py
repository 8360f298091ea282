"""data/expected.npz holds the mistakes that its generator knows."""

import pytest
from solutions import ITEMS, expected

from checker.editions import TABLE
from checker.items import ASSIGNMENT
from course.make_expected import bodies, main
from course.mistakes import MISTAKES


@pytest.mark.parametrize("name", [name for name in MISTAKES if name in ITEMS])
def test_the_stored_mistakes_are_those_of_the_table(name):
    made = dict.fromkeys(
        message for _, message in bodies(ITEMS[name], TABLE[ASSIGNMENT]) if message
    )
    assert {*made} == {*expected().mistakes[name]}
    for edition in TABLE.values():
        written = [*bodies(ITEMS[name], edition)]
        right = {body for body, message in written if not message}
        assert not any(message for body, message in written if body in right)
    assert all(expected().values(name, number) for number in range(len(made)))


@pytest.mark.parametrize(("option", "status"), [("--help", 0), ("--colour", 2)])
def test_options_alone_compute_nothing(option, status, capsys):
    with pytest.raises(SystemExit) as caught:
        main([option])
    assert caught.value.code == status and "mistakes" not in capsys.readouterr().out
