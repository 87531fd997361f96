"""Checks of the exercises of lesson 03: causal attention, rotary positions, RMSNorm, the loss, and what a model
costs."""

import math

import torch

from gpt2course.attention import attention
from gpt2course.course.checks import Exercise, need, need_close
from gpt2course.losses import cross_entropy
from gpt2course.model import GPTConfig, norm, rope, rope_tables
from gpt2course.recipes import build


def _close(got, wanted) -> bool:
    """Whether a tensor or number is that of a known error."""
    return torch.allclose(
        torch.as_tensor(got, dtype=torch.float64),
        torch.as_tensor(wanted, dtype=torch.float64),
        rtol=1e-3,
        atol=1e-4,
        equal_nan=True,
    )


def _need_known(got, wanted, errors: list[tuple], message: str) -> None:
    """`need_close` with one hint for each result of a known error: errors holds (what it gives, hint)."""
    for value, hint in errors:
        need(not _close(got, value), hint)
    need_close(got, wanted, message)


def _tensor(x, shape, hint: str, name: str = "the output") -> None:
    need(x is not None, "the answer returned None: is the return missing?")
    need(isinstance(x, torch.Tensor), f"{name} is a {type(x).__name__}, expected a tensor")
    need(x.shape == shape, f"{name} has the shape {tuple(x.shape)}, expected {tuple(shape)}: {hint}")


def causal_attention(f) -> None:
    g = torch.Generator().manual_seed(31)
    q, k, v = torch.randn(3, 2, 5, 3, 4, generator=g)  # B 2, T 5, H 3, D 4
    before = [x.clone() for x in (q, k, v)]
    y = f(q, k, v)
    _tensor(y, q.shape, "is the last step the transpose back to (B, T, H, D)?")
    need(all(map(torch.equal, (q, k, v), before)), "q, k or v was changed in place: work on a copy")

    hides = "NaN came out: does the mask hide a whole row (position i sees itself), or is another axis than the keys summed over?"
    one = f(q[:, :1, :1], k[:, :1, :1], v[:, :1, :1])
    need(not torch.isnan(one).any(), hides)
    need_close(
        one, v[:, :1, :1], "a row of a single token did not come out as its value: its one weight is 1; do your weights sum to 1?"
    )

    zero, values = (
        torch.zeros(1, 4, 1, 1),
        torch.tensor([1.0, 2, 3, 6]).view(1, 4, 1, 1),
    )  # all scores 0: the mean of what each position sees
    got = f(zero, zero, values)
    _tensor(got, (1, 4, 1, 1), "with B = 1, H = 1 and D = 1")
    got = got.flatten()
    need(not torch.isnan(got).any(), hides)
    found = (
        f"values 1, 2, 3, 6 under equal scores came out as {', '.join(f'{x:.3g}' for x in got.tolist())}, expected 1, 1.5, 2, 3"
    )
    _need_known(
        got, [1, 1.5, 2, 3],
        [
            ([3, 3, 3, 3], f"{found}: every position sees the future; is there a causal mask?"),
            ([0.25, 0.75, 1.5, 3], f"{found}: weights sum to less than 1; hide the future before the softmax, not after"),
            ([1.5, 2, 3, 3], f"{found}: the mask is off by one; position i sees i and what is before, not i + 1"),
            ([3, 11 / 3, 4.5, 6], f"{found}: the mask is upside down; a query sees the keys before it, a lower triangle"),
            ([0.25, 11 / 12, 29 / 12, 101 / 12], f"{found}: the softmax is over the queries, not the keys"),
            ([1, 2, 3, 6], f"{found}: each position got its own value; are the scores (T, T), with q and k as (B, H, T, D)?"),
        ],
        f"{found}; are the weights of a query positive, and do they sum to 1 over the keys it sees?",
    )  # fmt: skip

    q2, k2, v2 = torch.zeros(3, 1, 2, 1, 4)  # D 4: the second query scores its own key 2 ln 3 / sqrt(4) = ln 3, so 1 : 3
    q2[0, 1], k2[0, 1], v2[0, 1] = 1.0, math.log(3) / 2, 1.0
    found = (got := f(q2, k2, v2))[0, 1, 0, 0].item()
    line = f"a dot product of 2 ln 3 at D = 4 gave the weight {found:.3f}, expected 0.750"
    need(abs(found - 0.9) > 1e-3, f"{line}: the scores are not divided; divide them by sqrt(D) before the softmax")
    need(abs(found - math.sqrt(3) / (1 + math.sqrt(3))) > 1e-3, f"{line}: the scores are divided by D; divide by its square root")
    need_close(
        got[0, :, 0], [[0.0] * 4, [0.75] * 4], f"{line}: is the score the dot product of query i and key j, divided by sqrt(D)?"
    )

    other = [x.clone() for x in (q, k, v)]
    for x in other:
        x[:, :, 2] += 1.0
    need_close(
        f(*other)[:, :, :2],
        y[:, :, :2],
        "heads 0 and 1 changed when only head 2 did: heads and positions are mixed; use transpose(1, 2), not view",
    )
    other = [x.clone() for x in (q, k, v)]
    for x in other:
        x[:, 4] += 1.0
    need_close(f(*other)[:, :4], y[:, :4], "changing the last token changed the output of earlier ones: what hides the future?")
    other = [x.clone() for x in (q, k, v)]
    for x in other:
        x[1] += 1.0
    need_close(f(*other)[0], y[0], "row 0 of the batch changed when only row 1 did: rows do not see each other")

    wanted = attention(q, k, v)
    need(
        not _close(y, attention(q * math.sqrt(4 / 12), k, v)),
        "the scores are divided by sqrt(H D): D is the size of one head, the last axis",
    )
    need_close(
        y,
        wanted,
        "random input: differs from the package's attention; are query and key mixed up, or is the scale another than sqrt(D)?",
    )

    mine, ours = ([x.clone().requires_grad_() for x in (q, k, v)] for _ in range(2))
    y, wanted = f(*mine), attention(*ours)
    need(y.requires_grad, "no gradient reaches q, k and v: is something detached, or copied out of the graph?")
    y.square().sum().backward()
    wanted.square().sum().backward()
    for name, a, b in zip("qkv", mine, ours):
        need(a.grad is not None, f"no gradient reaches {name}: is something detached?")
        need_close(a.grad, b.grad, f"the output is right, but the gradient of {name} is not: is something detached?", atol=1e-4)


def _turned(x, start: int = 0, base: float = 10_000.0):
    cos, sin = rope_tables(start + x.size(1), x.size(3), base)
    return rope(x, cos[start:], sin[start:])


def turn(f) -> None:
    g = torch.Generator().manual_seed(32)
    q, k, v = torch.randn(3, 2, 6, 3, 8, generator=g)  # B 2, T 6, H 3, D 8
    before = [x.clone() for x in (q, k, v)]
    out = f(q, k, v)
    need(out is not None, "the answer returned None: is the return missing?")
    need(isinstance(out, (tuple, list)) and len(out) == 3, "expected three tensors, q, k and v")
    for name, x, y in zip("qkv", (q, k, v), out):
        _tensor(y, x.shape, "RoPE keeps shapes", name)
    need(all(map(torch.equal, (q, k, v), before)), "q, k or v was changed in place: work on a copy")
    need_close(out[2], v, "v came out changed: only the scores need positions, so only q and k are turned")
    for name, x, y in zip("qk", (q, k), out):
        need(not _close(y, x), f"{name} came out as it went in: is it turned?")
        need_close(
            y[:, 0],
            x[:, 0],
            f"{name} changed at position 0, where every angle is 0: do the angles run along T, the second axis, and start at 0?",
        )

    def unit(channel, D, **kw):  # the unit vector of a channel at positions 0 and 1, turned, position 1
        x = torch.zeros(1, 2, 1, D)
        x[..., channel] = 1.0
        return f(x, x, x, **kw)[0][0, 1, 0].tolist()

    c, s, tiny = math.cos(1), math.sin(1), 0.01

    def wants(got, wanted, errors, text):
        shown = ", ".join(f"{x:.3f}" for x in got)
        _need_known(
            got,
            wanted,
            [(e, f"{text} came out as [{shown}]: {hint}") for e, hint in errors],
            f"{text} came out as [{shown}], expected [{', '.join(f'{x:.3f}' for x in wanted)}]",
        )

    wants(unit(0, 2), [c, -s], [([c, s], "the sign of the turn; a' = a cos + b sin, b' = b cos - a sin")], "[1, 0] at position 1")
    neighbours = "channel 0 was paired with its neighbour; the pairs are the two halves, i and i + D/2"
    wants(unit(0, 4), [c, 0, -s, 0], [([c, -s, 0, 0], neighbours), ([c, s, 0, 0], neighbours)], "[1, 0, 0, 0] at position 1")

    def second(angle):
        return [0, math.cos(angle), 0, -math.sin(angle)]

    exponent = "the second pair turns by 10000^(-2/4) = 0.01, the exponent is -2i/D"
    slow = [
        (second(0.1), exponent),
        (second(1e-4), exponent),
        (second(1.0), "all pairs turn alike; pair i turns by t base^(-2i/D)"),
        (second(100.0), exponent),
    ]
    wants(unit(1, 4), second(tiny), slow, "[0, 1, 0, 0] at position 1")
    wants(
        unit(1, 4, base=100.0),
        second(0.1),
        [(second(tiny), "base was 100, but 10000 was used")],
        "[0, 1, 0, 0] at position 1 with base 100",
    )

    late = f(q[:, :1], k[:, :1], v[:, :1], start=7)
    need(not _close(late[0], q[:, :1]), "a single token with start = 7 came out as at position 0: its position is start, not 0")
    need_close(late[0], _turned(q[:, :1], 7), "a single token with start = 7 is not turned by the angles of position 7")
    later = f(q, k, v, start=3)
    need(not _close(later[1], out[1]), "with start = 3 the keys came out as with start = 0: k has the same positions as q")
    need_close(later[2], v, "with start = 3 v came out changed: only q and k are turned")

    def scores(a, b):
        return a.transpose(1, 2) @ b.transpose(1, 2).transpose(2, 3)  # (B, H, T, T)

    same = "scores changed when all positions moved by 3: only the distance may count; are q and k turned the same way?"
    need_close(scores(*later[:2]), scores(*out[:2]), same, atol=1e-4)
    for start, base in ((0, 10_000.0), (3, 500.0)):
        for name, x, y in zip("qk", (q, k), f(q, k, v, start=start, base=base)):
            need_close(
                y,
                _turned(x, start, base),
                f"random input with start = {start}, base = {base:g}: {name} differs from the package's",
            )
    x = q.clone().requires_grad_()
    y = f(x, k, v)[0]
    need(y.requires_grad, "no gradient reaches q: is something detached?")
    y[:, :, :, 0].sum().backward()
    ours = q.clone().requires_grad_()
    _turned(ours)[:, :, :, 0].sum().backward()
    need_close(x.grad, ours.grad, "the output is right, but the gradient of q is not: is something detached?")


def rms_norm(f) -> None:
    x = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(33)) * 3 + 1
    before, y = x.clone(), f(x)
    _tensor(y, x.shape, "the shape stays")
    need(torch.equal(x, before), "x was changed in place: work on a copy")
    r = 12.5**0.5
    got = f(torch.tensor([[3.0, 4.0]]), eps=0.0)
    _tensor(got, (1, 2), "the shape stays")
    line = f"[3, 4] with eps = 0 came out as [{', '.join(f'{a:.3f}' for a in got[0].tolist())}], expected [0.849, 1.131]"
    _need_known(
        got, [[3 / r, 4 / r]],
        [
            ([[-1.0, 1.0]], f"{line}: a mean was subtracted, as in LayerNorm; RMSNorm subtracts none"),
            ([[6.0, 8.0]], f"{line}: a variance has its mean subtracted; take the mean of the squares"),
            ([[0.6, 0.8]], f"{line}: the sum of squares was taken, not their mean"),
            ([[3 / 12.5, 4 / 12.5]], f"{line}: the root is missing"),
            ([[1.0, 1.0]], f"{line}: the mean runs along the wrong axis; the last one holds the vector"),
        ],
        f"{line}: divide by the root of the mean of squares, 3.536",
    )  # fmt: skip
    got = f(torch.tensor([[0.3, 0.4]]), eps=0.125)
    line = f"[0.3, 0.4] with eps = 0.125 came out as [{', '.join(f'{a:.3f}' for a in got[0].tolist())}], expected [0.600, 0.800]"
    small = 0.125**0.5
    _need_known(
        got, [[0.6, 0.8]],
        [
            ([[0.3 / (small + 0.125), 0.4 / (small + 0.125)]], f"{line}: eps was added outside the root; it belongs under it"),
            ([[0.3 / small, 0.4 / small]], f"{line}: eps was not used"),
        ],
        f"{line}: the root is taken of the mean of squares plus eps",
    )  # fmt: skip
    need_close(f(torch.zeros(2, 4)), torch.zeros(2, 4), "a vector of zeros did not come out as zeros: is eps under the root?")
    need_close(
        f(x * 100),
        y,
        "100 times the input gave another output: a norm forgets the size; is a mean over the wrong axis, or eps too large?",
        atol=1e-4,
    )
    other = x.clone()
    other[1] += 1.0
    need_close(f(other)[0], y[0], "row 0 changed when only row 1 did: the mean runs over the last dimension alone, not over all")
    other = x.clone()
    other[:, 2] += 1.0
    need_close(
        f(other)[:, :2], y[:, :2], "vectors changed when only another one did: the mean runs over the last dimension alone"
    )
    need_close(y, norm(x), "random input: differs from the package's norm")
    need_close(
        f(x[0, 0, 0]),
        norm(x[0, 0, 0]),
        "a single vector (C,) differs from the package's norm: use the last dimension, dim=-1, and not a fixed number",
    )
    mine, ours = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = f(mine)
    need(y.requires_grad, "no gradient reaches x: is something detached?")
    y.pow(3).sum().backward()
    norm(ours).pow(3).sum().backward()
    need_close(mine.grad, ours.grad, "the output is right, but the gradient is not: is the root mean square detached?", atol=1e-4)


def next_token_loss(f) -> None:
    def loss(logits, tokens, **kw):
        logits, tokens = torch.as_tensor(logits, dtype=torch.float32), torch.as_tensor(tokens)
        before = logits.clone(), tokens.clone()
        got = f(logits, tokens, **kw)
        need(got is not None, "the answer returned None: is the return missing?")
        need(
            torch.equal(logits, before[0]) and torch.equal(tokens, before[1]),
            "logits or tokens were changed in place: work on a copy",
        )
        got = torch.as_tensor(got)
        need(got.numel() == 1, f"expected one number, got the shape {tuple(got.shape)}: is the mean missing?")
        return got.detach().double().item()

    got = loss(torch.zeros(1, 2, 2), [[0, 1]])
    need(abs(got - 1) > 1e-4, "two equal logits gave 1.000, expected ln 2 = 0.693: that is in bits; take the natural logarithm")
    need_close(
        got,
        math.log(2),
        f"two equal logits gave {got:.3f}, expected ln 2 = 0.693; is it minus the logarithm of the probability of the target?",
    )
    tokens = torch.tensor([[0, 1, 2, 0, 2]])
    sure = torch.full((1, 5, 3), -10.0)
    sure[0, torch.arange(4), tokens[0, 1:]] = 10.0  # certain of every next token; nothing is right after the last
    got = loss(sure, tokens)
    need(
        got < 1,
        f"a model certain of every next token got the loss {got:.2f}, not 0: is the shift missing? tokens[:, t + 1] judges logits[:, t]",
    )
    got = loss(torch.zeros(1, 3, 2), [[0, 1, -1]])
    line = f"tokens [0, 1, -1] with equal logits gave {got:.3f}, expected ln 2 = 0.693"
    need(
        min(abs(got - math.log(2) / n) for n in (2, 3)) > 1e-4,
        f"{line}: the mean was taken over filler too; divide by the number of targets that count",
    )
    need_close(got, math.log(2), f"{line}: one target counts; -1 is never a target")
    got = loss([[[0.0, 30.0], [0.0, 0.0]]], [[0, 0]])
    wanted = cross_entropy(torch.tensor([[0.0, 30.0]]), torch.eye(2), torch.tensor([0]), 15.0).item()
    line = f"logits [0, 30] with the target 0 and cap = 15 gave {got:.3f}, expected {wanted:.3f}"
    need(abs(got - 30) > 1e-2, f"{line}: the softcap is missing; cap tanh(z / cap) before the softmax")
    need(abs(got - 15) > 1e-2, f"{line}: the logits were cut off at the cap; a softcap is smooth, cap tanh(z / cap)")
    need_close(got, wanted, f"{line}: is the softcap cap tanh(z / cap), before the softmax?")
    got = loss([[[0.0, 3.0], [0.0, 0.0]]], [[0, 0]], cap=0.0)
    need(
        abs(got - math.log(2)) > 1e-4 and not math.isnan(got),
        f"cap = 0 gave {got:.3f}, expected {math.log1p(math.exp(3)):.3f}: cap = 0 leaves the logits as they are",
    )
    got = loss([[[0.0, 1000.0], [0.0, 0.0]]], [[0, 0]], cap=0.0)
    need(
        math.isfinite(got),
        f"logits [0, 1000] without a cap gave {got}, expected 1000: exp overflows; use log_softmax",
    )
    need_close(got, 1000.0, f"logits [0, 1000] without a cap and the target 0 gave {got:.3f}, expected 1000")
    g = torch.Generator().manual_seed(34)
    for cap in (15.0, 0.0, 2.0):
        logits, tokens = 4 * torch.randn(3, 6, 7, generator=g), torch.randint(7, (3, 6), generator=g)
        tokens[1, 2:], tokens[2, 4:], tokens[0, 3] = -1, -1, -1  # 4, 1 and 3 targets that count
        targets = tokens[:, 1:]
        each = cross_entropy(logits[:, :-1].flatten(0, 1), torch.eye(7), targets.flatten(), cap, "none").view(3, 5)
        got, rows = loss(logits, tokens, cap=cap), (each.sum(1) / (targets >= 0).sum(1)).mean().item()
        need(
            abs(got - rows) > 1e-4,
            f"three rows gave {got:.3f}: that is the mean of each row's mean; take one mean over all targets that count",
        )
        need(abs(got - each.sum().item()) > 1e-4, f"three rows gave {got:.3f}: that is the sum over targets; take the mean")
        need_close(
            got,
            each.sum().item() / (targets >= 0).sum().item(),
            f"random input with cap = {cap:g} gave {got:.4f}, which is not the package's loss",
        )


def _package_budget(config) -> dict:
    model = build(config)
    count = model.num_params()
    attn = sum(p.numel() for b in model.blocks for p in b.attn.parameters())
    parts = {"wte": count["wte"], "attention": attn, "mlp": count["matrices"] - attn, "lm_head": count["lm_head"]}
    return parts | {"total": count["total"], "flops": int(model.flops_per_token())}


def budget(f) -> None:
    tiny = GPTConfig(vocab_size=10, sequence_len=3, n_layer=1, n_embd=2, n_head=1, n_kv_head=1)  # the example of the exercise
    known = {  # part -> what a known error gives for the tiny model, and the hint
        "attention": {12: "there are four matrices: q, k, v and the output projection", 24: "there are no biases"},
        "mlp": {16: "there are two matrices, C to 4C and back", 42: "there are no biases", 8: "the inner width is 4C"},
        "lm_head": {0: "the head is untied, a table of its own", 30: "there are no biases"},
        "total": {68: "the head is untied and counts by itself", 40: "are both tables and all layers in it?"},
        "flops": {
            408: "the attention's own 12 C T a layer is missing",
            160: "the factor 3 is missing; backward costs twice as much as forward",
            208: "6 for each weight: 2 forward, 4 backward",
            600: "looking up a row of wte costs no FLOPs",
            528: "looking up a row of wte costs no FLOPs, and attention costs 12 C T a layer",
            360: "the head is a matrix product too",
        },
    }  # fmt: skip
    layers = "are the parts multiplied by the number of layers, and by nothing else?"
    configs = [
        tiny,
        GPTConfig(vocab_size=300, sequence_len=16, n_layer=3, n_embd=8, n_head=2, n_kv_head=2),
        GPTConfig(n_layer=24, n_embd=1536, n_head=12, n_kv_head=12),
    ]
    for config in configs:
        got, wanted = f(config), _package_budget(config)
        need(isinstance(got, dict), f"expected a dict, got {type(got).__name__}: is the return missing?")
        missing = [part for part in wanted if part not in got]
        need(not missing, f"the dict lacks {', '.join(missing)}")
        size = f"L = {config.n_layer}, C = {config.n_embd}, V = {config.vocab_size}, T = {config.sequence_len}"
        for part, value in wanted.items():
            try:
                found = float(got[part])
            except (TypeError, ValueError):
                need(False, f"{part} is not a number: {got[part]!r}")
            hint = known.get(part, {}).get(found, layers) if config is tiny else layers
            need(found == value, f"{part} is {found:,.0f}, expected {value:,} at {size}: {hint}")


EXERCISES = (
    Exercise("3.1", "Causal attention", causal_attention, points=3, minutes=20, difficulty=3, importance=5),
    Exercise("3.2", "Rotary positions", turn, points=3, minutes=20, difficulty=3, importance=4),
    Exercise("3.3", "RMSNorm", rms_norm, points=1, minutes=5, difficulty=1, importance=4),
    Exercise("3.4", "Measuring: the loss", next_token_loss, points=2, minutes=15, difficulty=2, importance=5),
    Exercise("3.5", "Cost: parameters and FLOPs", budget, points=2, minutes=10, difficulty=2, importance=4),
)
