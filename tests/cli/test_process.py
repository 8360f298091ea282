"""The process: signals, closed and full streams, and how it ends, by itself and inside other
programs.
"""

import errno
import os
import pstats
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm
from helpers import ROOT, SMALL, assert_one_line_error, script

from cli.process import advice
from collect_submission import zip_files
from errors import InputError

IMPORTS = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"


def python(*arguments, cwd: Path, **kwargs) -> subprocess.CompletedProcess:
    """Run this Python with arguments of its own."""
    kwargs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, text=True, timeout=300, **kwargs
    )


# --- Signals and streams ---


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_unwinds_and_the_handler_is_put_back(tmp_path, name):
    number = getattr(signal, name)
    before, closed = signal.getsignal(number), []

    def work(_):
        try:
            os.kill(os.getpid(), number)
        finally:
            closed.append(True)

    with pytest.raises(SystemExit) as caught:
        script(work, "--out", tmp_path)
    assert caught.value.code == 128 + number and closed and signal.getsignal(number) == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "command",
    [
        "course/make_starter.py --autograder",
        "course/hidden.py --seed 7 --out hidden.npz",
        "course/make_expected.py",
        "collect_submission.py --code-only",
    ],
)
def test_an_interrupted_command_leaves_nothing_behind(command, number, tmp_path):
    script, *options = command.split()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    settings = {**os.environ, "TMPDIR": str(scratch)}
    process = warm.Program(ROOT / script, *options, cwd=tmp_path, env=settings)
    while not any(scratch.glob("*/*")) and not process.ended():
        time.sleep(0.05)
    os.kill(process.pid, number)
    told = f"{Path(script).name}: error: interrupted\n" if number == signal.SIGINT else ""
    ended = process.wait()
    assert (ended.stdout, ended.stderr, ended.returncode) == ("", told, 128 + number)
    assert [path for path in tmp_path.rglob("*") if path != scratch] == []


@pytest.mark.skipif(os.name != "posix", reason="limits are those of POSIX")
@pytest.mark.parametrize("command", ["course/grade.py submission.zip", "collect_submission.py"])
def test_where_nothing_can_be_unpacked_it_is_one_line(command, tmp_path):
    """A limit on files does what a full disk does."""
    archive = zip_files({"style_utils.py": bytes(9000)})
    (tmp_path / "submission.zip").write_bytes(archive)
    script, *options = command.split()
    line = f"ulimit -f 8; exec '{sys.executable}' '{ROOT / script}' {' '.join(options)}"
    result = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert (result.returncode, result.stdout) == (2, "") and "File too large" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["submission.zip"]


def test_a_line_that_nobody_reads_is_no_reason_to_stop(tmp_path):
    """The reader of standard output may have gone (`| head`)."""
    program = f"""{IMPORTS}
from cli.process import print_line
sys.stdin.readline()
print_line("one")
print_line("two")
print("still here", file=sys.stderr)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        process.stdout.close()
        process.stdin.write("go\n")
        process.stdin.close()
        assert process.stderr.read() == "still here\n" and process.wait() == 0


@pytest.mark.slow
def test_closed_streams(tmp_path):
    """What would be said is lost, and nothing else; no file takes a closed stream's place."""
    program = f"""{IMPORTS}
from cli.run import run
def work(session):
    for _ in session.progress(range(3), "progress"):
        print("said")
    (session.out / "file").write_text("written")
assert run("", lambda parser: None, work, ["--out", "out"]) == 0
raise SystemExit(run("", lambda parser: None, work, ["--out", "out/file"]))
"""
    result = python_without_streams(program, "<&- >&- 2>&-", tmp_path)
    assert result.returncode == 2 and (tmp_path / "out" / "file").read_text() == "written"


def python_without_streams(program: str, closed: str, cwd: Path) -> subprocess.CompletedProcess:
    command = ["bash", "-c", f'"$0" -c "$1" {closed}', sys.executable, program]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_standard_error_closed_alone(tmp_path):
    program = f"""{IMPORTS}
from cli.process import open_closed_streams
open_closed_streams()
with open("file", "w") as file:
    print("said")
    print("error", file=sys.stderr)
"""
    result = python_without_streams(program, "2>&-", tmp_path)
    assert (result.returncode, result.stdout) == (0, "said\n")
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk without space")
def test_output_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "line.py").write_text(f"""{IMPORTS}
from cli.process import exit_now, print_line
from errors import InputError
try:
    print_line("one")
except InputError as error:
    print(error, file=sys.stderr)
    exit_now(2, __file__)
""")
    with Path("/dev/full").open("w") as full:
        result = python("line.py", cwd=tmp_path, stdout=full)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "cannot write to standard output" in result.stderr


def test_what_users_can_put_right_is_told_apart_from_a_defect():
    assert advice(InputError("two\n lines")) == "two lines"
    for number in (errno.ENOSPC, errno.EMFILE, errno.EACCES):
        error = OSError(number, os.strerror(number), "x")
        assert advice(error) == f"{os.strerror(number)}: 'x'"
    assert advice(MemoryError()) == advice(RuntimeError("CUDA out of memory. Tried …"))
    assert advice(ImportError("x.so: failed to map segment from shared object")) == advice(
        MemoryError()
    )
    for defect in (
        ValueError("wrong"),
        RuntimeError("wrong"),
        KeyError("memory"),
        AssertionError(),
    ):
        assert advice(defect) is None


# --- The end ---

# As the scripts end, but that nothing is done and torch is not needed for it.
ENDING = f"""{IMPORTS}
import atexit
import cli.run

class Kept:
    def __del__(self):
        print("taken apart")

def run(*_):
    global kept
    kept = Kept()
    atexit.register(print, "handler", end="")
    print("unflushed", end=", ")
    return 3

cli.run.run = run
main = cli.run.make_main(__name__, "", None, lambda session: None)
"""


@pytest.fixture
def ending(tmp_path) -> Path:
    """A folder with a script that ends with status 3, and that tells if Python has taken its
    objects apart.
    """
    (tmp_path / "ending.py").write_text(ENDING)
    return tmp_path


@pytest.mark.parametrize("options", [[], ["-u"], ["-I"], ["-X", "dev"]], ids=str)
def test_a_script_ends_with_its_status_after_the_exit_handlers(ending, options):
    result = python(*options, "ending.py", cwd=ending)
    assert result.returncode == 3 and result.stdout.startswith("unflushed, handler")
    assert not result.stderr
    # "dev" is taken for the script's name, and Python ends the process itself
    if options != ["-X", "dev"]:
        assert result.stdout == "unflushed, handler"


def test_a_script_ends_from_any_folder_and_through_a_link(ending, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "link.py").symlink_to(ending / "ending.py")
    for path in (ending / "ending.py", elsewhere / "link.py"):
        result = python(path, cwd=elsewhere)
        assert (result.returncode, result.stdout, result.stderr) == (3, "unflushed, handler", "")


OTHERS = {
    "runpy": """import runpy
try:
    runpy.run_path("ending.py", run_name="__main__")
except SystemExit as end:
    print(end.code, "goes on")
""",
    "import": """import ending, runpy
try:
    runpy.run_module("ending", run_name="__main__")
except SystemExit as end:
    print(end.code, "goes on")
""",
    "exec": """import pathlib
try:
    code = compile(pathlib.Path("ending.py").read_text(), "ending.py", "exec")
    exec(code, {"__name__": "__main__", "__file__": "ending.py"})
except SystemExit as end:
    print(end.code, "goes on")
""",
    "thread": """import runpy, threading
def work():
    try:
        runpy.run_path("ending.py", run_name="__main__")
    except SystemExit as end:
        print(end.code, "goes on")
thread = threading.Thread(target=work)
thread.start()
thread.join()
""",
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("started", ["-c", "file", "stdin"])
def test_a_program_that_runs_the_script_goes_on(ending, name, started):
    program = f"import sys; sys.path.insert(0, '.')\n{OTHERS[name]}"
    (ending / "other.py").write_text(program)
    arguments = {"-c": ["-c", program], "file": ["other.py"], "stdin": ["-"]}[started]
    result = python(*arguments, cwd=ending, input=program if started == "stdin" else None)
    assert result.returncode == 0 and "3 goes on\n" in result.stdout and not result.stderr


@pytest.mark.slow
def test_tools_that_watch_the_script_go_on(ending):
    """A profiler, a tracer, a debugger and an inspector, each with its own work to do after the
    script.
    """
    result = python("-m", "cProfile", "-o", "profile", "ending.py", cwd=ending)
    assert "handler" in result.stdout and pstats.Stats(str(ending / "profile")).total_calls > 0
    result = python("-m", "trace", "--count", "--missing", "-C", "counts", "ending.py", cwd=ending)
    assert any("ending" in path.name for path in (ending / "counts").iterdir()), result.stderr
    result = python(
        "-m",
        "pdb",
        "-c",
        "continue",
        "ending.py",
        cwd=ending,
        input="print('still', 'here')\nquit\n",
    )
    assert "still here" in result.stdout and "exited" in result.stdout
    result = python("-i", "ending.py", cwd=ending, input="print('still', 'here')\n")
    assert "still here" in result.stdout


@pytest.mark.slow
def test_ipython_goes_on(ending):
    code = "get_ipython().run_line_magic('run', 'ending.py'); print('still', 'here')"
    result = python("-m", "IPython", "--no-banner", "--colors=nocolor", "-c", code, cwd=ending)
    assert "still here" in result.stdout, result.stderr


@pytest.mark.slow
def test_a_real_script_under_a_profiler(tmp_path):
    options = ["--arch", SMALL, "--weights", "none", "--num", "1", "--steps", "1", "--quiet"]
    command = ["-m", "cProfile", "-o", "profile", ROOT / "saliency_map.py", *options, "--out", "."]
    result = warm.run(*command, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    functions = pstats.Stats(str(tmp_path / "profile")).stats
    assert any("compute_saliency_maps" in function for *_, function in functions)
    assert len(list(tmp_path.glob("*.png"))) == 3


@pytest.mark.skipif(
    not Path("/proc/loadavg").exists(), reason="only Linux says how many threads run at this moment"
)
def test_cores_are_shared_with_other_programs_unless_the_user_decides():
    program = f"import os, sys; sys.path.insert(0, {str(ROOT)!r})\nfrom cli.process import prepare_torch\n"
    program += "prepare_torch(); print(os.environ.get('OMP_NUM_THREADS'))"
    own = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("OMP_", "GOMP_", "KMP_", "MKL_"))
    }

    def threads(**settings: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", program],
            env=own | settings,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(os.cpu_count() or 1)
    ]
    try:
        assert threads() == "1"
        assert threads(OMP_WAIT_POLICY="PASSIVE") == "None" and threads(OMP_NUM_THREADS="7") == "7"
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    "system, own, then", [("darwin", None, "1"), ("darwin", "0", "0"), ("linux", None, None)]
)
def test_on_a_mac_the_cpu_computes_what_apple_s_gpu_lacks(system, own, then):
    program = f"import os, sys; sys.path.insert(0, {str(ROOT)!r})\nfrom cli.process import prepare_torch\n"
    program += f"sys.platform = {system!r}; prepare_torch(); print(os.environ.get('PYTORCH_ENABLE_MPS_FALLBACK'))"
    environment = {
        key: value for key, value in os.environ.items() if key != "PYTORCH_ENABLE_MPS_FALLBACK"
    }
    environment |= {} if own is None else {"PYTORCH_ENABLE_MPS_FALLBACK": own}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (0, f"{then}\n"), result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps a folder that is in use")
def test_a_working_directory_that_no_longer_exists_is_one_line(tmp_path):
    gone = f"import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); sys.path[:0] = [{str(ROOT)!r}]"
    program = f"{gone}; import saliency_map; sys.exit(saliency_map.main(['--out', {str(tmp_path / 'out')!r}]))"
    result = warm.run("-c", program, cwd=tmp_path)
    assert_one_line_error(result, "working directory", "no longer exists")
    assert list(tmp_path.iterdir()) == []
