"""What is measured, and on which numbers."""
from dataclasses import dataclass

import torch

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
BETA = 0.1
IGNORED = -100


@dataclass(frozen=True)
class Case:
    """The work that one row of a table describes, in the words of the `measure` tool."""

    work: str
    rows: int
    vocab: int
    hidden: int = 1024
    time: int = 128
    density: float = 1.0
    dtype: str = "f32"
    frozen_head: bool = False

    @property
    def name(self):
        if self.work == "logits":
            return f"logits {self.rows} × {self.vocab}, {self.dtype}"
        head = "frozen" if self.frozen_head else "trained"
        name = f"dpo {self.rows} × {self.time} tokens, {self.hidden} → {self.vocab}, {head} head, {self.density:.0%} counted"
        return name if self.dtype == "f32" else f"{name}, {self.dtype}"

    @property
    def repeats(self):
        """Within a round: what takes a millisecond is timed often."""
        return max(1, min(20, 2**26 // (self.rows * self.vocab))) if self.work == "logits" else 1

    def arguments(self):
        """The same work for `measure`."""
        arguments = ["--work", self.work, "--rows", self.rows, "--vocab", self.vocab, "--dtype", self.dtype]
        if self.work == "dpo":
            arguments += ["--hidden", self.hidden, "--time", self.time, "--density", self.density]
        if self.frozen_head:
            arguments += ["--frozen-head"]
        return [str(argument) for argument in arguments]

    def inputs(self):
        """Tensors by the names that `measure --inputs` reads; the same numbers at every call."""
        return (self._logits if self.work == "logits" else self._pairs)(torch.Generator().manual_seed(20_23))

    def _logits(self, generator):
        return {
            "logits": (2.0 * torch.randn(self.rows, self.vocab, generator=generator)).to(DTYPES[self.dtype]),
            "targets": torch.randint(self.vocab, (self.rows,), generator=generator, dtype=torch.int32),
            "upstream": torch.randn(self.rows, generator=generator),
        }

    def _pairs(self, generator):
        """The reference is the policy a little moved, as it is after some steps of training."""

        def moved(tensor, by):
            return tensor + by * torch.randn(tensor.shape, generator=generator)

        hidden = torch.randn(self.rows, self.time, self.hidden, generator=generator)
        weight = torch.randn(self.hidden, self.vocab, generator=generator) * self.hidden**-0.5
        counted = torch.zeros(self.rows, self.time, dtype=torch.uint8)
        counted[:, self.time - round(self.density * self.time) :] = 1
        models = {
            "hidden": hidden,
            "weight": weight,
            "reference_hidden": moved(hidden, 0.02),
            "reference_weight": moved(weight, 0.02 * self.hidden**-0.5),
        }
        return {name: tensor.to(DTYPES[self.dtype]) for name, tensor in models.items()} | {
            "tokens": torch.randint(self.vocab, (self.rows, self.time), generator=generator, dtype=torch.int32),
            "mask": counted,
        }


def logits_cases(quick, device):
    if quick:
        return [Case("logits", 64, 1000), Case("logits", 64, 1000, dtype="bf16"), Case("logits", 4, 5003)]
    few_long_rows = [Case("logits", rows, vocab) for vocab in (128_256, 256_000) for rows in (4, 64)]
    cases = [Case("logits", 2048, 32_000), Case("logits", 2048, 32_000, dtype="bf16"), *few_long_rows]
    return cases + [Case("logits", 8192, 128_256, dtype="bf16")] if device == "cuda" else cases


def dpo_cases(quick, device):
    size = {"rows": 4, "time": 16, "hidden": 64, "vocab": 1000} if quick else {"rows": 8, "vocab": 32_000}
    densities = [Case("dpo", density=density, **size) for density in (1.0, 0.4)]
    cases = [*densities, *(Case("dpo", density=density, frozen_head=True, **size) for density in (1.0, 0.4))]
    if device == "cuda" and not quick:
        size = {"rows": 8, "time": 256, "hidden": 2048, "vocab": 128_256, "dtype": "bf16"}
        cases += [Case("dpo", density=density, **size) for density in (1.0, 0.4)]
    return cases
