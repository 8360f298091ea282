"""Compare every technique, the libraries, a textbook version and the floor, in one process.

    pip install -r benchmarks/requirements.txt
    python benchmarks/run.py
    python benchmarks/run.py --device cuda

The floor is one forward and one backward pass to the input through the whole frozen network in
channels-last layout; for Grad-CAM the forward pass and the backward pass down to the layer; for
style transfer forward and backward through the layers that are needed, and the Adam step. The
labelled class's floor evaluates one of the classifier's 1000 classes per photo, all that a map
needs. The versions take turns, in each round in another order; what counts is the median over the
rounds of the ratio to the floor of the same round. Python's garbage collector is off meanwhile, as
in `timeit`. Except for conductance, the C library is told to keep the memory that is freed:
otherwise chance decides which version has to get it anew, page by page, from the system. On a GPU
all versions compute in full float32, the same bits each time, as this project does; the floor and
Captum are there a second time as they come (TF32).
"""

import argparse
import ctypes
import gc
import os
import platform
import random
import statistics
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import techniques as t  # noqa: E402
import torch  # noqa: E402

# name → versions, number of photos → rounds as a share of those asked for: the shorter a run, the
# more chance is in it
PHOTOS = {1: 8, 5: 2, 25: 1}
CUDA_PHOTOS = {5: 2, 25: 2, 200: 1}
TECHNIQUES = {
    # The first, before `keep_memory`
    "conductance (floor: all at once)": (t.conductance, {5: 0.2}),
    "saliency": (t.saliency, PHOTOS),
    "guided backprop": (t.guided_backprop, PHOTOS),
    "Grad-CAM": (t.grad_cam, PHOTOS),
    "Guided Grad-CAM": (t.guided_grad_cam, PHOTOS),
    "fooling, a step": (t.fooling, {1: 1}),
    "class visualization, a step": (t.class_visualization, {1: 1}),
    "style transfer, an iteration": (t.style, {1: 1}),
}


def measure(
    versions: dict[str, t.Version], rounds: int
) -> dict[str, tuple[float, float, float, float]]:
    """Run the versions in turns: name → median ratio of wall and CPU time, median ms, peak MB."""
    peaks = {name: peak_memory(run) for name, run in versions.items()}  # warms up, too
    times = {name: [] for name in versions}
    gc.disable()
    for _ in range(rounds):
        for name in random.sample(list(versions), len(versions)):
            before = t.now()
            own = versions[name]()
            spent = tuple(z - a for a, z in zip(before, t.now(), strict=True))
            times[name].append(own if isinstance(own, tuple) and len(own) == 2 else spent)
    gc.enable()

    def ratio(name: str, kind: int) -> float:
        pairs = zip(times[name], times[t.FLOOR], strict=True)
        return statistics.median(mine[kind] / floor[kind] for mine, floor in pairs)

    return {
        name: (
            ratio(name, 0),
            ratio(name, 1),
            1000 * statistics.median(t[0] for t in times[name]),
            peaks[name],
        )
        for name in versions
    }


def keep_memory() -> None:
    """Have glibc neither map large blocks anew each time nor give back what is freed."""
    if Path("/proc/self/clear_refs").exists():
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def peak_memory(run: t.Version) -> float:
    """Return the extra MB at the peak of a run: a GPU's, else resident ones; 0 but on Linux."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - allocated) / 2**20
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
    return next(
        int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field)
    )


def tables(threads: list[int], rounds: int, only: list[str], device: str) -> list[str]:
    """Measure, and return the tables as lines of Markdown."""
    lines, digits = [], 1 if device == "cuda" else 0
    for name, (make, shares) in TECHNIQUES.items():
        if only and not any(word in name for word in only):
            continue
        if device == "cuda" and shares is PHOTOS:
            shares = CUDA_PHOTOS
        # Whose point is what gigabytes cost with the C library as it is
        if make is not t.conductance:
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
                versions = make(t.Bench(size, device))
                if device == "cuda":
                    versions.pop(t.TEXTBOOK, None)  # NumPy's and SciPy's steps are a CPU's
                    versions = t.in_full_precision(versions)
                found = measure(versions, max(2, round(rounds * share)))
                for version_name, (wall, cpu, milliseconds, peak) in found.items():
                    lines.append(
                        f"| {count} | {size} | {version_name} | {wall:.2f} | {cpu:.2f} | "
                        f"{milliseconds:.{digits}f} | {peak:.0f} |"
                    )
                print(
                    f"{name}, {count} threads, {size} photos: "
                    + ", ".join(f"{k} {v[0]:.2f}" for k, v in found.items()),
                    file=sys.stderr,
                )
        lines.append("")
    return lines


def loop_table(device: str, only: list[str]) -> list[str]:
    """Measure the long loops whole, each the second time, and return their table."""
    lines = ["### whole loops", "", "| loop | s | extra MB |", "| --- | --: | --: |"]
    for name, run in t.loops(device).items():
        if not only or any(word in name for word in only):
            peak = peak_memory(run)  # warms up, too
            start, _ = t.now()
            run()
            lines.append(f"| {name} | {t.now()[0] - start:.2f} | {peak:.0f} |")
    return lines


def machine() -> list[str]:
    """Say what was measured on, and with which versions."""
    model = "unknown processor"
    if Path("/proc/cpuinfo").exists():
        info = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            (line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), model
        )
    versions = []
    for package in (
        "torch",
        "torchvision",
        "captum",
        "numpy",
        "matplotlib",
        "pillow",
        "grad-cam",
        "torchcam",
    ):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} not installed")
    return [
        f"{platform.system()}, {os.cpu_count()} cores ({model}), Python "
        f"{platform.python_version()}; " + ", ".join(versions) + ".",
        "",
    ]


def main() -> int:
    """Measure, and write the results. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default: 1 2)"
    )
    parser.add_argument(
        "--rounds", type=int, default=15, help="rounds of each comparison (default: 15)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="WORD",
        help="techniques with this word in their name",
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "benchmarks" / "RESULTS.md", help="the file to write"
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="what to measure (default: cpu)"
    )
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA GPU here")
    warnings.simplefilter("ignore")
    lines = [
        "# Results",
        "",
        f"Made by `python benchmarks/run.py --device {options.device}`: medians, the ratios round "
        "by round; its head says what the floor is. Smaller is better.",
        "",
        *machine(),
    ]
    if options.device == "cuda":
        lines += [torch.cuda.get_device_name(), ""]
        lines += tables([1], options.rounds, options.only, "cuda")
        lines += loop_table("cuda", options.only)
    else:
        lines += tables(options.threads, options.rounds, options.only, "cpu")
    options.output.write_text("\n".join(lines).rstrip() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
