"""The table of items: the hand-outs' numbers and points."""

from solutions import POINTS

import check
from checker.items import EDITIONS, of_edition


def test_the_hand_outs_numbers_and_points():
    homework = [item.editions["homework"] for item in of_edition("homework")]
    assert [points for _, points in homework] == [10, 10, 10, 3, 3, 3, 3, 6, 2]
    assert [number for number, _ in homework] == [
        "1.1",
        "1.2",
        "1.3",
        "2.1",
        "2.2",
        "2.2",
        "2.3",
        "2.4",
        "2.5",
    ]
    assert of_edition("assignment") == list(check.ITEMS)
    assert EDITIONS[:2] == ("assignment", "homework")
    assert sum(POINTS.values()) == 80
    assert list(dict.fromkeys(item.question for item in check.ITEMS)) == [
        *("1.1", "1.2", "1.3", "1.4"),
        *("2.1", "2.2", "2.3", "2.4", "2.5"),
    ]
