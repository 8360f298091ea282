"""What the captions of the sanity checks say of numbers."""

import csv
import io

import numpy as np
import pytest
import torch

from report.trust import (
    AREAS,
    GOOD,
    Results,
    Settings,
    describe_agreement,
    describe_areas,
    examine,
    tables,
)
from visualizers import GradCam, SaliencyMap
from visualizers.sanity import CONTROLS, Measurement


@pytest.mark.parametrize("area, said", [(0.404, "none"), (0.406, "none"), (0.42, "Grad-CAM")])
def test_what_differs_by_less_than_is_printed_is_no_finding(area, said):
    """The best control has 0.41 at two digits; a method is better from 0.42 on."""
    values = {**dict.fromkeys(CONTROLS, 0.2), "central blob": 0.405001, "Grad-CAM": area}
    table = [
        Measurement(method, measure, "", 0, 1, number)
        for method, value in values.items()
        for measure, number in (("insertion area", value), ("deletion area", 1 - value))
    ]
    results = Results(Settings(1, 1, 10, "mean"), table, [("cat", 0.9)])
    words = describe_areas(results)
    assert f"By deletion area better than the best control, central blob (0.59): {said}." in words
    assert words.endswith(f"better than the best control, central blob (0.41): {said}.")


def test_two_pages_are_measured_and_set_in_tables(tiny_model):
    """A tiny network, four photos of four classes and one more: all measures are there."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(5, 3, 24, 24, generator=generator, dtype=torch.float64)
    labels, steps = torch.tensor([0, 1, 2, 3, 4]), []
    methods = {
        "saliency": lambda model, X, y: SaliencyMap().compute_saliency_maps(X, y, model),
        "Grad-CAM": lambda model, X, y: GradCam().grad_cam(X, y, model, "3", per_image=True),
    }
    results = Results(Settings(seed=1, seeds=2, steps=1, baseline="mean"))
    for part in (slice(4), slice(4, 5)):
        photos = [(f"class {label}", label / 5) for label in labels[part].tolist()]
        states = examine(
            results, tiny_model, methods, images[part], labels[part], photos, steps.append
        )
    assert [layer for layer, _ in states] == ["", "8", "3", "0"] and steps == [7] * 14
    assert {each.photo for each in results.table} == set(range(5))
    columns = {measure: results.column(measure) for measure in GOOD}
    assert set(columns["rank correlation"]) == {"saliency", "Grad-CAM", "edge detector"}
    assert columns["SSIM"]["saliency"].asked == 2 * 5  # networks, photos
    assert columns["localisation"]["saliency"].asked == 4  # the fifth has no three others
    curves = results.curves("deletion")["saliency"]
    assert curves.shape == (3, 11) and np.all(np.diff(curves, axis=0) >= 0)
    made = tables(results)
    assert [len(rows) for rows in made.values()][3] == 1 + 5 * len(columns["deletion area"])
    assert made["faithfulness.csv"][1][:5] == ("saliency", 0, "class 0", "0.000", "no")
    assert made["faithfulness.csv"][0][5:] == AREAS
    for rows in made.values():
        csv.writer(io.StringIO()).writerows(rows)
        assert {len(row) for row in rows} == {len(rows[0])}
    assert describe_agreement(results).startswith("With all layers random")
