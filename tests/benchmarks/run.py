"""sklm against other packages: seconds until a training loss is reached, by seeds; one command for all.

    python tests/benchmarks/run.py                                  # everything: about 20 minutes on one core
    python tests/benchmarks/run.py --contests sinc --seeds 1 --no-write
    taskset -c 0 python tests/benchmarks/run.py --clock processor   # on one core that is shared with other work

Writes every number to docs/rivals.json and replaces the tables in docs/benchmarks.md. Rivals come with
``pip install sklm[bench]``; one that is not there is listed as not installed. Rows of the file that a command does not
run again are kept if they were measured in the same environment, so that the work can be cut into pieces.

Everybody gets the same seconds for a seed, and starts again until the error is reached or they are over. Time is that
of training, without imports, data, judging and the compilation by jax, which is given apart. Problems are in
``contests.py``, settings in ``rivals.py``.
"""

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import re
import statistics
import sys
import time
import warnings
from dataclasses import replace

import torch
from contests import CONTESTS, Over, Watch, contest
from rivals import EVERYBODY, installed, rivals_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- made by tests/benchmarks/run.py: begin -->", "<!-- end -->"
PACKAGES = ["torch", "numpy", "scipy", "scikit-learn", "torch-levenberg-marquardt", "jax", "optimistix", "jaxopt"]
#: whose times the others' are multiples of
REFERENCES = ("LMRegressor(alpha=0)", "LMClassifier(alpha=0)")

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def processor():
    """The model's name; of one that only says what family it is, with family and model number."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in lines if ":" in line)
    names = [fields.get(key, "?") for key in ("model name", "cpu family", "model")]
    return "{} (family {}, model {})".format(*names)


def environment():
    """What the figures depend on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": processor(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def race(problem, name, seed, clock=time.perf_counter):
    """One rival on one seed, as a record."""
    watch = Watch(problem.target, problem.limit, clock)
    try:
        EVERYBODY[name][0](problem, seed, watch)
    except Over:
        return {"seed": seed, **watch.result(watch.seconds)}
    raise AssertionError("runners end by Over")


def measure(contests, rivals, seeds, limit=None, clock=time.perf_counter):
    """Yield a record of every contest and rival, whose first half second of every contest does not count."""
    for title in contests:
        problem = contest(title)
        problem = problem if limit is None else replace(problem, limit=limit)
        for name in rivals_of(problem):
            if name not in rivals:
                continue
            record = {"contest": title, "title": problem.title, "limit": problem.limit, "rival": name}
            record["loss"] = problem.loss
            record["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
            record["installed"] = installed(name)
            if record["installed"]:
                race(replace(problem, limit=0.5), name, 99)  # what a package does at its first call
                record["runs"] = [race(problem, name, seed, clock) for seed in range(seeds)]
            yield record


def spread(values, digits):
    """Median and range; None counts as endless."""
    values = sorted(math.inf if value is None else value for value in values)
    low, middle, high = (
        f"{value:.{digits}}" if math.isfinite(value) else "-"
        for value in (values[0], statistics.median_high(values), values[-1])
    )
    return f"{middle} ({low} to {high})"


def median_seconds(record):
    return statistics.median_high(math.inf if r["seconds"] is None else r["seconds"] for r in record.get("runs", []))


def table(records):
    """Markdown of all records, a table a contest; times as multiples of the first rival's, too."""
    parts = []
    for title in dict.fromkeys(record["title"] for record in records):
        rows = [record for record in records if record["title"] == title]
        reference = next((median_seconds(r) for r in rows if r["rival"] in REFERENCES), math.inf)
        loss = rows[0].get("loss", "mean squared error")
        parts.append(f"**{title}**, {rows[0]['limit']:g} s a seed.\n")
        parts.append(f"| | s to the target | ratio | reached | {loss} at the end | starts | compiling, s |")
        parts.append("|---|---|---|---|---|---|---|")
        for record in rows:
            if not record["installed"]:
                parts.append(f"| {record['rival']} | not installed | | | | | |")
                continue
            runs, seconds = record["runs"], median_seconds(record)
            least = "" if math.isfinite(seconds) else "more than "
            ratio = "" if math.isinf(reference) else f"{least}{min(seconds, record['limit']) / reference:.2g}"
            compilation = max(run["compilation"] for run in runs)
            parts.append(
                f"| {record['rival']} | {spread([r['seconds'] for r in runs], '2g')} | {ratio} "
                f"| {sum(r['seconds'] is not None for r in runs)} of {len(runs)} "
                f"| {spread([r['error'] for r in runs], '3g')} | {spread([r['starts'] for r in runs], '3g')} "
                f"| {f'{compilation:.1f}' if compilation else ''} |"
            )
        parts.append("")
    return "\n".join(parts)


def sentence(environment, records):
    """Where, when and with what."""
    dates = sorted({record["date"] for record in records})
    versions = ", ".join(f"{name} {value}" for name, value in environment["versions"].items())
    return (
        f"{environment['processor']}, {environment['cores']} core(s) used, {environment['threads']} thread(s), "
        f"{environment['clock']} time, Python "
        f"{environment['python']}, {versions}; {' to '.join(sorted({dates[0], dates[-1]}))}."
    )


def merged(old, new):
    """Records of a file, those of the same contest and rival replaced, in the order of contests and rivals."""
    places = {(record["contest"], record["rival"]): record for record in [*old, *new]}
    order = [(title, name) for title in CONTESTS for name in EVERYBODY]
    return [places[key] for key in order if key in places]


def replace_block(text, block):
    """Text with what is between the two marks replaced."""
    before, mark, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"The page has no block between {BEGIN!r} and {END!r}.")
    return f"{before}{BEGIN}\n\n{block}\n{END}{after}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--contests", nargs="+", default=CONTESTS, choices=CONTESTS)
    parser.add_argument("--rivals", nargs="+", default=list(EVERYBODY), choices=list(EVERYBODY))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=None, help="seconds a seed, not 20 (sinc), 10 (classes) or 4")
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    parser.add_argument("--file", type=pathlib.Path, default=ROOT / "docs" / "rivals.json")
    parser.add_argument("--page", type=pathlib.Path, default=ROOT / "docs" / "benchmarks.md")
    parser.add_argument("--no-write", action="store_true", help="print the tables, write nothing")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    here, records = {**environment(), "clock": args.clock}, []
    for record in measure(args.contests, args.rivals, args.seeds, args.limit, CLOCKS[args.clock]):
        records.append(record)
        print(json.dumps(record), file=sys.stderr, flush=True)
    if not args.no_write and args.file.exists():
        before = json.loads(args.file.read_text())
        if before["environment"] == here:
            records = merged(before["records"], records)
    records = merged([], records)
    text = f"{sentence(here, records)}\n\n{table(records)}"
    print(text)
    if not args.no_write:
        args.file.write_text(json.dumps({"environment": here, "records": records}, indent=1) + "\n")
        args.page.write_text(replace_block(args.page.read_text(), text))
