"""From results to a table, a chart and the file with every time taken."""
import json
import statistics

SELECTED = "counted tokens selected"


def median(contestant, what):
    return statistics.median(contestant[what])


def seconds(value):
    return f"{1000 * value:,.0f} ms" if value >= 0.1 else f"{1000 * value:.2f} ms"


def mebibytes(contestant):
    peak = contestant.get("peak_extra_bytes")
    return "–" if peak is None else f"{peak / 2**20:,.0f}"


def best(contestants, what="forward_backward_s"):
    return min(contestants, key=lambda contestant: median(contestant, what), default=None)


def sorted_out(case):
    """Ours (the fast one), peers that get the whole batch, peers whose counted tokens were selected by hand, the floor."""
    fast = next((c for c in case["contestants"] if c["ours"] and c["name"].endswith("fast")), None)
    peers = [c for c in case["contestants"] if not c["ours"] and not c.get("floor")]
    by_hand = [c for c in peers if SELECTED in c["name"]]
    floor = next(c for c in case["contestants"] if c.get("floor"))
    return fast, [c for c in peers if c not in by_hand], by_hand, floor


def ratio(ours, theirs, what="forward_backward_s"):
    """The median of the ratios of each round: what slows a machine for a while slows both."""
    if not ours or not theirs:
        return "–"
    return f"{statistics.median(a / b for a, b in zip(ours[what], theirs[what])):.2f}"


def summary(cases):
    lines = [
        "| work | ours | best peer | ours ÷ it | ours ÷ best with the tokens selected by hand | ours ÷ burn's composition "
        "| forward ÷ floor | both ÷ floor | MiB, ours | MiB, best peer |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        fast, whole, by_hand, floor = sorted_out(case)
        if not fast or not whole:
            continue
        peer = best(whole)
        naive = next((c for c in case["contestants"] if c["name"].startswith("burn log_softmax")), None)
        lines.append(
            f"| {case['name']} | {seconds(median(fast, 'forward_backward_s'))} "
            f"| {peer['name']}: {seconds(median(peer, 'forward_backward_s'))} | **{ratio(fast, peer)}** "
            f"| {ratio(fast, best(by_hand))} | {ratio(fast, naive)} | {ratio(fast, floor, 'forward_s')} "
            f"| {ratio(fast, floor)} | {mebibytes(fast)} | {mebibytes(peer)} |"
        )
    return lines


def table(case):
    lines = [f"**{case['name']}**", "", "| | forward | forward and backward | MiB | error |", "|---|---|---|---|---|"]
    for contestant in sorted(case["contestants"], key=lambda c: median(c, "forward_backward_s")):
        name = f"**{contestant['name']}**" if contestant["ours"] else contestant["name"]
        times = " | ".join(seconds(median(contestant, what)) for what in ("forward_s", "forward_backward_s"))
        error = f"{max(contestant['errors'].values()):.0e}" if "errors" in contestant else ""
        memory = "" if contestant.get("floor") else mebibytes(contestant)
        lines.append(f"| {name} | {times} | {memory} | {error} |")
    return lines + [""] + [f"Left out: {name} ({reason})" for name, reason in case["failed"].items()]


def names(machine):
    """Of the document, and of the files beside it without their endings."""
    return ("performance-gpu.md", "performance-gpu-peers") if "gpu" in machine else ("performance.md", "performance")


def text(results):
    machine = results["machine"]
    versions = ", ".join(f"{name} {machine[key]}" for name, key in (("PyTorch", "torch"), ("TRL", "trl"), ("Liger", "liger-kernel")))
    where = f"{machine['cpu']}, {machine['threads']} threads, PyTorch with {machine['instructions']}"
    ours_is, theirs_is = "what is allocated", "what becomes resident"
    if "gpu" in machine:
        where = f"{machine['gpu']}, driver {machine['driver']}, CUDA {machine['cuda']}"
        ours_is, theirs_is = "memory by sizes of buffers, as `measure --help` has it", "of tensors, by PyTorch's allocator"
    lines = [
        f"{where}; {versions}. Medians of "
        f"{results['rounds']} rounds in which all take turns. Forward is without a graph; both together end with the "
        f"gradients. MiB: the peak beyond the inputs, gradients included; ours is {ours_is}, theirs {theirs_is}. "
        "Error: the largest of all results and gradients, relative to their norms, against f64. Ratios are medians of the ratios of each round.",
        "",
        f"![forward and backward, ours and theirs]({names(machine)[1]}.svg)",
        "",
        *summary(results["cases"]),
        "",
        "<details><summary>Every contestant</summary>",
        "",
    ]
    for case in results["cases"]:
        lines += [*table(case), ""]
    return "\n".join([*lines, "</details>"])


def between_markers(document, inserted, name="peers"):
    """The document with what is between the markers of that name replaced; at its end, if it has none."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if begin not in document:
        document = f"{document.rstrip()}\n\n{begin}\n{end}\n".lstrip()
    before, rest = document.split(begin, 1)
    return f"{before}{begin}\n{inserted}\n{end}{rest.split(end, 1)[1]}"


def chart(cases, path):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "peers", "font.size": 8}
    import matplotlib.pyplot as plt

    rows = (len(cases) + 1) // 2
    figure, panels = plt.subplots(rows, 2, figsize=(12, 2.3 * rows), squeeze=False)
    for panel in panels.flat[len(cases) :]:
        panel.axis("off")
    for panel, case in zip(panels.flat, cases):
        shown = [c for c in case["contestants"] if not c["ours"] or c["name"].endswith("fast")]
        entries = sorted(shown, key=lambda c: -median(c, "forward_backward_s"))
        times = [1000 * median(c, "forward_backward_s") for c in entries]
        colours = ["#b5b5b5" if c.get("floor") else "#c8553d" if c["ours"] else "#588b8b" for c in entries]
        panel.barh([c["name"] for c in entries], times, color=colours)
        for at, (entry, time) in enumerate(zip(entries, times)):
            memory = "" if entry.get("floor") else f", {mebibytes(entry)} MiB"
            panel.text(time, at, f" {time:.3g} ms{memory}", va="center", fontsize=7)
        panel.set_xlim(0, 1.35 * max(times))
        panel.set_title(case["name"], fontsize=9, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def write(results, out):
    out.mkdir(parents=True, exist_ok=True)
    document, figures = names(results["machine"])
    (out / f"{figures}.json").write_text(json.dumps(results, indent=1) + "\n")
    document = out / document
    document.write_text(between_markers(document.read_text() if document.exists() else "", text(results)))
    chart(results["cases"], out / f"{figures}.svg")
