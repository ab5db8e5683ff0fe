#!/usr/bin/env python3
"""How time and memory of a trained head grow: one size times 1, 2, 4, 8 and 16, the others held.

Writes the table into docs/performance.md. `--measure PATH` uses an executable that is there; else it is built.
"""
import argparse, json, pathlib, statistics, subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
BASE = {"rows": 4, "vocab": 8000, "hidden": 256}  # rows are sequences of 128 tokens
NAMES = {"rows": "counted tokens", "vocab": "vocabulary", "hidden": "hidden numbers"}
FACTORS = [1, 2, 4, 8, 16]


def built():
    subprocess.run(["cargo", "build", "--release", "-p", "burn-dpo-tools", "--bin", "measure"], cwd=ROOT, check=True)
    metadata = subprocess.run(["cargo", "metadata", "--format-version", "1", "--no-deps"], cwd=ROOT, check=True, capture_output=True)
    return pathlib.Path(json.loads(metadata.stdout)["target_directory"]) / "release" / "measure"


def measured(executable, size, repeat):
    flags = [part for name, value in size.items() for part in (f"--{name}", str(value))]
    run = subprocess.run([executable, "--work", "head", *flags, "--repeat", str(repeat)], check=True, capture_output=True)
    result = json.loads(run.stdout)
    return statistics.median(result["forward_backward_s"]), result["peak_extra_bytes"]


def table(executable, repeat):
    lines = ["| | × 1 | × 2 | × 4 | × 8 | × 16 | × 16, relative to 16 |", "|---|---|---|---|---|---|---|"]
    for axis, name in NAMES.items():
        sizes = [{**BASE, axis: BASE[axis] * factor} for factor in FACTORS]
        results = [measured(executable, size, repeat) for size in sizes]
        times, peaks = [time for time, _ in results], [peak / 2**20 for _, peak in results]
        first = BASE[axis] * (127 if axis == "rows" else 1)
        lines.append(f"| {name}, from {first}: s | " + " | ".join(f"{time:.3f}" for time in times) + f" | {times[-1] / times[0] / 16:.2f} |")
        lines.append(f"| {name}: MiB | " + " | ".join(f"{peak:.0f}" for peak in peaks) + f" | {peaks[-1] / peaks[0] / 16:.2f} |")
    held = ", ".join(f"{NAMES[axis]} {BASE[axis] * (127 if axis == 'rows' else 1)}" for axis in NAMES)
    return "\n".join([*lines, "", f"Held where they do not grow: {held}. The gradients are in the MiB."])


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--measure", type=pathlib.Path)
    arguments.add_argument("--repeat", type=int, default=5)
    arguments = arguments.parse_args()
    text = table(arguments.measure or built(), arguments.repeat)
    print(text)
    page = ROOT / "docs" / "performance.md"
    before, rest = page.read_text().split("<!-- growth:begin -->")
    _, after = rest.split("<!-- growth:end -->")
    page.write_text(f"{before}<!-- growth:begin -->\n{text}\n<!-- growth:end -->{after}")


main()
