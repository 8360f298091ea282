"""Every technique side by side in one process: this project, the libraries, a textbook version, and the floor.

    pip install -r benchmarks/requirements.txt
    python benchmarks/run.py

The floor is one forward and one backward pass to the input through the whole frozen network in channels-last layout;
for Grad-CAM the forward pass and the backward pass down to the layer; for style transfer forward and backward through
the layers that are needed, and the Adam step. The labelled class's floor evaluates one of the classifier's 1000 classes
per photo, all that a map needs. The versions take turns, in each
round in another order; what counts is the median over the rounds of the ratio to the floor of the same round. Python's
garbage collector is off meanwhile, as in `timeit`. Except for conductance, the C library is told to keep the memory
that is freed: otherwise chance decides which version has to get it anew, page by page, from the system.
"""

import argparse
import ctypes
import gc
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import techniques as t  # noqa: E402
import torch  # noqa: E402

from files.course import COURSE_FILES, course_file, package_file  # noqa: E402

# name → versions, number of photos → rounds as a share of those asked for: the shorter a run, the more chance is in it
PHOTOS = {1: 8, 5: 2, 25: 1}
TECHNIQUES = {
    "conductance (floor: all at once)": (t.conductance, {5: 0.2}),  # the first, before `keep_memory`
    "saliency": (t.saliency, PHOTOS),
    "guided backprop": (t.guided_backprop, PHOTOS),
    "Grad-CAM": (t.grad_cam, PHOTOS),
    "Guided Grad-CAM": (t.guided_grad_cam, PHOTOS),
    "fooling, a step": (t.fooling, {1: 1}),
    "class visualization, a step": (t.class_visualization, {1: 1}),
    "style transfer, an iteration": (t.style, {1: 1}),
}


def measure(versions: dict[str, t.Version], rounds: int) -> dict[str, tuple[float, float, float, float]]:
    """Let the versions take turns. Name → median ratio of wall time, of CPU time, median ms, peak extra MB."""
    peaks = {name: peak_memory(run) for name, run in versions.items()}  # warms up, too
    times = {name: [] for name in versions}
    gc.disable()
    for _ in range(rounds):
        for name in random.sample(list(versions), len(versions)):
            wall, cpu = time.perf_counter(), time.process_time()
            own = versions[name]()
            spent = time.perf_counter() - wall, time.process_time() - cpu
            times[name].append(own if isinstance(own, tuple) and len(own) == 2 else spent)
    gc.enable()

    def ratio(name: str, kind: int) -> float:
        pairs = zip(times[name], times[t.FLOOR], strict=True)
        return statistics.median(mine[kind] / floor[kind] for mine, floor in pairs)

    return {
        name: (ratio(name, 0), ratio(name, 1), 1000 * statistics.median(t[0] for t in times[name]), peaks[name])
        for name in versions
    }


def keep_memory() -> None:
    """Have glibc neither map large blocks anew each time nor give back what is freed."""
    if Path("/proc/self/clear_refs").exists():
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def peak_memory(run: t.Version) -> float:
    """Extra resident memory at the peak of a run, in MB; 0 where the system does not tell (only Linux does)."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    gc.collect()
    if not reset.exists():
        run()
        return 0.0
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier runs have freed shall not serve this one
    reset.write_text("5")
    before = _kilobytes(status, "VmRSS")
    run()
    return (_kilobytes(status, "VmHWM") - before) / 1024


def _kilobytes(status: Path, field: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field))


def tables(threads: list[int], rounds: int, only: list[str]) -> list[str]:
    """Measure, and return the tables as lines of Markdown."""
    lines = []
    for name, (make, shares) in TECHNIQUES.items():
        if only and not any(word in name for word in only):
            continue
        if make is not t.conductance:  # whose point is what gigabytes cost with the C library as it is
            keep_memory()
        lines += [
            f"### {name}",
            "",
            "| threads | photos | version | wall / floor | CPU / floor | ms | extra MB |",
            "| --: | --: | --- | --: | --: | --: | --: |",
        ]
        for count in threads:
            torch.set_num_threads(count)
            for size, share in shares.items():
                torch.manual_seed(0)
                found = measure(make(t.Bench(size)), max(2, round(rounds * share)))
                for version_name, (wall, cpu, milliseconds, peak) in found.items():
                    lines.append(
                        f"| {count} | {size} | {version_name} | {wall:.2f} | {cpu:.2f} | {milliseconds:.0f} "
                        f"| {peak:.0f} |"
                    )
                print(
                    f"{name}, {count} threads, {size} photos: "
                    + ", ".join(f"{k} {v[0]:.2f}" for k, v in found.items()),
                    file=sys.stderr,
                )
        lines.append("")
    return lines


# Runs a command; prints its seconds and its peak memory in MB. A process of its own, since a child starts with the peak
# of the process that it is forked from.
MEASURE = """
import resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.call(sys.argv[1:])
print("", time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
sys.exit(status)
"""


def script_table(folder: Path, rounds: int) -> list[str]:
    """Whole processes: start-up, one script, many photos, every question."""
    python = sys.executable
    photo = package_file("skimage", "data/chelsea.png")
    for i in range(400):
        (folder / f"{i:03}.png").symlink_to(photo)
    few = [str(path) for path in sorted(folder.glob("*.png"))[:25]]
    out = ["--out", str(folder / "out"), "--quiet"]
    commands = {
        "import torch, torchvision": [python, "-c", "import torch, torchvision"],
        "saliency_map.py --help": [python, "saliency_map.py", "--help"],
        "saliency_map.py": [python, "saliency_map.py", *out],
        "saliency maps of 25 photos": [python, "benchmarks/many.py", *few],
        "saliency maps of 400 photos": [python, "benchmarks/many.py", str(folder)],
        "writeup.py, every question": [python, "writeup.py", *out],
    }
    environment = {"SQUEEZENET_WEIGHTS": "bundled", **os.environ}
    data = "the course's" if all(map(course_file, COURSE_FILES)) else "the packages' and our own"
    spent = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            told = subprocess.run(
                [python, "-c", MEASURE, *command], cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE
            ).stdout
            spent[name].append([float(word) for word in told.split()[-2:]])
    lines = [
        "### whole processes",
        "",
        f"Photos and paintings: {data}.",
        "",
        "| command | s | / import | peak MB |",
        "| --- | --: | --: | --: |",
    ]
    for name, measured in spent.items():
        seconds, peak = (statistics.median(values) for values in zip(*measured, strict=True))
        base = spent["import torch, torchvision"]
        ratio = statistics.median(a / b for (a, _), (b, _) in zip(measured, base, strict=True))
        lines.append(f"| {name} | {seconds:.2f} | {ratio:.2f} | {peak:.0f} |")
    return [*lines, ""]


# Prints how many seconds each part of `writeup.py` takes; sys.argv[1] is the folder for what it makes.
PARTS = """
import collections, importlib, sys, time
sys.path.insert(0, ".")
spent, last = collections.Counter(), time.perf_counter()
def lap(part):
    global last
    spent[part] += time.perf_counter() - last
    last = time.perf_counter()
from cli.process import import_torch
import_torch()
lap("import torch, torchvision")
import writeup
def timed(name, make):
    def run(session):
        lap("network, photos, report")
        make(session)
        lap(name + ".py")
    return run
for name in dict.fromkeys(name for question in writeup.QUESTIONS if question.by_default for name in question.scripts):
    script = importlib.import_module(name)
    script.make_figures = timed(name, script.make_figures)
status = writeup.main(["--quiet", "--out", sys.argv[1]])
lap("network, photos, report")
print(*(f"{part}: {seconds}" for part, seconds in spent.items()), sep="\\n", file=sys.stderr)
sys.exit(status)
"""


def parts_table(folder: Path, rounds: int) -> list[str]:
    """Where the time of `writeup.py` goes."""
    environment = {"SQUEEZENET_WEIGHTS": "bundled", **os.environ}
    spent: dict[str, list[float]] = {}
    for _ in range(rounds):
        command = [sys.executable, "-c", PARTS, str(folder / "parts")]
        told = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stderr
        for part, seconds in (line.split(": ") for line in told.splitlines()):
            spent.setdefault(part, []).append(float(seconds))
    whole = statistics.median(sum(times) for times in zip(*spent.values(), strict=True))
    lines = ["### where the time of `writeup.py` goes", "", "| part | s | share |", "| --- | --: | --: |"]
    for part, times in spent.items():
        lines.append(f"| {part} | {statistics.median(times):.2f} | {statistics.median(times) / whole:.0%} |")
    return [*lines, ""]


# Prints the milliseconds of a saliency map, of an iteration of class visualization and of one of style transfer.
STEP_TIMES = """
import statistics, sys, time
sys.path[:0] = ["benchmarks", "."]
from cli.process import prepare_torch
if sys.argv[1] == "shared":
    prepare_torch()
import techniques as t
versions = {"saliency": 1, "class_visualization": t.STEPS, "style": t.STEPS}
for name, steps in versions.items():
    version, times = getattr(t, name)(t.Bench(1))[t.OURS], []
    version()
    for _ in range(3 if steps > 1 else 9):
        start = time.perf_counter()
        own = version()
        times.append(own[0] if isinstance(own, tuple) else time.perf_counter() - start)
    print(1000 * statistics.median(times) / steps)
"""


def busy_table(rounds: int) -> list[str]:
    """Techniques alone and beside two busy processes, with torch's own waiting and with shared cores."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    load = f"Load before: {os.getloadavg()[0]:.1f}. Milliseconds for one photo or an iteration, medians; in brackets "
    lines = ["### beside two busy processes", "", f"{load}the ratio to torch's own on the quiet machine.", ""]
    lines += ["| busy | cores | saliency | class visualization | style transfer |", "| --: | --- | --: | --: | --: |"]
    base = None
    for others in (0, 2):
        spent: dict[str, list[list[float]]] = {"as torch has it": [], "shared": []}
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
        try:
            for _ in range(rounds):
                for name, seen in spent.items():
                    command = [sys.executable, "-c", STEP_TIMES, name]
                    told = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE).stdout
                    seen.append([float(word) for word in told.split()])
        finally:
            for process in busy:
                process.kill()
        for name, seen in spent.items():
            found = [statistics.median(values) for values in zip(*seen, strict=True)]
            base = base or found
            cells = " | ".join(f"{ms:.1f} ({ms / quiet:.2f})" for ms, quiet in zip(found, base, strict=True))
            lines.append(f"| {others or 'none'} | {name} | {cells} |")
    return [*lines, ""]


def machine() -> list[str]:
    """Say what was measured on, and with which versions."""
    model = "unknown processor"
    if Path("/proc/cpuinfo").exists():
        info = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), model)
    versions = []
    for package in ("torch", "torchvision", "captum", "numpy", "matplotlib", "pillow", "grad-cam", "torchcam"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} not installed")
    return [
        f"{platform.system()}, {os.cpu_count()} cores ({model}), Python {platform.python_version()}; "
        + ", ".join(versions)
        + ".",
        "",
    ]


def main() -> int:
    """Measure, and write the results. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default: 1 2)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each comparison (default: 15)")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="techniques with this word in their name")
    parser.add_argument("--no-scripts", action="store_true", help="leave out the whole processes")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "RESULTS.md", help="the file to write")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = [
        "# Results",
        "",
        "Made by `python benchmarks/run.py`: medians, the ratios round by round; its head says "
        "what the floor is. Smaller is better.",
        "",
        *machine(),
    ]
    lines += tables(options.threads, options.rounds, options.only)
    if not options.no_scripts:
        with tempfile.TemporaryDirectory() as folder:
            lines += script_table(Path(folder), max(3, options.rounds // 5))
            lines += parts_table(Path(folder), max(1, options.rounds // 5))
        lines += busy_table(max(1, options.rounds // 5))
    options.output.write_text("\n".join(lines).rstrip() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
