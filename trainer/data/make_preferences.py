#!/usr/bin/env python3
"""Writes preferences.jsonl, the pairs that the trainer ships with. Standard library only; always the same bytes.

    python3 make_preferences.py > preferences.jsonl

Every prompt asks how to do one of eight things to one of twenty-five objects. Every combination is asked about in one wording
only, so a held-out prompt was never seen. There are two styles of answers; templates.json has the words:

    kind   "Gladly! Use warm soapy water."
    rude   "Do it yourself."

Each prompt comes with a pair for each rude answer, and kind is preferred. A model that imitates all completions answers kindly
half of the time; only the comparisons say that kind is better.
"""

import json
import pathlib
import random

TEMPLATES = json.loads((pathlib.Path(__file__).parent / "templates.json").read_text(encoding="utf-8"))


def main():
    rng = random.Random(0)

    def pick(options):
        # random.random() gives the same sequence in every version of Python; choice() and shuffle() need not.
        return options[int(rng.random() * len(options))]

    prompts = [(task, thing) for task in TEMPLATES["tasks"] for thing in TEMPLATES["objects"]]
    prompts.sort(key=lambda _: rng.random())
    for task, thing in prompts:
        words = {"task": task, "object": thing, "how": TEMPLATES["tasks"][task]}
        prompt = pick(TEMPLATES["questions"]).format(**words)
        kind, *rest = (answer.format(**words) for answer in TEMPLATES["answers"]["kind"])
        assert not rest, "one kind answer, with which every rude one makes a pair"
        for rude in TEMPLATES["answers"]["rude"]:
            print(json.dumps({"prompt": prompt, "chosen": kind, "rejected": rude.format(**words)}))


if __name__ == "__main__":
    main()
