"""The same work as others do it: one function each, from inputs to `Answer`.

Each gets what suits it: weights as `[vocab, hidden]`, as `torch.nn.Linear` has them, ids as 64-bit integers, and hidden
states without the last position, which predicts nothing. All of it is prepared outside the time that is taken.
"""
import torch
import torch.nn.functional as F
from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss
from liger_kernel.ops.cross_entropy import LigerCrossEntropyFunction
from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction
from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE, _ChunkedLogProbFunction, selective_log_softmax

from cases import BETA, IGNORED


# ---- From logits to the log-prob of each row's target -------------------------------------------------------------


def by_cross_entropy(logits, targets):
    return -F.cross_entropy(logits, targets, reduction="none")


def by_cross_entropy_in_f32(logits, targets):
    return -F.cross_entropy(logits.float(), targets, reduction="none")


def by_gather(logits, targets):
    return F.log_softmax(logits, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def by_gather_in_f32(logits, targets):
    return by_gather(logits.float(), targets)


def by_trl(logits, targets):
    """Its loop is over sequences, so it gets sequences of 128 tokens; one row at a time it would be slower."""
    time = min(128, len(targets))
    return selective_log_softmax(logits.view(-1, time, logits.size(-1)), targets.view(-1, time)).flatten()


def by_liger(logits, targets):
    """Triton's. Where a gradient is asked for, it is written over the logits in the forward pass."""
    return -LigerCrossEntropyFunction.apply(logits, targets, None, IGNORED, 0.0, 0.0, "none")[0]


by_liger.overwrites = True


def logits_candidates(case, device):
    """Name → function of (logits, targets). Half-precision logits are given to those that compute in half precision, and
    to those that convert first, as trainers do."""
    compiled = lambda function: torch.compile(function, dynamic=False)
    candidates = {"PyTorch cross_entropy": by_cross_entropy, "PyTorch log_softmax + gather": by_gather}
    if case.dtype != "f32":
        candidates |= {"PyTorch cross_entropy of .float()": by_cross_entropy_in_f32}
    if device.type == "cuda":
        candidates |= {"Liger cross_entropy": by_liger}
    return candidates | {
        "PyTorch compile(cross_entropy)": compiled(by_cross_entropy_in_f32),
        "PyTorch compile(log_softmax + gather)": compiled(by_gather_in_f32),
        "TRL selective_log_softmax": by_trl,
    }


class LogitsWork:
    """Forward: log-probs. Backward: the gradient of Σ upstream · log-prob."""

    def __init__(self, case, inputs):
        self.logits = inputs["logits"].requires_grad_()
        self.targets = inputs["targets"].long()
        self.upstream = inputs["upstream"]
        self.candidates = logits_candidates(case, self.logits.device)

    def forward(self, candidate):
        with torch.no_grad():
            return candidate(self.logits.detach(), self.targets)

    def start(self, candidate):
        """The logits, or a copy for who overwrites them."""
        return self.logits.detach().clone().requires_grad_() if hasattr(candidate, "overwrites") else self.logits

    def forward_backward(self, candidate, logits):
        log_probs = candidate(logits, self.targets)
        (gradient,) = torch.autograd.grad(log_probs, logits, self.upstream.to(log_probs.dtype))
        return {"log_probs": log_probs.detach(), "gradient": gradient}

    def of_ours(self, outputs):
        return outputs

    def floors(self):
        """What nobody can do without: each number read once; read and written once."""
        logits = self.logits.detach()
        return ("a parallel sum", logits.sum), ("a sum, and scaling in place", lambda: (logits.sum(), logits.mul_(1.0)))

    def exact(self):
        """In f64, a few rows at a time, by the definition."""
        log_probs, gradients = [], []
        for rows in torch.arange(len(self.targets)).split(64):
            logits = self.logits.detach()[rows].double()
            log_p = logits - logits.logsumexp(-1, keepdim=True)
            log_probs.append(log_p.gather(-1, self.targets[rows, None]).squeeze(-1))
            if rows[0] == 0:
                log_p.exp_().neg_().scatter_add_(-1, self.targets[rows, None], logits.new_ones(len(rows), 1))
                gradients = log_p * self.upstream[rows, None].double()
        return {"log_probs": torch.cat(log_probs), "gradient": gradients[:4]}


# ---- From hidden states to the DPO loss ---------------------------------------------------------------------------


def dpo_loss(policy, reference):
    log_ratios = policy - reference
    chosen, rejected = log_ratios.chunk(2)
    return -F.logsigmoid(BETA * (chosen - rejected)).mean()


def sums_from_every_logit(hidden, weight, labels, mask):
    log_probs = F.log_softmax(hidden @ weight.t(), -1)
    return (log_probs.gather(-1, labels.unsqueeze(-1)).squeeze(-1) * mask).sum(-1)


def sums_by_cross_entropy(hidden, weight, labels, mask):
    logits = (hidden @ weight.t()).flatten(0, 1)
    log_probs = -F.cross_entropy(logits, labels.masked_fill(~mask, IGNORED).flatten(), ignore_index=IGNORED, reduction="none")
    return log_probs.view(mask.shape).sum(-1)


def sums_by_selective_log_softmax(hidden, weight, labels, mask):
    return (selective_log_softmax(hidden @ weight.t(), labels) * mask).sum(-1)


def sums_of_selected(hidden, weight, labels, mask):
    log_probs = -F.cross_entropy(hidden[mask] @ weight.t(), labels[mask], reduction="none")
    return log_probs.new_zeros(mask.shape).masked_scatter(mask, log_probs).sum(-1)


def chunked(hidden, weight, labels):
    return _ChunkedLogProbFunction.apply(
        hidden, weight, None, labels, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ("log_probs",)
    )[0]


def sums_by_trl(hidden, weight, labels, mask):
    """As its trainer does where there is no Triton: every position goes through the head."""
    log_probs = chunked(hidden.reshape(-1, hidden.size(-1)), weight, labels.reshape(-1))
    return log_probs.view(mask.shape).masked_fill(~mask, 0).sum(-1)


def sums_by_trl_of_selected(hidden, weight, labels, mask):
    """As its trainer does where there is Triton."""
    log_probs = chunked(hidden[mask], weight, labels[mask])
    return log_probs.new_zeros(mask.shape).masked_scatter(mask, log_probs).sum(-1)


def sums_by_liger_cross_entropy(hidden, weight, labels, mask):
    log_probs = by_liger((hidden @ weight.t()).flatten(0, 1), labels.masked_fill(~mask, IGNORED).flatten())
    return log_probs.view(mask.shape).sum(-1)


def sums_by_liger_head(hidden, weight, labels, mask):
    targets = labels.masked_fill(~mask, IGNORED).flatten()
    losses = LigerFusedLinearCrossEntropyFunction.apply(
        hidden.flatten(0, 1), weight, targets, None, None, IGNORED, 0.0, 0.0, "none"
    )[0]
    return -losses.view(mask.shape).sum(-1)


def two_models(sums):
    """DPO from a function that gives the log-probs of sequences."""

    def loss(work, policy_hidden, policy_weight):
        policy = sums(policy_hidden, policy_weight, work.labels, work.mask)
        with torch.no_grad():
            reference = sums(work.reference_hidden, work.reference_weight, work.labels, work.mask)
        return dpo_loss(policy, reference), policy

    return loss


def liger(**options):
    """The loss and the gradient pair by pair. Its loss divides by the number of pairs, as a mean does."""
    function = LigerFusedLinearDPOLoss(beta=BETA, average_log_prob=False, ignore_index=IGNORED, **options)

    def loss(work, policy_hidden, policy_weight):
        labels = work.labels.masked_fill(~work.mask, IGNORED)
        loss, (chosen, rejected, *_) = function(
            policy_weight, policy_hidden, labels, ref_input=work.reference_hidden, ref_weight=work.reference_weight
        )
        return loss, torch.cat([chosen, rejected])

    return loss


def dpo_candidates(device):
    compiled = lambda sums: two_models(torch.compile(sums, dynamic=False))
    triton = {
        "Liger cross_entropy": two_models(sums_by_liger_cross_entropy),
        "Liger fused head": two_models(sums_by_liger_head),
    }
    return (triton if device.type == "cuda" else {}) | {
        "PyTorch log_softmax + gather": two_models(sums_from_every_logit),
        "PyTorch cross_entropy": two_models(sums_by_cross_entropy),
        "PyTorch compiled": compiled(sums_by_cross_entropy),
        "PyTorch, counted tokens selected": two_models(sums_of_selected),
        "TRL selective_log_softmax": two_models(sums_by_selective_log_softmax),
        "TRL fused head": two_models(sums_by_trl),
        "TRL fused head, counted tokens selected": two_models(sums_by_trl_of_selected),
        "Liger": liger(compiled=False),
        "Liger compiled": liger(compiled=True),
    }


class DpoWork:
    """Forward: the loss. Backward: its gradient in the policy's hidden states and, unless frozen, its head."""

    def __init__(self, case, inputs):
        self.labels = inputs["tokens"][:, 1:].long()
        self.mask = inputs["mask"][:, 1:].bool()
        self.hidden, self.reference_hidden = (
            inputs[name][:, :-1].contiguous() for name in ("hidden", "reference_hidden")
        )
        self.weight, self.reference_weight = (
            inputs[name].t().contiguous() for name in ("weight", "reference_weight")
        )
        self.frozen_head = case.frozen_head
        self.candidates = dpo_candidates(self.hidden.device)

    def tracked(self):
        return [self.hidden] if self.frozen_head else [self.hidden, self.weight]

    def forward(self, candidate):
        with torch.no_grad():
            return candidate(self, self.hidden, self.weight)

    def start(self, candidate):
        """The inputs are all there is, and nobody overwrites them."""

    def forward_backward(self, candidate, _):
        tracked = [tensor.detach().requires_grad_() for tensor in self.tracked()]
        weight = self.weight if self.frozen_head else tracked[1]
        loss, log_probs = candidate(self, tracked[0], weight)
        return self._answer(loss, log_probs, torch.autograd.grad(loss, tracked))

    def of_ours(self, outputs):
        """The gradients in the form that these have. Nothing flows into the last position."""
        answer = dict(outputs)
        gradient = answer["gradient_hidden"]
        assert not gradient[:, -1].any(), "the last position has a gradient"
        answer["gradient_hidden"] = gradient[:, :-1]
        if not self.frozen_head:
            answer["gradient_weight"] = answer["gradient_weight"].t()
        return answer

    def floors(self):
        """The products of the counted tokens, by PyTorch, into memory that is there already."""
        hidden, reference = self.hidden[self.mask], self.reference_hidden[self.mask]
        logits = hidden.new_empty(len(hidden), len(self.weight))
        gradient_hidden, gradient_weight = torch.empty_like(hidden), torch.empty_like(self.weight)

        def forward():
            torch.mm(reference, self.reference_weight.t(), out=logits)
            torch.mm(hidden, self.weight.t(), out=logits)

        def forward_backward():
            forward()
            torch.mm(logits, self.weight, out=gradient_hidden)
            if not self.frozen_head:
                torch.mm(logits.t(), hidden, out=gradient_weight)

        products = 3 if self.frozen_head else 4
        return ("2 bare products", forward), (f"{products} bare products", forward_backward)

    def exact(self):
        """In f64, by the definition, token by token that is counted."""
        models = [self.hidden, self.weight, self.reference_hidden, self.reference_weight]
        hidden, weight, *reference = (tensor.double() for tensor in models)
        tracked = [hidden.requires_grad_()] if self.frozen_head else [hidden.requires_grad_(), weight.requires_grad_()]
        policy = sums_of_selected(hidden, weight, self.labels, self.mask)
        with torch.no_grad():
            reference = sums_of_selected(*reference, self.labels, self.mask)
        loss = dpo_loss(policy, reference)
        return self._answer(loss, policy, torch.autograd.grad(loss, tracked))

    @staticmethod
    def _answer(loss, log_probs, gradients):
        answer = {"loss": loss.detach(), "log_probs": log_probs.detach()}
        return answer | dict(zip(("gradient_hidden", "gradient_weight"), gradients))


def work_of(case, inputs):
    return {"logits": LogitsWork, "dpo": DpoWork}[case.work](case, inputs)
