"""How long each part takes, beside what the machine could do: `make bench`.

    python benchmarks/bench.py [--threads 1 2] [--cases NAME ...] [--out FOLDER] [--accept]
    python benchmarks/bench.py --against REFERENCE [--threads 1 2] [--cases NAME ...] [--rounds 3]

Each case runs in a process of its own, one after the other, after a warm-up. The machine's ceilings
are measured first: products of matrices in float32 and bfloat16, copies of memory. A case's floor
is the time its unavoidable work would take at the ceiling, or does take where that can be timed by
itself; the ratio of both is what `ratios.json` keeps, and a ratio that has grown by more than a
third fails. Seconds depend on the machine, ratios hardly do; of one thread a ratio to a timed floor
is of processor time. Peak memory is that of the warm-up, of all processes that take part. The
released code's seconds are shown where its timings lie beside the checkout. With `--against` each
case runs by turns with the code of another commit instead, N times each, by the cases of this one.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from cases import CASES as MADE
from cases import Stopwatch
from cyclopts import App, Parameter
from paired import by_turns, checked_out
from photograph_cases import PHOTOGRAPH_CASES, missing_photographs
from tree_memory import peak_mb

CASES = {**MADE, **PHOTOGRAPH_CASES}
ROOT = Path(__file__).resolve().parents[1]
RATIOS = ROOT / "benchmarks" / "ratios.json"
RELEASED = ROOT.parent / "shared" / "golden" / "timings.json"
TOLERANCE = 4 / 3
FOREIGN_LIMIT = 0.05
MATRIX, COPIED = 2048, 2**26

Several = Parameter(consume_multiple=True, negative="")

app = App(help=__doc__)


@app.default
def main(
    *,
    threads: Annotated[tuple[int, ...], Several] = (1, 2),
    cases: Annotated[tuple[str, ...], Several] = (),
    out: Path = Path("runs/bench"),
    accept: bool = False,
    against: str | None = None,
    rounds: int = 3,
) -> int:
    """Measures and prints the tables; 1 if a ratio has grown, 2 for a mistake.

    Args:
        threads: Numbers of threads.
        cases: Names; all if none is given.
        out: Folder for bench.json and bench.md.
        accept: Write the ratios as those to compare with, instead of comparing.
        against: A commit, tag or branch to compare with; nothing is written then.
        rounds: How often both are measured.
    """
    unknown = [name for name in cases if name not in CASES]
    if unknown:
        print(f"--cases must be of {', '.join(CASES)}; got {', '.join(unknown)}", file=sys.stderr)
        return 2
    missing = missing_photographs()
    if missing is not None:
        print(f"cases on photographs are left out: {missing}", file=sys.stderr)
    chosen = [name for name in cases or CASES if missing is None or name not in PHOTOGRAPH_CASES]
    if against is not None:
        return _against(against, chosen, threads, rounds)
    results = []
    for count in threads:
        ceilings = _child("ceilings", count)
        print(_ceilings_line(ceilings, count), flush=True)
        for name in chosen:
            row = {"case": name, "threads": count, **_child(name, count)}
            row |= _compared(row, ceilings)
            results.append(row)
            print(_line(row), flush=True)
    report = {"machine": _machine(), "results": results}
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (out / "bench.md").write_text(_markdown(report), encoding="utf-8")
    print(f"{out / 'bench.md'}")
    known = json.loads(RATIOS.read_text(encoding="utf-8")) if RATIOS.is_file() else {}
    found = {_key(row): round(row["ratio"], 2) for row in results if row["ratio"] is not None}
    if accept:
        RATIOS.write_text(json.dumps({**known, **found}, indent=1) + "\n", encoding="utf-8")
        return 0
    slower = {key for key in found.keys() & known.keys() if found[key] > TOLERANCE * known[key]}
    for key in sorted(slower):
        print(f"slower: {key} takes {found[key]} times its floor, it took {known[key]} times")
    return 1 if slower else 0


def _against(reference: str, cases: Sequence[str], threads: Sequence[int], rounds: int) -> int:
    """Prints a table of this code beside another commit's; 1 if a case failed, 2 for a mistake."""
    failed = 0
    # Or the worktree would stay.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with checked_out(ROOT, reference) as there:
            if not (there / "src" / "soloist").is_dir():
                # What is installed would be measured instead.
                raise ValueError(f"{reference} has no src/soloist to measure")
            print(f"| what | threads | ms | {reference}, ms | ratio | of pairs |")
            print("|---" * 6 + "|", flush=True)
            for count in threads:
                for name in cases:
                    try:
                        pairs = by_turns(partial(_seconds, name, count), ROOT, there, rounds)
                    except subprocess.CalledProcessError:
                        # Its own message is above.
                        print(f"{name} is left out: it failed", file=sys.stderr)
                        failed = 1
                        continue
                    cells = [CASES[name].says, str(count), *pairs.cells()]
                    print("| " + " | ".join(cells) + " |", flush=True)
    except ValueError as error:
        print(f"--against: {error}", file=sys.stderr)
        return 2
    return failed


def _seconds(name: str, threads: int, checkout: Path) -> float:
    """Median of a case with the code of a checkout."""
    return float(_child(name, threads, checkout)["seconds"])


@app.command
def measure(name: str, threads: int) -> None:
    """Measures one case, or the ceilings, in this process; prints JSON."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    result = _ceilings() if name == "ceilings" else _case(name)
    print(json.dumps(result))


def _case(name: str) -> dict[str, Any]:
    case = CASES[name]
    prepared = case.prepare()

    def warm_up() -> None:
        for _ in range(case.warm_ups):
            prepared.repeat(Stopwatch())

    # Not while the clock runs: looking at a process's memory makes it wait.
    peak = peak_mb(warm_up, started_only=prepared.elsewhere)
    if prepared.floor is not None:
        prepared.floor()
    seconds, own, parts, floors, own_floors = [], [], [], [], []
    before = _busy()
    begin = time.perf_counter()
    own_before = _own_seconds()
    for _ in range(case.repeats):
        if prepared.floor is not None:
            start, start_own = time.perf_counter(), _own_seconds()
            prepared.floor()
            floors.append(time.perf_counter() - start)
            own_floors.append(_own_seconds() - start_own)
        watch = Stopwatch()
        start, start_own = time.perf_counter(), _own_seconds()
        prepared.repeat(watch)
        seconds.append(time.perf_counter() - start)
        own.append(_own_seconds() - start_own)
        parts.append(watch.parts)
    foreign = _foreign(before, own_before, begin)
    return {
        "seconds": statistics.median(seconds),
        "least": min(seconds),
        "most": max(seconds),
        "processor_seconds": statistics.median(own),
        "parts": {key: statistics.median(part[key] for part in parts) for key in parts[0]},
        "work": prepared.work,
        "ceiling": prepared.ceiling,
        "floor": statistics.median(floors) if floors else None,
        "floor_processor_seconds": statistics.median(own_floors) if floors else None,
        "peak_mb": peak,
        "foreign": foreign,
    }


def _ceilings() -> dict[str, float]:
    """Operations or bytes a second."""
    matrix = torch.randn(MATRIX, MATRIX)
    half = matrix.bfloat16()
    source, target = torch.ones(COPIED), torch.empty(COPIED)
    operations = 2 * MATRIX**3
    return {
        "float32 products": operations / _best(lambda: matrix @ matrix),
        "bfloat16 products": operations / _best(lambda: half @ half),
        "memory copies": 4 * COPIED / _best(lambda: target.copy_(source)),
    }


def _best(run: Any) -> float:
    run()
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _child(name: str, threads: int, checkout: Path = ROOT) -> dict[str, Any]:
    """What a process of its own measures, with the code of a checkout."""
    command = [sys.executable, __file__, "measure", name, str(threads)]
    # It wins over what is installed.
    path = os.pathsep.join(filter(None, [str(checkout / "src"), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _compared(row: Mapping[str, Any], ceilings: Mapping[str, float]) -> dict[str, Any]:
    """A row's floor and ratio, and the released code's seconds."""
    floor = row["floor"]
    if row["ceiling"] == "backbone":
        floor = row["parts"]["backbone"]
    elif row["ceiling"] is not None:
        floor = row["work"] / ceilings[row["ceiling"]]
    ratio = None if floor is None else row["seconds"] / floor
    if row["threads"] == 1 and row["floor_processor_seconds"] is not None:
        # What other programs hardly change; with more threads it counts how long they wait.
        ratio = row["processor_seconds"] / row["floor_processor_seconds"]
    released = _released(CASES[row["case"]].released, row["threads"])
    return {
        "floor": floor,
        "ratio": ratio,
        "released": released,
        "times_faster": None if released is None else released / row["seconds"],
    }


def _released(names: Sequence[str], threads: int) -> float | None:
    """The released code's seconds on a machine of this kind, while nothing else ran."""
    if not names or not RELEASED.is_file():
        return None
    timings = json.loads(RELEASED.read_text(encoding="utf-8"))["results"]
    found = {row["name"]: row["quiet_wall_median"] for row in timings if row["threads"] == threads}
    return sum(found[name] for name in names) if all(name in found for name in names) else None


def _own_seconds() -> float:
    """Processor time of this process and of those that it started and that have ended."""
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(one)[:2]) for one in both)


def _busy() -> float | None:
    """Seconds all processors have worked since the machine began; None where that is unknown."""
    path = Path("/proc/stat")
    if not path.is_file():
        return None
    user, nice, system, *_ = map(int, path.read_text().splitlines()[0].split()[1:])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def _foreign(before: float | None, own_before: float, begin: float) -> float | None:
    """Processors that other programs kept busy meanwhile."""
    now = _busy()
    if before is None or now is None:
        return None
    others = (now - before) - (_own_seconds() - own_before)
    return max(0.0, others / (time.perf_counter() - begin))


def _machine() -> dict[str, Any]:
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        )
        if Path("/proc/cpuinfo").is_file()
        else iter([platform.processor()]),
        "unknown",
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def _key(row: Mapping[str, Any]) -> str:
    return f"{row['case']}, {row['threads']} threads"


def _line(row: Mapping[str, Any]) -> str:
    return "| " + " | ".join(_cells(row)) + " |"


def _cells(row: Mapping[str, Any]) -> list[str]:
    def number(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    spread = f"{1e3 * row['least']:.1f} to {1e3 * row['most']:.1f}"
    parts = ", ".join(
        f"{name} {value / row['seconds']:.0%}" for name, value in row["parts"].items()
    )
    foreign = row["foreign"] or 0.0
    return [
        CASES[row["case"]].says + (" (machine not idle)" if foreign > FOREIGN_LIMIT else ""),
        str(row["threads"]),
        f"{1e3 * row['seconds']:.1f}",
        spread,
        number(None if row["floor"] is None else 1e3 * row["floor"], 1),
        number(row["ratio"], 2),
        number(None if row["released"] is None else 1e3 * row["released"], 1),
        number(row["times_faster"], 2),
        f"{row['peak_mb']:.0f}",
        parts or "–",
    ]


def _markdown(report: Mapping[str, Any]) -> str:
    heads = [
        "what",
        "threads",
        "ms",
        "least to most",
        "floor, ms",
        "ratio",
        "released code, ms",
        "times faster",
        "peak MB",
        "shares",
    ]
    lines = [
        ", ".join(f"{name} {value}" for name, value in report["machine"].items()),
        "",
        "| " + " | ".join(heads) + " |",
        "|---" * len(heads) + "|",
        *(_line(row) for row in report["results"]),
    ]
    return "\n".join(lines) + "\n"


def _ceilings_line(ceilings: Mapping[str, float], threads: int) -> str:
    shown = ", ".join(f"{name} {value / 1e9:.0f} G/s" for name, value in ceilings.items())
    return f"{threads} threads: {shown}"


if __name__ == "__main__":
    sys.exit(app())
