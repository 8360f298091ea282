"""The sanity checks' script: its figures, tables, captions, and networks that lack something."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

import sanity_checks
from report.markdown import read_table
from report.questions import QUESTIONS
from report.trust import GOOD
from visualizers.sanity import CONTROLS

FIGURES = ["faithfulness.png", "sanity_curves.png", "sanity_randomization.png"]
TABLES = ["faithfulness.csv", "sanity_checks.csv", "sanity_curves.csv", "sanity_summary.csv"]
METHODS = [
    *(
        "saliency",
        "guided backprop",
        "Grad-CAM",
        "integrated gradients",
        "occlusion",
        "Guided Grad-CAM",
    ),
    *("integrated gradients, absolute", "occlusion, absolute"),
]


def records(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_script_writes_figures_and_tables(tmp_path):
    options = ["--num", "1", "--steps", "1", "--seeds", "1", "--deletion-baseline", "zero"]
    options += ["--size", "112"]
    assert sanity_checks.main([*options, "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FIGURES, *TABLES])
    for name in FIGURES:
        with Image.open(tmp_path / name) as picture:
            made_with = json.loads(picture.text["Options"])
        assert (made_with["steps"], made_with["seeds"]) == (1, 1)
        assert made_with["deletion_baseline"] == "zero"
    assert "rank correlation is" in made_with.get("found", "") or name != "sanity_curves.png"

    header, *rows = read_table(tmp_path / "sanity_summary.csv")
    assert header == ["method", *GOOD]
    assert [row[0] for row in rows] == [*METHODS, *CONTROLS]
    assert rows[len(METHODS)][1:3] == ["1.00 (1.00–1.00)"] * 2 and rows[-1][1:3] == ["", ""]

    table = {
        (row["method"], row["measure"]): row for row in records(tmp_path / "sanity_checks.csv")
    }
    row = table["saliency", "rank correlation"]
    facts = [row[key] for key in ("maps", "of", "photos", "seeds", "deletion baseline")]
    assert facts == ["1", "1", "1", "1", "zero"]
    assert float(row["lower quartile"]) <= float(row["median"]) <= float(row["upper quartile"])
    assert not any(measure == "localisation" for _, measure in table)  # which takes four classes
    curves = records(tmp_path / "sanity_curves.csv")
    assert sum(row["method"] == "saliency" and row["measure"] == "SSIM" for row in curves) == 10
    photos = records(tmp_path / "faithfulness.csv")
    assert photos[0]["recognised"] == ("yes" if float(photos[0]["probability"]) >= 0.1 else "no")
    assert photos[0]["deletion area"] == table["saliency", "deletion area"]["mean"]


NO_RELU = """
from torch import nn
from torch.nn.utils import parametrizations
def network():
    first = parametrizations.weight_norm(nn.Conv2d(3, 4, 5, 4))
    return nn.Sequential(first, nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
"""


@pytest.mark.slow
def test_a_network_without_relus_gets_all_but_the_guided_methods(tmp_path, caplog):
    (tmp_path / "own.py").write_text(NO_RELU)
    options = ["--arch", f"{tmp_path / 'own.py'}:network", "--num", "1", "--seeds", "2"]
    options += ["--steps", "2", "--labels", "guess", "--out", str(tmp_path / "out")]
    assert sanity_checks.main(options) == 0
    row = records(tmp_path / "out" / "sanity_checks.csv")[0]
    assert (row["maps"], row["of"], row["photos"], row["seeds"]) == ("2", "2", "1", "2")
    assert sum("no ReLU" in message for message in caplog.messages) == 1
    _, *rows = read_table(tmp_path / "out" / "sanity_summary.csv")
    assert [row[0] for row in rows] == [
        name for name in [*METHODS, *CONTROLS] if "uided" not in name
    ]


def test_the_chapter_of_the_report_is_made_on_demand(tmp_path, capsys):
    (question,) = (question for question in QUESTIONS if not question.by_default)
    assert question.name == "sanity_checks" and sorted(question.figures) == FIGURES
    assert list(question.tables) == ["sanity_summary.csv"]
    (tmp_path / "broken.csv").write_bytes(b"\xff\xfe\xff")
    assert read_table(tmp_path / "broken.csv") == [] and read_table(tmp_path / "none.csv") == []
    assert capsys.readouterr().err.count("is not a readable table") == 2
