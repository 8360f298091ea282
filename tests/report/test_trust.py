"""What the captions of the sanity checks say of numbers."""

import pytest

from report.trust import Results, Settings, describe_areas
from visualizers.sanity import CONTROLS, Measurement


@pytest.mark.parametrize("area, said", [(0.404, "none"), (0.406, "none"), (0.42, "Grad-CAM")])
def test_what_differs_by_less_than_is_printed_is_no_finding(area, said):
    """The best control has 0.41 at two digits; a method is better from 0.42 on."""
    values = {**dict.fromkeys(CONTROLS, 0.2), "central blob": 0.405001, "Grad-CAM": area}
    table = [
        Measurement(method, measure, "", 0, 1, value if measure == "insertion area" else 0.5)
        for measure in ("deletion area", "insertion area")
        for method, value in values.items()
    ]
    results = Results(Settings(1, 1, 10, "mean"), table, [("cat", 0.9)])
    words = describe_areas(results)
    assert words.endswith(f"better than the best control, central blob (0.41): {said}.")
    assert "edge detector (0.50): none." in words
