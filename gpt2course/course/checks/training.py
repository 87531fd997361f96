"""Checks of the exercises of lesson 04: the schedule, gradient accumulation, bits per byte, AdamW, what checkpoints
cost."""

import functools
import math

import torch

from gpt2course import evaluate, optim
from gpt2course.course.checks import Exercise, need, need_close
from gpt2course.model import GPT, GPTConfig
from gpt2course.recipes import resolve
from gpt2course.tokenizer import Tokenizer


def _number(got, what: str) -> float:
    """The answer as a number, whatever holds it."""
    need(got is not None, f"{what} returned None: is the return missing?")
    try:
        value = torch.as_tensor(got).detach().double()
    except (TypeError, ValueError, RuntimeError):
        need(False, f"{what} returned a {type(got).__name__}, expected a number")
    need(value.numel() == 1, f"{what} returned the shape {tuple(value.shape)}, expected one number")
    return value.item()


def _known(value: float, wanted: float, line: str, errors: list[tuple[float, str]], otherwise: str) -> None:
    """One number: right, or one line that names the error behind it. errors: (what a known error gives, where to
    look)."""
    near = 2e-4 * max(abs(wanted), 1e-3)
    if abs(value - wanted) <= near:
        return
    for wrong, hint in errors:
        need(not abs(value - wrong) <= near, f"{line}: {hint}")
    need(False, f"{line}: {otherwise}")


# ------------------------------------------------------------------------------------------------- 4.1


@functools.cache
def _plan(steps: int, warmup: int, warmdown: int, final: float):
    small = dict(depth=1, width=64, head_dim=64, sequence_len=64, vocab_size=300, batch_tokens=64)
    return resolve("modern", **small, steps=steps, warmup_steps=warmup, warmdown_ratio=warmdown / steps, final_lr=final)


def rate(f) -> None:
    def whole(steps, warmup, warmdown, final):
        return [_number(f(step, steps, warmup, warmdown, final), f"step {step} of {steps}") for step in range(steps)]

    def said(got):
        return ", ".join(f"{x:.3g}" for x in got)

    def close(got, wanted):
        return len(got) == len(wanted) and all(abs(a - b) <= 1e-4 for a, b in zip(got, wanted))

    def compare(got, wanted, line, errors, otherwise):
        if close(got, wanted):
            return
        for wrong, hint in errors:
            need(not close(got, wrong), f"{line}: {hint}")
        need(False, f"{line}: {otherwise}")

    got = whole(6, 0, 0, 0.0)
    need(close(got, [1] * 6), f"without warm-up and warm-down the six steps gave {said(got)}, expected 1 throughout")
    got = whole(5, 4, 0, 0.0)
    line = f"a warm-up of 4 gave {said(got)}, expected 0.25, 0.5, 0.75, 1, 1"
    compare(
        got,
        [0.25, 0.5, 0.75, 1, 1],
        line,
        [
            ([0, 0.25, 0.5, 0.75, 1], "step 0 has the rate 0 and is wasted; use (step + 1) / warmup"),
            ([0.2, 0.4, 0.6, 0.8, 1], "the warm-up is a step too long; step warmup - 1 has the full rate"),
            ([1] * 5, "there is no warm-up"),
        ],
        "step 0 has 1 / warmup, step warmup - 1 has 1",
    )
    got = whole(10, 0, 4, 0.0)
    late = "the warm-down begins too late; count it from the end, it takes the last `warmdown` steps"
    compare(
        got,
        [1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25],
        f"10 steps with a warm-down of 4 gave {said(got)}, expected seven times 1, then 0.75, 0.5, 0.25",
        [
            ([1] * 6 + [0.75, 0.5, 0.25, 0], "the warm-down begins a step too early and wastes the last step on a rate of 0"),
            ([1] * 7 + [2 / 3, 1 / 3, 0], "the last step has a rate of 0 and is wasted; 0 belongs to step number `steps`"),
            ([1] * 6 + [1, 2 / 3, 1 / 3, 0], "the last step has a rate of 0 and is wasted; 0 belongs to step number `steps`"),
            ([1] * 6 + [0.8, 0.6, 0.4, 0.2], "the warm-down begins a step too early; step steps - warmdown still has 1"),
            (got if close(got[:8], [1] * 8) and got[9] < 0.999 else [], late),
            ([1 - t / 10 for t in range(10)], "the rate falls from the first step on; it is 1 until step steps - warmdown"),
            (
                [1] * 4 + [(10 - t) / 6 for t in range(4, 10)],
                "the rate falls after `warmdown` steps; it falls during the last ones",
            ),
            (
                [1] * 5 + [(10 - t) / 6 for t in range(5, 10)],
                "the rate falls after `warmdown` steps; it falls during the last ones",
            ),
            ([1] * 10, "the rate never falls"),
        ],
        "it falls by 1 / warmdown a step, and step steps - warmdown still has 1",
    )
    got = whole(10, 0, 4, 0.2)
    compare(
        got,
        [1] * 7 + [0.8, 0.6, 0.4],
        f"the same with final 0.2 gave {said(got[6:])} at the end, expected 1, 0.8, 0.6, 0.4",
        [
            ([1] * 7 + [0.75, 0.5, 0.25], "final is ignored, or no more than a floor; the line leads from 1 to final"),
            ([1] * 7 + [0.95, 0.7, 0.45], "final is added on top; the line leads from 1 to final"),
            ([1] * 7 + [0.15, 0.1, 0.05], "final multiplies the rate; the line leads from 1 to final"),
        ],
        "the line leads from 1 at step steps - warmdown to final at step number `steps`",
    )
    for shape in ((10, 2, 4, 0.0), (97, 13, 60, 0.05), (50, 20, 30, 0.5), (40, 0, 40, 0.1), (7, 1, 1, 0.3), (30, 30, 0, 0.0)):
        plan = _plan(*shape)
        for step, got in enumerate(whole(*shape)):
            steps, warmup, warmdown, final = shape
            line = f"step {step} with steps {steps}, warmup {warmup}, warmdown {warmdown}, final {final} gave {got:.4f}"
            need(abs(got - plan.lr(step)) <= 1e-5, f"{line}, expected {plan.lr(step):.4f}: is it one of the two ends of a part?")


# ------------------------------------------------------------------------------------------------- 4.2


class _Spy(torch.nn.Module):
    """A small GPT that keeps account of what goes through it."""

    def __init__(self):
        super().__init__()
        self.gpt = GPT(GPTConfig(vocab_size=300, sequence_len=8, n_layer=1, n_embd=16, n_head=1, n_kv_head=1))
        g = torch.Generator().manual_seed(42)
        with torch.no_grad():
            for p in self.gpt.parameters():
                p.copy_(torch.randn(p.shape, generator=g) / 4)
        self.rows, self.open, self.heaped = [], 0, False

    def forward(self, idx, *args, **kwargs):
        self.rows.append(len(idx))
        self.heaped |= torch.is_grad_enabled() and self.open > 0  # a forward pass whose backward pass has not come yet
        out = self.gpt(idx, *args, **kwargs)
        if out.requires_grad:
            self.open += 1
            out.register_hook(self._backward)
        return out

    def _backward(self, _):
        self.open -= 1


def _flat(grads) -> torch.Tensor:
    return torch.cat([x.flatten() for x in grads]).double()


def accumulate(f) -> None:
    for n, size in ((6, 2), (7, 3), (5, 4), (3, 8)):
        rows = torch.randint(300, (n, 9), generator=torch.Generator().manual_seed(n))
        spy = _Spy()
        names, params = zip(*spy.named_parameters())
        before, kept = [p.detach().clone() for p in params], rows.clone()
        losses, pieces = [], []
        for piece in rows.split(size):
            losses.append(spy.gpt(piece[:, :-1], piece[:, 1:]))
            pieces.append(_flat(torch.autograd.grad(losses[-1], params)))
        losses, counts, k = [x.item() for x in losses], [len(x) for x in rows.split(size)], len(pieces)
        old = torch.Generator().manual_seed(1)
        for p in params:
            p.grad = torch.randn(p.shape, generator=old)
        leftover = _flat(p.grad for p in params)
        wanted = _flat(torch.autograd.grad(spy.gpt(rows[:, :-1], rows[:, 1:]), params))
        wanted_loss = sum(a * b for a, b in zip(losses, counts)) / n
        spy.rows = []
        value = f(spy, rows, size)
        at = f"{n} rows, at most {size} at a time"

        need(torch.equal(rows, kept), "rows was changed in place")
        need(spy.rows, f"{at}: the model was never called")
        need(max(spy.rows) <= size, f"{at}: the model was given {max(spy.rows)} rows at once; split the rows into pieces")
        need(
            sum(spy.rows) >= n,
            f"{at}: only {sum(spy.rows)} rows went through the model; the last piece may be smaller, but it counts",
        )
        need(all(torch.equal(a, b) for a, b in zip(params, before)), "the weights changed: make no optimizer step here")
        missing = next((name for name, p in zip(names, params) if p.grad is None), None)
        need(
            missing is None,
            f"p.grad of {missing} is None afterwards: is backward called, and is zero_grad before it and not after?",
        )
        got = _flat(p.grad for p in params)

        def like(x, got=got, size=1e-4):
            return (got - x).norm() <= size * x.norm()

        def along(x, got=got):
            return got @ x >= (1 - 1e-6) * got.norm() * x.norm() and got.norm() > 0

        need(got.norm() > 0, f"{at}: every gradient is 0 afterwards: is zero_grad called after the last backward?")
        need(
            not like(leftover + wanted) and not like(leftover + sum(pieces)),
            f"{at}: the gradients of an earlier step are still in it; clear them once, before the first piece",
        )
        if k > 1:
            need(not along(pieces[-1]), f"{at}: only the last piece is in the gradient; is zero_grad inside the loop?")
            need(not along(pieces[0]), f"{at}: only the first piece is in the gradient")
            need(
                not like(sum(pieces)),
                f"{at}: the sum of the pieces' mean gradients, not the mean; each piece counts len(piece) / n",
            )
            ratio = (got.norm() / wanted.norm()).item()
            need(
                not (along(wanted) and not like(wanted)),
                f"{at}: {ratio:.3g} times the mean gradient; each piece counts len(piece) / n",
            )
            need(
                like(wanted) or not like(sum(pieces) / k),
                f"{at}: a piece of {counts[-1]} counts as much as one of {counts[0]}; weight each by len(piece) / n",
            )
            need(
                like(wanted) or not along(sum(c * x for c, x in zip(counts, pieces)) + leftover),
                f"{at}: an earlier step is still in it",
            )
        need(
            like(wanted), f"{at}: the gradient is not that of the mean loss over all rows; does each piece count len(piece) / n?"
        )
        need(
            not spy.heaped,
            f"{at}: no backward pass ran between the pieces, so all of them are in memory together; call it for each",
        )

        value = _number(value, "accumulate")
        line = f"{at}: the gradient is right, but the loss came out as {value:.4f}, expected {wanted_loss:.4f}"
        errors = [
            (losses[-1], "this is the last piece's loss"),
            (losses[-1] * counts[-1] / n, "this is the last piece's share"),
            (sum(losses), "this is the sum over the pieces"),
            (sum(losses) / k, "pieces of different sizes count by their rows"),
            (wanted_loss / n, "it is divided by n twice"),
            (wanted_loss * n, "divide the sum over rows by n"),
        ]
        _known(value, wanted_loss, line, errors, "the mean over all rows, each counted once")


# ------------------------------------------------------------------------------------------------- 4.3

_TEXTS = ("the cat sat on the mat and the dog sat on the log", "a café, naïve façade, thé", "the the the")


@functools.cache
def _small_tokenizer() -> Tokenizer:
    return Tokenizer.train(_TEXTS * 3, 272)


def _small_model(seed: int, uniform: bool) -> GPT:
    model = GPT(GPTConfig(vocab_size=272, sequence_len=128, n_layer=1, n_embd=16, n_head=1, n_kv_head=1))
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
        if uniform:
            model.lm_head.weight.zero_()
    return model.eval()


def bits_per_byte(f) -> None:
    tokenizer = _small_tokenizer()
    model, documents = _small_model(1, uniform=True), [_TEXTS[1], _TEXTS[0]]
    state = [p.detach().clone() for p in model.parameters()]
    tokens = [len(tokenizer.encode(t)) for t in documents]
    sizes = [len(t.encode()) for t in documents]
    chars, bit = sum(map(len, documents)), math.log2(272)
    n, size = sum(tokens), sum(sizes)
    wanted = n * bit / size
    value = _number(f(model, list(documents), tokenizer), "bits_per_byte")
    line = f"a model that finds all 272 tokens alike, {n} tokens, {size} bytes: {value:.4f} bits per byte, expected {wanted:.4f}"
    _known(
        value,
        wanted,
        line,
        [
            (wanted * math.log(2), "these are nats; divide by ln 2"),
            (wanted * math.log(2) ** 2, "the nats were multiplied by ln 2; divide by it"),
            (bit, "these are bits per token; divide by bytes"),
            (bit * math.log(2), "these are nats per token; divide by ln 2, and by bytes"),
            (n * bit / chars, "characters were counted, not bytes; use len(text.encode())"),
            (
                sum(t * bit / s for t, s in zip(tokens, sizes)) / 2,
                "this is the mean of the documents' means; divide all bits by all bytes",
            ),
            (sum(t * bit / len(x) for t, x in zip(tokens, documents)) / 2, "this is a mean of means, over characters"),
            ((n + 2) * bit / size, "BOS was predicted too; it is only there to predict from"),
            (n * bit / (size + 2), "BOS was counted as a byte of text"),
            (n * bit / (size + 2 * len("<|bos|>")), "BOS was counted as text, by the length of its name"),
            ((n - 2) * bit / size, "the first token of each document was not predicted; begin the row with BOS"),
            ((n - 1) * bit / size, "one token was not predicted; begin the row of each document with BOS"),
            ((n + 1) * bit / size, "one token too many was predicted; is every document in a row of its own?"),
            (n * bit, "these are bits, not bits per byte"),
            (
                sum(t * bit / s for t, s in zip(tokens, sizes)),
                "the documents' numbers were added up; divide all bits by all bytes",
            ),
        ],
        "bits of all documents / bytes of all documents, each token of the text predicted once",
    )

    model, documents = _small_model(2, uniform=False), list(_TEXTS)

    def package(texts):
        """(bits, bytes) of the package on texts, which it lays out in rows together."""
        bpb, size = evaluate.bits_per_byte(model, texts, tokenizer, 128)
        return bpb * size, size

    alone = [package([t]) for t in documents]
    wanted = sum(b for b, _ in alone) / sum(s for _, s in alone)
    together = package(documents)
    without = 0.0
    for t in documents:
        row = torch.tensor([tokenizer.encode(t)])
        without += model(row[:, :-1], row[:, 1:], reduction="none").sum().item() / math.log(2)
    value = _number(f(model, list(documents), tokenizer), "bits_per_byte")
    _known(
        value,
        wanted,
        f"a model with random weights on three documents came out at {value:.4f} bits per byte, expected {wanted:.4f}",
        [
            (together[0] / together[1], "one document saw another; give each a row of its own"),
            (sum(b / s for b, s in alone) / 3, "this is the mean of the documents' means; divide all bits by all bytes"),
            (without / sum(s for _, s in alone), "the first token of each document was not predicted; begin the row with BOS"),
        ],
        "are inputs and targets one apart, row[:, :-1] and row[:, 1:], and does the row begin with BOS?",
    )
    value = _number(f(model, [documents[0]], tokenizer), "bits_per_byte")
    need(
        abs(value - alone[0][0] / alone[0][1]) < 1e-3,
        f"one document alone came out at {value:.4f}, expected {alone[0][0] / alone[0][1]:.4f}",
    )
    unchanged = all(torch.equal(p, q) for p, q in zip(_small_model(1, uniform=True).parameters(), state))
    need(unchanged and all(p.grad is None for p in model.parameters()), "measuring must not leave gradients in the model")


# ------------------------------------------------------------------------------------------------- 4.4


def _three(out, shape, p):
    need(out is not None, "the answer returned None: is the return missing?")
    need(isinstance(out, (tuple, list)) and len(out) == 3, "expected three results, the new p, m and v")
    out = [torch.as_tensor(x) for x in out]
    for name, x in zip("pmv", out):
        need(x.shape == shape, f"{name} came out with the shape {tuple(x.shape)}, expected {tuple(shape)}")
    return [x.detach().double() for x in out]


def adamw(f) -> None:
    def one(p=1.0, g=2.0, m=0.0, v=0.0, step=1, lr=0.1, beta1=0.8, beta2=0.99, eps=0.0, weight_decay=0.0):
        values = [torch.tensor([x]) for x in (p, g, m, v)]
        kept = values[1].clone()
        out = _three(f(*values, step, lr, beta1, beta2, eps, weight_decay), (1,), values[0])
        need(torch.equal(values[1], kept), "the gradient g was changed in place")
        return [x.item() for x in out]

    p, m, v = one()
    _known(
        m,
        0.4,
        f"m came out as {m:.4g} for beta1 0.8 and g 2, expected 0.4",
        [
            (1.6, "beta1 belongs to the old m, 1 - beta1 to g"),
            (2.0, "m is returned corrected; keep the plain running mean"),
            (0.0, "m did not change"),
        ],
        "m <- beta1 m + (1 - beta1) g",
    )
    _known(
        v,
        0.04,
        f"v came out as {v:.4g} for beta2 0.99 and g 2, expected 0.04",
        [
            (0.02, "v is the mean of g squared, not of g"),
            (3.96, "beta2 belongs to the old v, 1 - beta2 to g squared"),
            (4.0, "v is returned corrected; keep the plain running mean"),
            (0.8, "beta1 was used for v"),
            (0.0, "v did not change"),
        ],
        "v <- beta2 v + (1 - beta2) g squared",
    )
    line = f"the first step from p = 1 with lr 0.1 led to {p:.4f}, expected 0.9000, a step of lr"
    _known(
        p,
        0.9,
        line,
        [
            (0.8, "there is no bias correction; divide m by 1 - beta1^step and v by 1 - beta2^step"),
            (0.0, "v has no bias correction"),
            (0.98, "m has no bias correction"),
            (1.1, "the step goes uphill; subtract it"),
            (1 - 0.1 * 0.4 / 0.36 / math.sqrt(0.04 / (1 - 0.99**2)), "the correction used step + 1; step counts from 1 already"),
            (0.95, "divide by the square root of v', not by v'"),
            (1.0, "p did not change"),
            (0.96, "m was not divided by the root of v'"),
        ],
        "p - lr m' / sqrt(v') with m' = 2 and v' = 4",
    )
    p, m, v = one(eps=2.0)
    _known(
        p,
        0.95,
        f"the same with eps 2 led to {p:.4f}, expected 0.9500",
        [
            (1 - 0.2 / math.sqrt(6), "eps is inside the square root; add it to the root"),
            (0.9, "eps is ignored"),
            (1 - 0.2 / math.sqrt(8), "eps squared is inside the square root; add eps to the root"),
            (1 - 0.2 / math.sqrt(204), "eps is inside the square root, before the correction"),
            (1 - 0.2 / 22, "eps was added before the correction of v; correct first"),
        ],
        "eps is added to sqrt(v'), after the correction",
    )
    p, m, v = one(weight_decay=0.5)
    need(
        abs(m - 0.5) > 1e-4,
        f"m came out as {m:.4g} with a weight decay of 0.5, expected 0.4: the decay went into the gradient (L2); pull p itself",
    )
    need(
        abs(v - 0.0625) > 1e-5,
        f"v came out as {v:.4g} with a weight decay of 0.5, expected 0.04: the decay went into the gradient (L2)",
    )
    _known(
        p,
        0.85,
        f"p = 1 with lr 0.1 and weight decay 0.5 led to {p:.4f}, expected 0.8500",
        [
            (0.9, "the decay is missing, or it went through the gradient and was divided away"),
            (0.4, "the decay is not multiplied by lr"),
            (0.855, "the decay came after the step; it acts on the old p"),
            (0.95, "the decay pushes p away from 0"),
            (0.875, "the decay was divided by the root of v' (L2 in disguise); it acts on p itself"),
        ],
        "(1 - lr weight_decay) p, then the step",
    )
    wanted = one_reference(p=1.0, g=2.0, m=1.0, v=9.0, step=3)
    p, m, v = one(m=1.0, v=9.0, step=3)
    _known(
        p,
        wanted,
        f"step 3 from m = 1 and v = 9 led to {p:.5f}, expected {wanted:.5f}",
        [
            (
                1 - 0.1 * 1.2 / 0.2 / math.sqrt(8.95 / 0.01),
                "the correction does not know the step; 1 - beta1^step, not 1 - beta1",
            ),
            (1 - 0.1 * 1.2 / math.sqrt(8.95), "there is no bias correction"),
        ],
        "is beta^step in the correction?",
    )

    g = torch.Generator().manual_seed(44)
    for shape, settings in (
        ((3, 4), (0.01, 0.8, 0.95, 1e-10, 0.2)),
        ((5,), (0.3, 0.9, 0.999, 1e-3, 0.0)),
        ((2, 3, 2), (0.02, 0.0, 0.5, 1e-8, 1.5)),
    ):
        mine = [torch.randn(shape, generator=g), torch.zeros(shape), torch.zeros(shape)]
        ours = [x.clone() for x in mine]
        for step in range(1, 8):
            grad = torch.randn(shape, generator=g)
            mine = [
                x.float()
                for x in _three(f(*(x.clone() for x in (mine[0], grad, mine[1], mine[2])), step, *settings), shape, None)
            ]
            lr, beta1, beta2, eps, decay = settings
            optim.adamw_update(ours[0], grad, ours[1], ours[2], step, lr, beta1, beta2, eps, decay)
            for name, a, b in zip("pmv", mine, ours):
                need_close(
                    a,
                    b,
                    f"{name} differs from the package's after step {step} on random tensors {shape}: is step in the correction?",
                    atol=1e-4,
                )


def one_reference(p, g, m, v, step) -> float:
    p, g, m, v = (torch.tensor([x]) for x in (p, g, m, v))
    optim.adamw_update(p, g, m, v, step, 0.1, 0.8, 0.99, 0.0, 0.0)
    return p.item()


# ------------------------------------------------------------------------------------------------- 4.5


def checkpoints(f, g) -> None:
    def known(args, wanted, errors, otherwise):
        steps, seconds, every, save, crashes, restart = args
        value = _number(f(*args), "paid_hours")
        line = (
            f"{steps} steps of {seconds:g} s, a save of {save:g} s every {every:g} minutes, {crashes} crashes, "
            f"restart {restart:g} minutes: "
            f"{value:.5f} hours, expected {wanted:.5f}"
        )
        near = 1e-5 * wanted
        if abs(value - wanted) > near:
            for wrong, hint in errors:
                need(abs(value - wrong) > near, f"{line}: {hint}")
            need(False, f"{line}: {otherwise}")

    known(
        (3600, 1.0, 20, 0, 0, 0),
        1.0,
        [(3600.0, "these are seconds"), (60.0, "these are minutes")],
        "training alone takes one hour",
    )
    known(
        (1800, 2.0, 20, 12, 0, 0),
        1.01,
        [
            (1 + 48 / 3600, "one save too many; the save at minute 60 is that of the last step"),
            (1 + 24 / 3600, "the save after the last step is missing"),
            (1 + 36 / 60, "the seconds of a save were taken as minutes"),
            (1 + 36, "the seconds of a save were taken as hours"),
            (1.0, "the saves cost nothing"),
        ],
        "3 saves, at 20, 40 and 60 minutes, 36 seconds",
    )
    known(
        (3600, 1.0, 25, 12, 0, 0),
        1.01,
        [
            (1 + 24 / 3600, "the save after the last step is missing; saves come at 25, 50 and 60 minutes"),
            (1 + 28.8 / 3600, "2.4 saves; round up"),
            (1 + 48 / 3600, "one save too many"),
        ],
        "3 saves, at 25, 50 and 60 minutes",
    )
    known(
        (3600, 1.0, 25, 0, 2, 5),
        1 + 35 / 60,
        [
            (1 + 60 / 60, "a whole interval was lost at each crash; on average it is half of one"),
            (1 + 25 / 60, "the restarts are missing"),
            (1 + 10 / 60, "the training done again is missing"),
            (1 + 17.5 / 60, "only one crash was counted"),
            (1 + 50 / 60, "a whole interval was lost, and the restarts are missing"),
            (1 + 30 / 60, "only one restart was counted"),
            (1 + 22.5 / 60, "the lost time of only one crash was counted"),
        ],
        "2 crashes, each of 12.5 minutes done again and 5 minutes of restart",
    )
    draw = torch.Generator().manual_seed(45)
    for _ in range(6):
        u = torch.rand(6, generator=draw).tolist()
        args = (
            int(1000 + 9000 * u[0]),
            0.2 + u[1],
            round(3 + 30 * u[2], 2),
            round(1 + 60 * u[3], 1),
            int(5 * u[4]),
            round(2 + 10 * u[5], 1),
        )
        steps, seconds, every, save, crashes, restart = args
        train, saves, at = steps * seconds, 0, 0.0
        while at < train:  # walk through the run, save by save
            at, saves = min(at + every * 60, train), saves + 1
        known(
            args,
            (train + saves * save + crashes * (every * 30 + restart * 60)) / 3600,
            [],
            "is every one of the six numbers in it once?",
        )

    for hours, save, crashes in ((2.0, 18.0, 1), (3.0, 20.0, 4), (24.0, 5.0, 3)):
        wanted = min((x / 100 for x in range(1, 60_000)), key=lambda x: save * hours * 60 / x / 60 + crashes * x / 2)
        value = _number(g(hours, save, crashes), "best_minutes")
        line = f"{hours:g} hours of training, saves of {save:g} s, {crashes} crashes: {value:.4g} minutes, expected {wanted:.4g}"
        for wrong, hint in (
            (wanted * 60, "these are seconds"),
            (wanted / 60, "these are hours"),
            (wanted / math.sqrt(2), "is it half an interval that is lost, and not a whole one?"),
            (wanted * math.sqrt(2), "half an interval is lost, so x / 2 once; is there a factor of 2 too many?"),
            (wanted * crashes, "the number of crashes stands under the root"),
            (wanted**2, "the square root is missing"),
            (wanted * math.sqrt(60), "save_seconds is in seconds, the answer in minutes"),
            (wanted / math.sqrt(60), "train_hours and save_seconds need one unit"),
        ):
            need(abs(value - wrong) > 0.01 * wrong or abs(value - wanted) <= 0.02 * wanted, f"{line}: {hint}")
        if crashes > 1:
            need(abs(value - wanted * math.sqrt(crashes)) > 0.01 * value, f"{line}: the number of crashes is not in it")
        need(abs(value - wanted) <= 0.02 * wanted, f"{line}: where are the costs of saving and of doing again equal?")


EXERCISES = (
    Exercise("4.1", "The learning-rate schedule", rate, points=2, minutes=10, difficulty=2, importance=4),
    Exercise("4.2", "Gradient accumulation", accumulate, points=3, minutes=15, difficulty=3, importance=5),
    Exercise("4.3", "Bits per byte", bits_per_byte, points=3, minutes=15, difficulty=2, importance=5),
    Exercise("4.4", "One step of AdamW", adamw, points=3, minutes=15, difficulty=2, importance=5),
    Exercise("4.5", "What checkpoints cost", checkpoints, points=2, minutes=15, difficulty=2, importance=3),
)
