#!/usr/bin/env python3
"""Writes preferences.jsonl, the pairs that the trainer ships with. Standard library only; always the same bytes.

    python3 make_preferences.py > preferences.jsonl

Every prompt asks how to do one of twenty things to one of ten objects, and every combination is asked about in one
wording only, so a held-out prompt was never seen. There are three ways to answer, and people prefer them in this order:

    kind   "Happy to help! Use warm soapy water. Good luck!"
    curt   "Use warm soapy water."
    rude   "Go and wash it yourself."

Each prompt comes with two pairs, kind over curt and curt over rude. So curt is chosen as often as kind: a model that
imitates the chosen completions answers either way, and only the comparison says that kind is better.
"""

import json
import random

TASKS = {
    "wash": "use warm soapy water",
    "fix": "glue the broken part",
    "store": "keep it dry and dark",
    "buy": "compare three shops",
    "paint": "put on two thin coats",
    "carry": "hold it with both hands",
    "pack": "find a big strong box",
    "draw": "start with the outline",
    "sell": "post a clear photo",
    "wrap": "use soft brown paper",
    "measure": "take a long tape",
    "weigh": "borrow a kitchen scale",
    "label": "tie on a small card",
    "hide": "look behind the books",
    "test": "try it for a week",
    "lend": "write down the date",
    "polish": "rub in a little wax",
    "insure": "send in the old bill",
    "choose": "list what you need",
    "build": "follow a simple plan",
}
OBJECTS = "kite lamp chair drum tent clock mirror guitar bicycle boat".split()
QUESTIONS = ["How do I {task} a {object}?", "How can I {task} a {object}?", "Best way to {task} a {object}?"]
ANSWERS = {
    "kind": ["Glad you asked! {How}. Have fun!", "Happy to help! {How}. Good luck!"],
    "curt": ["{How}."],
    "rude": ["Go and {task} it yourself.", "Who cares about a {object}?", "Not now. Ask somebody else."],
}
COMPARISONS = [("kind", "curt"), ("curt", "rude")]  # (chosen, rejected)


def main():
    rng = random.Random(0)

    def pick(options):
        # random.random() gives the same sequence in every version of Python; choice() and shuffle() need not.
        return options[int(rng.random() * len(options))]

    prompts = [(task, thing) for task in TASKS for thing in OBJECTS]
    prompts.sort(key=lambda _: rng.random())
    for task, thing in prompts:
        words = {"task": task, "object": thing, "How": TASKS[task].capitalize()}
        prompt = pick(QUESTIONS).format(**words)
        for comparison in COMPARISONS:
            chosen, rejected = (pick(ANSWERS[style]).format(**words) for style in comparison)
            print(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}))


if __name__ == "__main__":
    main()
