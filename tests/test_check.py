"""The self-check: the solution and other right ones are ok, each known mistake is told, nothing
stops it.
"""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers import one_line, run_script
from solutions import ITEMS, put

import check
from errors import InputError
from files.atomic import ROOT


@pytest.mark.slow
def test_the_solution_is_ok_everywhere(tmp_path):
    result = run_script("check.py", "--json", tmp_path / "outcomes.json", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line.split()[1:] for line in lines[:-1]] == [[name, "ok"] for name in ITEMS]
    assert lines[-1] == f"{len(ITEMS)} items: {len(ITEMS)} ok"
    outcomes = json.loads((tmp_path / "outcomes.json").read_text())
    assert [(o["name"], o["status"]) for o in outcomes] == [(name, "ok") for name in ITEMS]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--only", "unknown"], "saliency_map"),
        (["--root", "absent"], "--root: there is no folder 'absent'"),
        (["--root", "."], "--edition"),
        (["--limit", "nan"], "--limit: a number of seconds above 0 was expected, got nan"),
        (["--limit", "-1"], "--limit"),
        (["--json", "."], "--json: '.' is a folder, or in none"),
        (["--json", "absent/outcomes.json"], "--json"),
    ],
)
def test_options_that_cannot_be_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        check.main(arguments)
    one_line(capsys, message)


@pytest.mark.slow
def test_a_letter_that_the_console_lacks_is_shown_all_the_same(solution, monkeypatch):
    put(solution, "tv_loss", "raise ValueError('cat \u732b')")
    console = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(console, "cp1252"))  # a Western Windows'
    assert check.main(["--root", str(solution), "--only", "tv_loss"]) == 1
    assert b"ValueError: cat \\u732b (style" in console.getvalue()


def test_missing_values_are_one_line(tmp_path):
    shutil.copy(ROOT / "check.py", tmp_path)
    shutil.copy(ROOT / "errors.py", tmp_path)
    for package in ("checker", "cli", "files"):
        shutil.copytree(ROOT / package, tmp_path / package)
    result = subprocess.run([sys.executable, tmp_path / "check.py"], capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "data/expected.npz" in result.stderr


def test_a_working_directory_that_no_longer_exists_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SystemExit) as caught:
        check.main(["--only", "tv_loss"])
    one_line(capsys, "working directory no longer exists")
    assert caught.value.code == 2


@pytest.mark.slow
def test_it_can_be_called_twice_in_one_process(capsys):
    arguments = ["--root", str(ROOT), "--only", "tv_loss"]
    assert [check.main(arguments), check.main(arguments)] == [0, 0]
    assert capsys.readouterr().out.count("1 item: 1 ok") == 2


def test_a_solutions_text_is_one_printable_line():
    assert check.one_line("a\n\x1b[31m b\udcff \u202e") == "a \\x1b[31m b\\udcff \\u202e"
    assert len(check.one_line("x" * 30_000_000)) == check.MOST_LETTERS


def test_relative_error():
    assert check.relative_error([3.0, 4.0], [3.0, 5.0]) == pytest.approx(1 / 34**0.5)
    assert (
        check.relative_error([1.0], [1.0, 2.0])
        == check.relative_error([float("nan")], [1.0])
        == float("inf")
    )


@pytest.fixture(scope="module")
def expected() -> check.Expected:
    return check.Expected(check.EXPECTED)


MAPS = {f"maps/{i}": np.random.default_rng(i).random((4, 6)) for i in range(2)}


@pytest.mark.parametrize(
    "found, message",
    [
        (MAPS | {"maps/1": np.full((4, 6), np.nan)}, "not finite (NaN or infinity)"),
        ({key: 1 - maps for key, maps in MAPS.items()}, "turned round"),
        ({key: 1 - 1.01 * maps for key, maps in MAPS.items()}, "turned round"),
        ({key: 3 * maps for key, maps in MAPS.items()}, "3 times what they should be"),
        ({key: 9 * (1 - maps) for key, maps in MAPS.items()}, "turned round"),
        (MAPS | {"maps/0": np.zeros((4, 6))}, "right for photo 2 only"),
        ({key: maps > 0.5 for key, maps in MAPS.items()}, ""),
    ],
)
def test_a_diagnosis_is_what_the_values_look_like(found, message, tmp_path):
    arrays = {f"item/{key}": maps for key, maps in MAPS.items()}
    arrays |= {f"item~0/{key}": 1 - maps for key, maps in MAPS.items()}
    np.savez(tmp_path / "values.npz", mistakes='{"item": ["turned round"]}', **arrays)
    assert check.Expected(tmp_path / "values.npz").diagnose("item", 1e-3, found) == message


WHOLE = [np.random.default_rng(i).random((24, 36, 3)) for i in range(2)]


@pytest.mark.parametrize(
    "move, message",
    [
        (lambda whole: np.roll(whole, (3, -5), (0, 1)), "shifted by 3 down and 5 to the left"),
        (lambda whole: np.roll(whole, -2, 0), "shifted by 2 up, in pixels"),
        (
            lambda whole: np.pad(whole, ((0, 0), (6, 0), (0, 0)))[:, :36],
            "shifted by 6 to the right",
        ),
        (lambda whole: whole[:, ::-1], "left and right are exchanged"),
        (lambda whole: whole[::-1], "top and bottom are exchanged"),
        (lambda whole: whole[::-1, ::-1], "turned by 180"),
        (lambda whole: np.zeros_like(whole), ""),
        (lambda whole: np.roll(whole, 18, 1), ""),
        (lambda whole: whole, ""),
    ],
)
def test_where_whole_maps_stand_that_are_right_but_for_their_place_is_told(move, message):
    wanted = {f"maps/{i}": whole[::6, ::6] for i, whole in enumerate(WHOLE)}
    found = {f"whole/{i}": move(whole) for i, whole in enumerate(WHOLE)}
    said = check.displaced(found, wanted, 1e-3)
    assert message in said and bool(said) == bool(message)
    assert check.displaced(found | {"whole/1": WHOLE[0]}, wanted, 1e-3) == ""  # one alone


def test_maps_of_squares_with_height_and_width_exchanged_are_told():
    wanted = {f"maps/{i}": whole[:, :24][::6, ::6] for i, whole in enumerate(WHOLE)}
    found = {f"whole/{i}": whole[:, :24].swapaxes(0, 1) for i, whole in enumerate(WHOLE)}
    assert check.displaced(found, wanted, 1e-3) == "right, but height and width are exchanged"


@pytest.mark.parametrize(
    "wrong, message",
    [
        (["0", "1"], ""),
        (["0", "places"], "right for photo 2 only"),
        (
            ["places"],
            "right for the photos, not for a network whose gradient varies over the places",
        ),
    ],
)
def test_what_is_right_about_maps_of_photos_and_of_the_small_network(wrong, message):
    wanted = MAPS | {"maps/places": np.random.default_rng(2).random((5, 5))}
    found = wanted | {f"maps/{name}": np.zeros_like(wanted[f"maps/{name}"]) for name in wrong}
    assert check.in_part(found, wanted, 1e-3) == message


def test_of_several_groups_the_nearest_counts():
    wanted = {"sum/a": np.ones(2), "sum/b": np.ones(2), "mean/a": np.full(2, 0.5)}
    assert check.distance({"mean/a": np.full(2, 0.5)}, wanted) == 0
    assert check.distance({"sum/a": np.ones(2)}, wanted) == np.inf
    assert check.share_within(1e-3, {"sum/a": np.ones(2)}, wanted) == 0.5


def test_a_finding_counts_as_much_as_all_values(expected, tmp_path):
    right = expected.values("saliency_map")
    for findings, share in (([], 1), (["prints"], 0.5)):
        measured = check.Measured(arrays=right, findings=findings, place="a.py line 3")
        outcome = check.judge(ITEMS["saliency_map"], measured, expected, tmp_path)
        assert (outcome.status, outcome.share) == ("wrong" if findings else "ok", share)
    assert outcome.message == "prints (a.py line 3)"
    measured = check.Measured(arrays={"maps/0": right["maps/0"]}, remarks=["slow"])
    outcome = check.judge(ITEMS["saliency_map"], measured, expected, tmp_path)
    assert outcome.status == "wrong" and outcome.share == 0.5
    assert outcome.message.endswith("(visualizers/saliency_map.py)")  # the file is not there


def test_a_figure_that_no_row_shows_is_named(expected):
    right, item = expected.values("gradcam_captum"), ITEMS["gradcam_captum"]
    drawn = dict(enumerate(row for key, row in right.items() if "bicubic" not in key))
    outcome = check.judge(item, check.Measured(arrays=drawn), expected, ROOT)
    assert (outcome.status, outcome.share) == ("ok", 1)  # nearest will do
    del drawn[0]
    drawn |= expected.values("gradcam_captum", 0)  # a known mistake
    outcome = check.judge(item, check.Measured(arrays=drawn), expected, ROOT)
    assert (outcome.status, outcome.share) == ("wrong", 0.75)
    assert outcome.message.startswith(
        "LayerGradCam without relu_attributions; no picture shows gui"
    )


def test_where_time_was_up_is_the_solution_s_innermost_line(tmp_path):
    lines = [
        f'File "{path}", line {i}'
        for i, path in enumerate(
            (
                "/usr/lib/torch.py",
                tmp_path / "checker/measures.py",
                tmp_path / "a/b.py",
                tmp_path / "c.py",
            )
        )
    ]
    (tmp_path / "stack").write_text("\n".join(lines))
    assert check._last_place(tmp_path, tmp_path) == "a/b.py line 2"
    assert check._last_place(tmp_path / "a", tmp_path) == ""


@pytest.mark.parametrize(
    "content", [b"", b"no arrays", (ROOT / "data/reference_values.npz").read_bytes()]
)
def test_values_that_cannot_be_read_are_one_line(content, tmp_path):
    (tmp_path / "expected.npz").write_bytes(content)
    with pytest.raises(InputError, match="cannot read values"):
        check.Expected(tmp_path / "expected.npz")
