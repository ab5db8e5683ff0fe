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
from devices import described, finish, moved, release
from ours import Measure
from report import write

# How far a result may be from that in f64, relative to its norm. A half-precision result is rounded at least once, and
# its upstream gradient once as well.
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
# From 16-bit hidden states, or where a GPU multiplies f32 as TF32, logits are rounded before they are summed up over a
# sequence, and then policy and reference cancel.
BOUND_OF_ROUNDED_LOGITS = 2.0**-5
HERE = pathlib.Path(__file__).resolve().parent


def errors(case, answer, exact, computed_in=None):
    """Relative to the norm of what is exact, for each part of the answer; refused where it is too far. Results tell by
    their format what they were computed in, unless they were widened to be handed over."""
    found = {}
    for part, right in exact.items():
        has_rounded_logits = case.work == "dpo" and (case.dtype != "f32" or right.is_cuda)
        given = answer[part].reshape(-1) if right.dim() == 0 else answer[part][: len(right)]
        error = ((given.to(right.device).double() - right).norm() / right.norm()).item()
        if not error <= (BOUND_OF_ROUNDED_LOGITS if has_rounded_logits else BOUNDS[computed_in or given.dtype]):
            raise ValueError(f"{part} is off by {error:.1e}")
        found[part] = error
    return found


def clocked(function, repeats, device, start=lambda: None):
    """The median time of a call, without that of making what it starts from and of dropping what it returns."""
    seconds = []
    for _ in range(repeats):
        given = start()
        finish(device)
        started = time.perf_counter()
        answer = function(given)
        finish(device)
        seconds.append(time.perf_counter() - started)
        del answer, given
    return statistics.median(seconds)


class Peer:
    """A candidate that lives in this process. Like `measure`, it does the work once before it is timed."""

    ours = False

    def __init__(self, name, function, work, device):
        self.name, self.function, self.work, self.device = name, function, work, device

    def check(self, case, folder, exact, threads):
        return {"errors": errors(case, self.work.forward_backward(self.function, self.work.start(self.function)), exact)}

    def seconds(self, case, folder):
        start = lambda: self.work.start(self.function)
        forward = lambda _: self.work.forward(self.function)
        both = lambda start: self.work.forward_backward(self.function, start)
        forward(None), both(start())
        return clocked(forward, case.repeats, self.device), clocked(both, case.repeats, self.device, start)


class Ours:
    ours = True

    def __init__(self, implementation, executable, work, threads, device):
        self.name = f"burn-dpo, {implementation}" if implementation != "naive" else "burn log_softmax + gather"
        self.measure, self.work, self.device = Measure(executable, implementation, threads, device), work, device

    def check(self, case, folder, exact, threads):
        release(self.device)
        outputs, printed = self.measure.answer(case, folder)
        if printed["threads"] != threads:
            raise ValueError(f"{printed['threads']} threads")
        computed_in = DTYPES[case.dtype] if self.measure.implementation == "naive" else None
        found = errors(case, self.work.of_ours(outputs), exact, computed_in)
        return {"errors": found, "peak_extra_bytes": printed["peak_extra_bytes"]}

    def seconds(self, case, folder):
        release(self.device)
        return self.measure.seconds(case, folder)


class Floor:
    ours = False

    def __init__(self, work, device):
        (forward, self.forward), (both, self.forward_backward) = work.floors()
        self.device = device
        self.name = f"floor: {forward}; {both}"

    def seconds(self, case, folder):
        passes = [self.forward, self.forward_backward]
        for warm_up in passes:
            warm_up()
        return tuple(clocked(lambda _: timed(), case.repeats, self.device) for timed in passes)


def peaks_of_peers(case, folder, threads, device):
    """By name; nothing where memory cannot be asked for."""
    arguments = [json.dumps(dataclasses.asdict(case)), folder / "inputs.safetensors", str(threads), device]
    run = subprocess.run([sys.executable, HERE / "memory.py", *arguments], stdout=subprocess.PIPE, text=True)
    return json.loads(run.stdout.splitlines()[-1]) if run.returncode == 0 else {}


def compare(case, args):
    """The rows of one table: every contestant that gives the right answer, with its times and its memory."""
    torch._dynamo.reset()
    folder = args.scratch
    folder.mkdir(parents=True, exist_ok=True)
    save_file(case.inputs(), folder / "inputs.safetensors")
    work = work_of(case, moved(load_file(folder / "inputs.safetensors"), args.device))
    exact = work.exact()

    ours = args.implementations.split(",")
    contestants = [Ours(name, args.measure, work, args.threads, args.device) for name in ours]
    contestants += [Peer(name, function, work, args.device) for name, function in work.candidates.items()]
    rows, failed = [], {}
    for contestant in contestants:
        try:
            checked = contestant.check(case, folder, exact, args.threads)
            rows.append((contestant, checked))
        except Exception as reason:  # whatever it is that does not work here, the others are compared
            failed[contestant.name] = f"{type(reason).__name__}: {str(reason).splitlines()[0][:200] if str(reason) else ''}"
            print(f"  {contestant.name}: {failed[contestant.name]}", flush=True)
    del exact
    release(args.device)
    for name, peak in peaks_of_peers(case, folder, args.threads, args.device).items():
        for _, checked in (row for row in rows if row[0].name == name):
            checked["peak_extra_bytes"] = peak
    rows.append((Floor(work, args.device), {"floor": True}))

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
    cpu = {"cpu": cpu, "architecture": platform.machine(), "instructions": instructions, "threads": args.threads}
    return cpu | packages | described(args.device)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for path in ("--measure", "--out", "--scratch"):
        parser.add_argument(path, type=pathlib.Path, required=True)
    for number in ("--rounds", "--threads"):
        parser.add_argument(number, type=int, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--implementations", default="fast")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high" if args.device == "cuda" else "highest")  # TF32, as GPUs train
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # "compiled" must mean that
    warnings.filterwarnings("ignore")
    results = {"machine": machine(args), "rounds": args.rounds, "cases": []}
    for case in logits_cases(args.quick, args.device) + dpo_cases(args.quick, args.device):
        if args.only in case.name:
            print(case.name, flush=True)
            try:
                results["cases"].append(compare(case, args))
            except torch.OutOfMemoryError as reason:
                print(f"  skipped: {str(reason).splitlines()[0]}", flush=True)
                continue
            write(results, args.out)
    return any(contestant for case in results["cases"] for contestant in case["failed"])


if __name__ == "__main__":
    sys.exit(main())
