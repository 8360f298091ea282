"""The self-check: the solution and other right ones are ok, each known mistake is told, nothing
stops it.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from solutions import ITEMS, RIGHT, WRONG, put

import check
from course.make_starter import course_files
from files.atomic import ROOT

# Items that run a function of the file: all others import none of it, so that nothing there can
# reach them.
RELATED = {
    file: [item.name for item in check.ITEMS if item.file == file]
    + ["feature_inversion"] * file.startswith("style")
    for file in {item.file for item in check.ITEMS}
}


@pytest.fixture(scope="session")
def expected():
    return check.Expected(check.EXPECTED)


@pytest.fixture
def solution(tmp_path) -> Path:
    """A copy of the solution."""
    for name, content in course_files(ROOT).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.fixture(autouse=True)
def _one_core(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def outcome(solution: Path, name: str, expected, patience: float = check.PATIENCE) -> check.Outcome:
    item = ITEMS[name]
    return check.judge(item, check.measure(item, solution, patience), expected, solution)


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


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_solution_written_differently_is_ok(name, solution, expected):
    put(solution, name, RIGHT[name])
    found = {related: outcome(solution, related, expected) for related in RELATED[ITEMS[name].file]}
    assert {name: o.status for name, o in found.items()} == dict.fromkeys(found, "ok"), found


@pytest.mark.slow
def test_right_functions_that_use_one_another_are_ok(solution, expected):
    for name, body in RIGHT.items():
        put(solution, name, body)
    found = list(check.check(solution, check.ITEMS))
    assert {o.name: o.status for o in found} == dict.fromkeys(ITEMS, "ok"), found


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, old, new, words", WRONG, ids=[f"{name}: {words}" for name, *_, words in WRONG]
)
def test_a_mistake_is_recognised_and_costs_nothing_elsewhere(
    name, old, new, words, solution, expected
):
    right = RIGHT[name]
    assert old is None or old in right
    put(solution, name, new if old is None else right.replace(old, new))
    found = {related: outcome(solution, related, expected) for related in RELATED[ITEMS[name].file]}
    wrong = found.pop(name)
    assert wrong.status == "wrong" and words in wrong.words, wrong
    assert f"({ITEMS[name].file} line " in wrong.words and "\n" not in wrong.words, wrong
    assert {name: o.status for name, o in found.items()} == dict.fromkeys(found, "ok"), found


def test_there_are_enough_mistakes():
    assert len(WRONG) >= 30 and {name for name, *_ in WRONG} >= RIGHT.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, old, new, words",
    [
        (
            "saliency_captum",
            "values.amax(dim=0",
            "values.sum(dim=0",
            "Saliency summed over the channels",
        ),
        (
            "gradcam_captum",
            ", relu_attributions=True",
            "",
            "LayerGradCam without relu_attributions",
        ),
    ],
)
def test_a_mistake_with_captum_is_recognised(name, old, new, words, solution, expected):
    path = solution / ITEMS[name].file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    wrong = outcome(solution, name, expected)
    assert wrong.status == "wrong" and words in wrong.words, wrong


SERVER = """import os
from pathlib import Path
stat = Path(f'/proc/{{os.getppid()}}/stat').read_text()
server = int(stat.rpartition(')')[2].split()[1])
"""
HOSTILE = {
    "while True:\n    pass": ("error", "not done after 4 s"),
    "import time\ntime.sleep(1000)": ("error", "not done after 4 s"),
    "import sys\nsys.exit(0)": ("error", "SystemExit: 0"),
    "import os\nos._exit(0)": ("error", "ended with status 0 before the check was done"),
    "import os\nos.kill(os.getpid(), 9)": ("error", "ended with status -9"),
    "import ctypes\nctypes.string_at(0)": ("error", "ended with status -11"),
    "return 1 / 0": ("error", "ZeroDivisionError: division by zero"),
    "raise KeyboardInterrupt": ("error", "KeyboardInterrupt"),
    "raise MemoryError": ("error", "MemoryError"),
    "return self.forward(*[content_weight] * 3)": ("error", "RecursionError"),
    "raise NotImplementedError": ("missing", "not written yet"),
    "return None": ("wrong", "a tensor with one number was expected, got NoneType"),
    "return 3.0": ("wrong", "got float"),
    "return content_current.detach().sum()": ("wrong", "the loss has no gradient"),
    "return content_current": ("wrong", "got shape (1, 4, 5, 6)"),
    "return content_current.sum() * float('nan')": ("wrong", "not finite"),
    "print('hello', flush=True)\n{right}": ("wrong", "prints 'hello', which nobody asked for"),
    "import os\nos.write(1, b'past Python')\n{right}": ("wrong", "prints 'past Python'"),
    "import os\nos.system('echo from a shell')\n{right}": ("wrong", "prints 'from a shell'"),
    "torch.set_default_dtype(torch.float64)\n{right}": (
        "wrong",
        "torch.get_default_dtype() is changed and left so",
    ),
    "torch.nn.functional.relu = torch.sigmoid\n{right}": (
        "wrong",
        "torch.nn.functional.relu is changed",
    ),
    "import os\nos.chdir('/')\n{right}": ("wrong", "the working directory is changed"),
    "import subprocess\nsubprocess.Popen(['sleep', '1000'])\n{right}": ("ok", ""),
    # What is above the process: its watcher, and the server that starts all of them.
    "import os\nos.kill(os.getppid(), 9)\nimport time\ntime.sleep(1000)": ("error", "was ended"),
    "import os\nos.kill(os.getppid(), 19)\n{right}": ("error", "not done after 4 s"),
    f"{SERVER}os.kill(server, 9)\n{{right}}": ("ok", ""),
    f"{SERVER}os.kill(server, 19)\n{{right}}": ("ok", ""),
    "import os\nos.killpg(0, 9)": ("error", "ended with status -9"),
    "import os\nfor _ in range(5):\n    os.fork()\nwhile True:\n    pass": ("error", "after 4 s"),
    # Limits, and what it writes where the results go.
    "x = bytearray(6 << 30)": ("error", "MemoryError"),
    "with open('big', 'wb') as file:\n    file.write(bytes(200 << 20))": ("error", "too large"),
    "import os\nos.closerange(3, 256)\n{right}": ("error", "ended with status 1"),
    "import os\nfor i in range(3, 64):\n    os.dup2(1, i)\n{right}": ("error", "was ended"),
    # Messages: the first line of a few letters, whatever the exception does.
    "raise ValueError('first\\nsecond' * 9999999)": ("error", "ValueError: first ("),
    "raise ValueError('x' * 30_000_000)": ("error", f"ValueError: {'x' * 200} ("),
    "class E(Exception):\n    def __str__(self):\n        raise self\nraise E": ("error", "E ("),
    "import sys\nsys.modules.clear()\n{right}": ("error", "ended with status 1"),
}


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the exit statuses are those of POSIX")
@pytest.mark.parametrize("body", HOSTILE)
def test_whatever_code_does_is_one_line(body, solution, expected):
    put(solution, "content_loss", body.format(right=RIGHT["content_loss"]))
    status, words = HOSTILE[body]
    found = outcome(
        solution, "content_loss", expected, patience=4 if "4 s" in words else check.PATIENCE
    )
    assert found.status == status and words in found.words and "\n" not in found.words, found
    assert status == "ok" or "(style_modules/content_loss.py line " in found.words, found


@pytest.mark.slow
def test_the_line_is_the_one_where_it_happens(solution, expected):
    lines = (solution / "style_modules/content_loss.py").read_text().splitlines()
    first = next(i for i, line in enumerate(lines, start=1) if "Raises:" in line) + 3
    for body, offset in (
        ("x = 1\nx / 0", 1),
        ("while True:\n    x = 1", 0),
        ("x = 1\nx = 2\nprint(x)", 2),
    ):
        put(solution, "content_loss", body)
        found = outcome(solution, "content_loss", expected, patience=4)
        assert any(
            f"line {first + offset + more})" in found.words for more in (0, "while" in body)
        ), found


@pytest.mark.slow
def test_files_that_do_not_compile_or_are_missing(solution, expected):
    (solution / "visualizers/saliency_map.py").write_text("def broken(:\n")
    found = outcome(solution, "saliency_map", expected)
    assert found.status == "error" and "SyntaxError" in found.words, found
    assert "(visualizers/saliency_map.py line 1)" in found.words
    (solution / "style_modules/tv_loss.py").unlink()
    found = outcome(solution, "tv_loss", expected)
    assert found.status == "missing" and "there is no such file" in found.words, found
    for name in ("grad_cam", "content_loss"):  # of the same packages
        assert outcome(solution, name, expected).status == "ok"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--only", "unknown"], "saliency_map"),
        (["--root", "absent"], "--root: there is no folder 'absent'"),
        (["--limit", "nan"], "--limit: a number of seconds above 0 was expected, got nan"),
        (["--limit", "-1"], "--limit"),
        (["--json", "."], "--json: '.' is a folder, or in none"),
        (["--json", "absent/outcomes.json"], "--json"),
    ],
)
def test_options_that_cannot_be_are_one_line(arguments, words, tmp_path):
    result = run_check(*arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1), (
        result.stderr
    )
    assert words in result.stderr


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
