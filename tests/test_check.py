"""The self-check: the solution and other right ones are ok, each known mistake is told, nothing
stops it.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from solutions import ITEMS, put

import check
from files.atomic import ROOT


def run_check(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "check.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_solution_is_ok_everywhere(tmp_path):
    result = run_check("--json", tmp_path / "outcomes.json", cwd=tmp_path)
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
        (["--limit", "nan"], "--limit: a number of seconds above 0 was expected, got nan"),
        (["--limit", "-1"], "--limit"),
        (["--json", "."], "--json: '.' is a folder, or in none"),
        (["--json", "absent/outcomes.json"], "--json"),
    ],
)
def test_options_that_cannot_be_are_one_line(arguments, message, tmp_path):
    result = run_check(*arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1), (
        result.stderr
    )
    assert message in result.stderr


@pytest.mark.slow
def test_a_letter_that_the_console_lacks_is_shown_all_the_same(solution, monkeypatch):
    put(solution, "tv_loss", "raise ValueError('cat \u732b')")
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")  # of a Western Windows
    result = run_check("--root", solution, "--only", "tv_loss")
    assert (result.returncode, result.stderr) == (
        1,
        "",
    ) and "ValueError: cat \\u732b (style" in result.stdout


def test_missing_values_are_one_line(tmp_path):
    shutil.copy(ROOT / "check.py", tmp_path)
    shutil.copy(ROOT / "errors.py", tmp_path)
    for package in ("checker", "cli", "files"):
        shutil.copytree(ROOT / package, tmp_path / package)
    result = subprocess.run([sys.executable, tmp_path / "check.py"], capture_output=True, text=True)
    assert (
        result.returncode == 2
        and result.stderr.count("\n") == 1
        and "data/expected.npz" in result.stderr
    )


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
