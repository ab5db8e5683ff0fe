#!/usr/bin/env python3
"""How fast a GPU goes from logits, or from hidden states, to a gradient: ours beside burn's own operations and their floor.

    python3 benches/gpu.py --device wgpu|vulkan|metal|cuda|rocm

Builds the `measure` tool for the device, lets all take turns on each size, and writes the tables into docs/performance-gpu.md and
the figures into docs/performance-gpu.json. Needs cargo, and nothing beyond Python's standard library.
"""
import argparse, json, os, pathlib, platform, statistics, subprocess, sys, time, tomllib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.append(str(HERE / "peers"))
from report import between_markers, ratio, seconds

CONTESTANTS = {
    "ours": [],
    "portable": ["--implementation", "portable"],
    "burn": ["--implementation", "naive"],
    "floor": ["--floor"],
}
BYTES = {"f32": 4, "f16": 2, "bf16": 2}
# To see that all did the same work; the tests look closer. Gradients are rounded to the format of their inputs.
AGREEMENT = {"f32": 1e-3, "f16": 1e-2, "bf16": 1e-2}
# Within a round, what is done in a moment is done for this long.
ROUND_S = 0.3


class Case:
    def __init__(self, work, rows, vocab, dtype="f32", hidden=0, time=0, density=1.0, frozen=False):
        self.work, self.rows, self.vocab, self.dtype = work, rows, vocab, dtype
        self.arguments = ["--work", work, "--rows", rows, "--vocab", vocab, "--dtype", dtype]
        self.name = f"{rows} × {vocab}, {dtype}"
        if work == "dpo":
            self.arguments += ["--hidden", hidden, "--time", time, "--density", density, *(["--frozen-head"] if frozen else [])]
            head = "frozen" if frozen else "trained"
            self.name = f"{rows} × {time} tokens, {hidden} → {vocab}, {dtype}, {head} head, {density:.0%} counted"

    @property
    def bytes(self):
        """Of all logits."""
        return self.rows * self.vocab * BYTES[self.dtype]


def logits_cases(args):
    if args.quick:
        return [Case("logits", 64, 1000), Case("logits", 64, 1000, "f16"), Case("logits", 64, 1000, "bf16")]
    sizes = [(1, 32_000), (64, 1000), (1024, 512), (4, 128_256), (64, 128_256), (256, 32_000), (1024, 32_000), (2048, 32_000)]
    halves = [Case("logits", 2048, 32_000, dtype) for dtype in ("f16", "bf16")]
    large = [Case("logits", 8192, 128_256, dtype) for dtype in ("f16", "bf16")] if args.large else []
    return [*(Case("logits", *size) for size in sizes), *halves, *large]


def dpo_cases(args):
    size = {"rows": 4, "time": 16, "hidden": 64, "vocab": 1000} if args.quick else {"rows": 4, "time": 32, "hidden": 256, "vocab": 8000}
    cases = [Case("dpo", **size), Case("dpo", frozen=True, **size)]
    if args.large:
        for dtype, size in [("f32", (8, 128, 1024, 32_000)), ("bf16", (8, 512, 4096, 128_256))]:
            rows, time, hidden, vocab = size
            size = {"rows": rows, "time": time, "hidden": hidden, "vocab": vocab, "dtype": dtype}
            cases += [Case("dpo", **size), Case("dpo", density=0.4, **size), Case("dpo", frozen=True, **size)]
    return cases


def run(args, case, contestant, repeat):
    """What `measure` prints, or a reason why it prints nothing."""
    arguments = [*case.arguments, *CONTESTANTS[contestant], "--device", args.device, "--repeat", repeat]
    begun = time.monotonic()
    environment = os.environ | {"RUST_BACKTRACE": "0"}
    done = subprocess.run([args.measure, *map(str, arguments)], env=environment, capture_output=True, text=True)
    if done.returncode:
        return None, innermost_cause(done.stderr) or f"status {done.returncode}"
    printed = json.loads(done.stdout)
    return printed | {"wall_s": time.monotonic() - begun}, None


def innermost_cause(said):
    """The last line that says something."""
    empty = ("note:", "No backtrace", "Asked at", "MESA")
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.strip().startswith(empty)]
    return lines[-1].removeprefix("error: ")[:200] if lines else None


def compare(args, case):
    """Every contestant's times by rounds. One that takes long has one round, and is in no ratio but its own."""
    print(f"{case.work} {case.name}", flush=True)
    first, failed = {}, {}
    for name in args.contestants:
        printed, reason = run(args, case, name, 1)
        if printed:
            first[name] = printed
        else:
            failed[name] = reason
    if len(set(failed.values())) == 1 and not first:
        failed = {"all": reason}
    for name, reason in failed.items():
        print(f"  {name} left out: {reason}", flush=True)
    sums = {name: float(printed["checksum"]) for name, printed in first.items() if printed["checksum"] is not None}
    for name, found in sums.items():
        expected = sums.get("burn", found)
        if not abs(found - expected) <= AGREEMENT[case.dtype] * abs(expected):  # NaN is not
            failed[name] = f"checksum {found}, of burn's composition {expected}"
            print(f"  {name} left out: {failed[name]}", flush=True)
            del first[name]

    rows = {name: {what: printed[what] for what in ("peak_extra_bytes", "checksum")} for name, printed in first.items()}
    patient = [name for name in first if first[name]["wall_s"] <= args.patience]
    for name in first:
        rows[name] |= {what: [] if name in patient else list(first[name][what]) for what in ("forward_s", "forward_backward_s")}
    for turn in range(args.rounds):
        for name in patient[turn % len(patient) :] + patient[: turn % len(patient)] if patient else []:
            repeat = min(50, max(1, round(ROUND_S / first[name]["forward_backward_s"][0])))
            printed, reason = run(args, case, name, repeat)
            if not printed:
                raise SystemExit(f"{case.name}, {name}: it worked before, and now: {reason}")
            for what in ("forward_s", "forward_backward_s"):
                rows[name][what].append(statistics.median(printed[what]))
    device = next((printed["device"] for printed in first.values()), None)
    return {"work": case.work, "name": case.name, "bytes": case.bytes, "device": device, "contestants": rows, "failed": failed}


# ---- Tables ----------------------------------------------------------------------------------------------------------


def text_of(row, what):
    return seconds(statistics.median(row[what])) if row else "–"


def gigabytes_per_second(case, what, times):
    """On what must be moved: forward reads the logits once, both passes read them twice and write them once."""
    return f"{times * case['bytes'] / statistics.median(case['contestants']['ours'][what]) / 1e9:,.3g}"


def share_of_copy(case, what, times):
    """The bandwidth of that, in parts of the copy's, which reads and writes each once."""
    ours, copy = (case["contestants"].get(name) for name in ("ours", "floor"))
    if not copy:
        return "–"
    shares = [times / 2 * theirs / mine for mine, theirs in zip(ours[what], copy["forward_s"])]
    return f"{statistics.median(shares):.2f}"


def mebibytes(row):
    peak = (row or {}).get("peak_extra_bytes")
    return "–" if peak is None else f"{peak / 2**20:,.1f}"


def shared_columns(case):
    ours, portable, burn = (case["contestants"].get(name) for name in ("ours", "portable", "burn"))
    return [
        *(f"**{ratio(ours, burn, what)}**" for what in ("forward_s", "forward_backward_s")),
        ratio(ours, portable),
        mebibytes(ours),
        mebibytes(burn),
    ]


def table(cases, own_titles, own_columns):
    titles = ["", "ours: forward", "both", *own_titles, "forward ÷ burn's", "both ÷ burn's", "both ÷ portable", "MiB, ours", "MiB, burn's"]
    lines = ["", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for case in cases:
        ours = case["contestants"].get("ours")
        if ours:
            times = [text_of(ours, what) for what in ("forward_s", "forward_backward_s")]
            lines.append(f"| {' | '.join([case['name'], *times, *own_columns(case), *shared_columns(case)])} |")
    return lines if len(lines) > 3 else []


def of_logits(case):
    passes = [("forward_s", 1), ("forward_backward_s", 3)]
    return [f(case, *each) for f in (gigabytes_per_second, share_of_copy) for each in passes]


def of_heads(case):
    ours, products = (case["contestants"].get(name) for name in ("ours", "floor"))
    return [ratio(ours, products, what) for what in ("forward_s", "forward_backward_s")]


def text(results):
    logits, heads = ([case for case in results["cases"] if case["work"] == work] for work in ("logits", "dpo"))
    left_out = [
        f"- {case['name']}, {name}: {reason}" for case in results["cases"] for name, reason in case["failed"].items()
    ]
    is_software = any(name in str(results["device"]).lower() for name in ("llvmpipe", "lavapipe", "swiftshader"))
    return "\n".join([
        f"**`--device {results['api']}`**: {results['device']}{results['driver']}, burn {results['burn']}, {results['os']}; {results['build']}. Medians of "
        f"{results['rounds']} rounds." + " *A software device: it computes on the CPU.*" * is_software,
        *table(logits, ["GB/s forward", "GB/s both", "of a copy's: forward", "both"], of_logits),
        *table(heads, ["forward ÷ products", "both ÷ products"], of_heads),
        *(["", "Left out:", "", *left_out] if left_out else []),
    ])


# ---- The machine -----------------------------------------------------------------------------------------------------


def driver():
    """NVIDIA's, where its tool is; others say theirs in the device's name, or not at all."""
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return f", driver {subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]}"
    except (OSError, subprocess.CalledProcessError, IndexError):
        return ""


def built(args):
    features = args.features or args.device
    subprocess.run(["cargo", "build", "--release", "-p", "burn-dpo-tools", "--bin", "measure", "--features", features], cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / ("measure.exe" if os.name == "nt" else "measure"), "release build"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", required=True, choices=["wgpu", "vulkan", "metal", "webgpu", "cuda", "rocm"])
    parser.add_argument("--features", help="to build with, instead of the device's own: cuda-cpp for CUDA through NVRTC")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything works; docs/ is left alone")
    parser.add_argument("--large", action="store_true", help="also sizes that need a GPU with some 40 GB")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contestant is timed")
    parser.add_argument("--patience", type=float, default=20.0, help="what takes more seconds than this has no rounds but the first")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--contestants", type=lambda names: names.split(","), default=list(CONTESTANTS), help="of " + ",".join(CONTESTANTS))
    parser.add_argument("--measure", type=pathlib.Path, help="a `measure` that is built already")
    parser.add_argument("--profile", default="an executable that was there", help="how that was built, for the page")
    parser.add_argument("--out", type=pathlib.Path, help="for performance-gpu.md and performance-gpu.json")
    return parser.parse_args()


def main():
    args = arguments()
    build = args.profile
    if not args.measure:
        args.measure, build = built(args)
    args.measure = args.measure.resolve()
    out = args.out or (ROOT / "target" / "gpu" if args.quick else ROOT / "docs")
    burn = tomllib.loads((ROOT / "Cargo.toml").read_text())["dependencies"]["burn"]["version"]
    results = {
        "api": args.device,
        "device": None,
        "driver": driver(),
        "burn": burn,
        "os": platform.system(),
        "build": build,
        "rounds": args.rounds,
        "cases": [],
    }
    for case in logits_cases(args) + dpo_cases(args):
        if args.only in f"{case.work} {case.name}":
            results["cases"].append(compare(args, case))
            results["device"] = results["device"] or results["cases"][-1]["device"]
            write(results, out)
    print(text(results))
    return any("checksum" in reason for case in results["cases"] for reason in case["failed"].values())


def write(results, out):
    """Other devices' figures stay."""
    out.mkdir(parents=True, exist_ok=True)
    figures = out / "performance-gpu.json"
    all_devices = json.loads(figures.read_text()) if figures.exists() else {}
    figures.write_text(json.dumps(all_devices | {results["api"]: results}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page = out / "performance-gpu.md"
    document = page.read_text(encoding="utf-8") if page.exists() else ""
    page.write_text(between_markers(document, text(results), results["api"]), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
