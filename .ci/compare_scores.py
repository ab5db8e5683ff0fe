"""Compares what `examples/score` printed with golden values: compare_scores.py GOLDEN SCORES

Log-probs, losses and metrics must agree within 1e-5 relative, gradients within 1e-4 of their norm. A configuration that
was answered with an error is counted; none that `answered` accepts may be. Exit status 1 on any disagreement, and for
anything in REQUIRED that is missing.
"""
import json
import sys

VALUE, GRADIENT = 1e-5, 1e-4
REQUIRED = {
    "token_log_probs", "reference_token_log_probs",
    "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected",
}


def answered(config):
    return config["loss"] == "sigmoid" and set(config) == {"loss", "beta"} and not isinstance(config["beta"], list)


def flat(x):
    return [y for row in x for y in flat(row)] if isinstance(x, list) else [x]


def relative(ours, golden):
    if isinstance(ours, str) or ours is None:  # NaN and infinities arrive by name
        return float("inf")
    if ours == golden:
        return 0.0
    return abs(ours - golden) / abs(golden) if golden else float("inf")


def main(golden_path, scores_path):
    golden, scores = json.load(open(golden_path)), json.load(open(scores_path))
    worst, failures, unanswered, runs = {}, [], 0, 0

    def compare(what, where, ours, reference, bound):
        ours, reference = flat(ours), flat(reference)
        errors = [relative(a, b) for a, b in zip(ours, reference)]
        if len(ours) != len(reference) or any(error != error for error in errors):
            errors.append(float("inf"))
        error = max(errors, default=0.0)
        worst[what] = max(worst.get(what, 0.0), error)
        if not error <= bound:
            failures.append(f"{where}: {what} is off by {error:.3g}, allowed {bound:.0e}")

    assert len(golden["cases"]) == len(scores["cases"]), "number of cases"
    for index, (case, score) in enumerate(zip(golden["cases"], scores["cases"])):
        for what in ("token_log_probs", "reference_token_log_probs", "entropy", "log_sum_sq_probs"):
            if what in score or what in REQUIRED:
                compare(what, f"case {index}", score.get(what, []), case[what], VALUE)
        assert len(case["runs"]) == len(score["runs"]), f"case {index}: number of runs"
        for expected, run in zip(case["runs"], score["runs"]):
            where = f"case {index}, {json.dumps(expected['config'])}"
            if run["config"] != expected["config"]:
                failures.append(f"{where}: answered out of order")
            elif "error" in run:
                unanswered += 1
                if answered(expected["config"]):
                    failures.append(f"{where}: {run['error']}")
            else:
                runs += 1
                compare("loss", where, run["loss"], expected["loss"], VALUE)
                compare("per_pair", where, run["per_pair"], expected["per_pair"], VALUE)
                for metric, value in expected["metrics"].items():
                    if metric in run["metrics"] or metric in REQUIRED:
                        compare(f"metrics {metric}", where, run["metrics"].get(metric), value, VALUE)
                for norm in ("grad_hidden_norm", "grad_weight_norm"):
                    compare(norm, where, run[norm], expected[norm], GRADIENT)

    print(f"{scores['device']}: {runs} runs compared, {unanswered} not answered; largest disagreement:")
    for what, error in worst.items():
        print(f"  {what:28} {error:.2e}")
    for failure in failures:
        print("FAILED", failure)
    return 1 if failures or runs == 0 else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
