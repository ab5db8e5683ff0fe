"""Alternates ours and theirs on the same inputs, after their results have been compared. Called by run.py."""
import argparse
import dataclasses
import json
import pathlib
import platform
import statistics
import subprocess
import sys
import time
import warnings
from importlib.metadata import version

import torch
from safetensors.torch import load_file, save_file

from candidates import work_of
from cases import DTYPES, dpo_cases, logits_cases
from ours import Measure
from report import write

# How far a result may be from that in f64, relative to its norm. A half-precision result is rounded at least once, and
# its upstream gradient once as well.
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
HERE = pathlib.Path(__file__).resolve().parent


def errors(answer, exact, computed_in=None):
    """Relative to the norm of what is exact, for each part of the answer; refused where it is too far. Results tell by
    their format what they were computed in, unless they were widened to be handed over."""
    found = {}
    for part, right in exact.items():
        given = answer[part].reshape(-1) if right.dim() == 0 else answer[part][: len(right)]
        error = ((given.double() - right).norm() / right.norm()).item()
        if not error <= BOUNDS[computed_in or given.dtype]:
            raise ValueError(f"{part} is off by {error:.1e}")
        found[part] = error
    return found


def clocked(function, repeats):
    """The median time of a call, without that of dropping what it returns."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        answer = function()
        seconds.append(time.perf_counter() - started)
        del answer
    return statistics.median(seconds)


class Peer:
    """A candidate that lives in this process. Like `measure`, it does the work once before it is timed."""

    ours = False

    def __init__(self, name, function, work):
        self.name, self.function, self.work = name, function, work

    def check(self, case, folder, exact, threads):
        return {"errors": errors(self.work.forward_backward(self.function), exact)}

    def seconds(self, case, folder):
        passes = [lambda: self.work.forward(self.function), lambda: self.work.forward_backward(self.function)]
        for warm_up in passes:
            warm_up()
        return tuple(clocked(timed, case.repeats) for timed in passes)


class Ours:
    ours = True

    def __init__(self, implementation, executable, work, threads):
        self.name = f"burn-dpo, {implementation}" if implementation != "naive" else "burn log_softmax + gather"
        self.measure, self.work = Measure(executable, implementation, threads), work

    def check(self, case, folder, exact, threads):
        outputs, printed = self.measure.answer(case, folder)
        if printed["threads"] != threads:
            raise ValueError(f"{printed['threads']} threads")
        computed_in = DTYPES[case.dtype] if self.measure.implementation == "naive" else None
        found = errors(self.work.of_ours(outputs), exact, computed_in)
        return {"errors": found, "peak_extra_bytes": printed["peak_extra_bytes"]}

    def seconds(self, case, folder):
        return self.measure.seconds(case, folder)


class Floor:
    ours = False

    def __init__(self, work):
        (forward, self.forward), (both, self.forward_backward) = work.floors()
        self.name = f"floor: {forward}; {both}"

    def seconds(self, case, folder):
        passes = [self.forward, self.forward_backward]
        for warm_up in passes:
            warm_up()
        return tuple(clocked(timed, case.repeats) for timed in passes)


def peaks_of_peers(case, folder, threads):
    """By name; nothing where memory cannot be asked for."""
    arguments = [json.dumps(dataclasses.asdict(case)), folder / "inputs.safetensors", str(threads)]
    run = subprocess.run([sys.executable, HERE / "memory.py", *arguments], stdout=subprocess.PIPE, text=True)
    return json.loads(run.stdout.splitlines()[-1]) if run.returncode == 0 else {}


def compare(case, args):
    """The rows of one table: every contestant that gives the right answer, with its times and its memory."""
    torch._dynamo.reset()
    folder = args.scratch
    folder.mkdir(parents=True, exist_ok=True)
    save_file(case.inputs(), folder / "inputs.safetensors")
    work = work_of(case, load_file(folder / "inputs.safetensors"))
    exact = work.exact()

    contestants = [Ours(name, args.measure, work, args.threads) for name in args.implementations.split(",")]
    contestants += [Peer(name, function, work) for name, function in work.candidates.items()]
    rows, failed = [], {}
    for contestant in contestants:
        try:
            checked = contestant.check(case, folder, exact, args.threads)
            rows.append((contestant, checked))
        except Exception as reason:  # whatever it is that does not work here, the others are compared
            failed[contestant.name] = f"{type(reason).__name__}: {str(reason).splitlines()[0][:200] if str(reason) else ''}"
            print(f"  {contestant.name}: {failed[contestant.name]}", flush=True)
    del exact
    for name, peak in peaks_of_peers(case, folder, args.threads).items():
        for _, checked in (row for row in rows if row[0].name == name):
            checked["peak_extra_bytes"] = peak
    rows.append((Floor(work), {"floor": True}))

    times = {contestant.name: ([], []) for contestant, _ in rows}
    for turn in range(args.rounds):
        for contestant, _ in rows[turn % len(rows) :] + rows[: turn % len(rows)]:
            for kept, seconds in zip(times[contestant.name], contestant.seconds(case, folder)):
                kept.append(seconds)
    described = [
        {"name": contestant.name, "ours": contestant.ours}
        | checked
        | dict(zip(("forward_s", "forward_backward_s"), times[contestant.name]))
        for contestant, checked in rows
    ]
    return dataclasses.asdict(case) | {"name": case.name, "contestants": described, "failed": failed}


def machine(args):
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    packages = {name: version(name) for name in ("torch", "trl", "liger-kernel")}
    instructions = torch.backends.cpu.get_cpu_capability()
    return {"cpu": cpu, "architecture": platform.machine(), "instructions": instructions, "threads": args.threads} | packages


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for path in ("--measure", "--out", "--scratch"):
        parser.add_argument(path, type=pathlib.Path, required=True)
    for number in ("--rounds", "--threads"):
        parser.add_argument(number, type=int, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--implementations", default="fast")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # "compiled" must mean that
    warnings.filterwarnings("ignore")
    results = {"machine": machine(args), "rounds": args.rounds, "cases": []}
    for case in logits_cases(args.quick) + dpo_cases(args.quick):
        if args.only in case.name:
            print(case.name, flush=True)
            results["cases"].append(compare(case, args))
            write(results, args.out)
    return any(contestant for case in results["cases"] for contestant in case["failed"])


if __name__ == "__main__":
    sys.exit(main())
