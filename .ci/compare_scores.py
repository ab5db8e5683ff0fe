"""Compares what the `score` tool printed with golden values: compare_scores.py GOLDEN SCORES

Every configuration must be answered, with everything that the golden file has. In f32, log-probs, losses and metrics must
agree within 1e-5 relative, gradients within 1e-4 of their norm; in f64 all within 1e-11, as golden values near 0 are
themselves rounded. What is exactly 0 there must be exactly 0 here. Exit status 1 on any disagreement.
"""
import json
import sys
from collections import defaultdict

VALUE = {"f32": 1e-5, "f64": 1e-11}
GRADIENT = {"f32": 1e-4, "f64": 1e-11}
# A number closer to 0 than the smallest normal one is 0, or subnormal, on most devices.
SMALLEST = {"f32": 2.0**-126, "f64": 2.0**-1022}
OF_CASE = ("token_log_probs", "reference_token_log_probs", "entropy", "log_sum_sq_probs")


def conditioning(metric, golden, float_format):
    """By how much cancellation enlarges the error of the one figure that f32 cannot always give: a mean margin that is less
    than a fifth of the mean rewards it is the difference of. In case 2 four margins leave 0.009 of log-probs of up to 170,
    which f32 holds within 7.6e-6: rounding exact log-probs to f32, and nothing else, moves it by more than 1e-5 of itself.
    There the error is compared with those rewards. f64 has no exception."""
    if float_format != "f32" or metric != "rewards/margins":
        return 1.0
    by = (abs(golden["rewards/chosen"]) + abs(golden["rewards/rejected"])) / abs(golden[metric])
    return by if by > 5.0 else 1.0


def member(config):
    """The loss, and what modifies it."""
    losses = config["loss"] if isinstance(config["loss"], list) else [config["loss"]]
    modifiers = [config["f_divergence"]] if "f_divergence" in config else []
    modifiers += [f"{key}={config[key]}" for key in ("ld_alpha", "use_weighting", "group") if key in config]
    modifiers += [f"{key} per pair" for key in ("beta", "offset") if isinstance(config.get(key), list)]
    modifiers += ["smoothed"] if losses == ["aot"] and "label_smoothing" in config else []
    return ", ".join([" + ".join(losses), *modifiers])


def flat(x):
    return [y for row in x for y in flat(row)] if isinstance(x, list) else [x]


def relative(ours, golden, smallest):
    if isinstance(ours, str) or ours is None or ours != ours:  # NaN and infinities arrive by name
        return float("inf")
    if ours == golden or 0 < abs(golden) < smallest and abs(ours) < smallest:
        return 0.0
    return abs(ours - golden) / abs(golden) if golden else float("inf")


class Comparison:
    def __init__(self, float_format):
        self.float_format = float_format
        self.failures = []
        self.by_quantity = defaultdict(float)
        self.by_member = defaultdict(lambda: defaultdict(float))

    def compare(self, what, where, ours, golden, bound=VALUE, member=None, column=None, conditioned=1.0):
        """`conditioned`: by how much cancellation may enlarge the error."""
        ours, golden, bound = flat(ours), flat(golden), bound[self.float_format] * conditioned
        errors = [relative(a, b, SMALLEST[self.float_format]) for a, b in zip(ours, golden)]
        error = max(errors, default=0.0) if len(ours) == len(golden) else float("inf")
        self.by_quantity[what] = max(self.by_quantity[what], error)
        if member:
            self.by_member[member][column] = max(self.by_member[member][column], error)
        if not error <= bound:
            self.failures.append(f"{where}: {what} is off by {error:.3g}, allowed {bound:.0e}")
        elif conditioned > 1.0 and error > bound / conditioned:
            print(f"  cancels, off by {error:.1e}, allowed {bound:.0e}: {what}, {where}")

    def run(self, where, run, golden):
        name = member(golden["config"])

        def compare(what, column, ours, theirs, bound=VALUE, conditioned=1.0):
            self.compare(what, where, ours, theirs, bound, name, column, conditioned)

        self.by_member[name]["runs"] += 1
        for model in ("policy", "reference"):
            theirs = golden["sequence_log_probs"][model]
            compare(f"{model} sequence_log_probs", "log-probs", run["sequence_log_probs"][model], theirs)
        for what in ("loss", "per_pair"):
            compare(what, "loss", run[what], golden[what])
        theirs = golden["metrics"]
        for metric, value in theirs.items():
            conditioned = conditioning(metric, theirs, self.float_format)
            compare(f"metrics {metric}", "metrics", run["metrics"].get(metric), value, conditioned=conditioned)
        for norm in ("grad_hidden_norm", "grad_weight_norm"):
            compare(norm, "gradient norms", run[norm], golden[norm], GRADIENT)

    def tables(self):
        columns = ("log-probs", "loss", "metrics", "gradient norms")
        print(f"  {'largest relative disagreement':44} runs " + " ".join(f"{column:>14}" for column in columns))
        for name, row in sorted(self.by_member.items()):
            print(f"  {name:44} {row['runs']:4.0f} " + " ".join(f"{row[column]:14.1e}" for column in columns))
        print()
        for what, error in self.by_quantity.items():
            print(f"  {what:32} {error:.1e}")


def main(golden_path, scores_path):
    golden, scores = json.load(open(golden_path)), json.load(open(scores_path))
    assert len(golden["cases"]) == len(scores["cases"]), "number of cases"
    comparison, runs = Comparison(scores["float"]), 0
    for index, (case, score) in enumerate(zip(golden["cases"], scores["cases"])):
        for what in OF_CASE:
            comparison.compare(what, f"case {index}", score.get(what, []), case[what])
        assert len(case["runs"]) == len(score["runs"]), f"case {index}: number of runs"
        for expected, run in zip(case["runs"], score["runs"]):
            where = f"case {index}, {json.dumps(expected['config'])}"
            if run["config"] != expected["config"]:
                comparison.failures.append(f"{where}: answered out of order")
            elif "error" in run:
                comparison.failures.append(f"{where}: {run['error']}")
            else:
                runs += 1
                comparison.run(where, run, expected)

    print(f"{scores['device']}, {scores['float']}: {runs} runs compared")
    comparison.tables()
    for failure in comparison.failures:
        print("FAILED", failure)
    return 1 if comparison.failures or runs == 0 else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
