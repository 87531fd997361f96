"""Checks of lesson 13's exercises: a draw by a maximum, bytes of a step, settings seen from outside, a guess judged."""

import math

import torch

from gpt2course import sample
from gpt2course.recipes import resolve

from gpt2course.course.checks import (  # isort: skip
    MISSING, Exercise, Wrong, call, ids, known, need, need_close, number, several, tensor, tried,
)  # fmt: skip


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- 13.1

DRAWS = 1500


def _shares(score, z: torch.Tensor) -> torch.Tensor:
    """How often each token has the largest of score(z, u) for uniform u, u as z."""
    u = torch.rand(20_000, len(z), generator=_generator(3), dtype=torch.float64).clamp_min(1e-12)
    return torch.bincount(score(z.double(), u).argmax(1), minlength=len(z)) / 20_000


def _gumbel(u):
    return -(-u.log()).log()


def _known_draws(z, t, k) -> list[tuple]:
    """(shares by a known mistake, its hint)."""
    p = lambda t, k: sample.probabilities(z, t, k)
    kept = p(t, k) > 0
    low = z.masked_fill(~kept, -math.inf)
    noisy = lambda noise: _shares(lambda z, u: z / t + noise(u), low)
    return [
        (p(1.0, k), "the temperature has no effect; divide the logits by it"),
        (p(1 / t, k), "the temperature works the wrong way round; divide the logits by it"),
        (p(t, None), "top_k has no effect; all but the top_k largest logits are dropped"),
        (torch.eye(len(z))[z.argmax()], "always the most likely token; only temperature 0 asks for that"),
        (kept / kept.sum(), "every token that is left is drawn equally often; add the noise to logits / temperature"),
        (noisy(lambda u: -_gumbel(u)), "the noise has the wrong sign: -log(-log u)"),
        (noisy(lambda u: -u.log()), "one logarithm is missing: the noise is -log(-log u)"),
        (noisy(lambda u: u), "the noise is uniform; turn it into -log(-log u)"),
        (_shares(lambda z, u: (z + _gumbel(u)) / t, low), "the noise is divided too; only the logits are"),
    ]  # fmt: skip


def pick(f) -> None:
    def draw(z, t, k, g, what):
        run = lambda z: f(z, t, k, g)
        found = tried(run, (z,), what, "the logits may be large, or -inf for a token that is forbidden")
        need(found is not None, MISSING)
        (token,) = ids(found if isinstance(found, (list, tuple)) else [found], what)
        need(0 <= token < len(z), f"{what}: {token} came out, which is no id; return the position of the largest")
        return token

    z = torch.tensor([0.0, 2.0, -1.0, 1.5, 0.3, 1.0])
    for t, k in ((1.0, None), (0.5, 3), (2.0, 4), (1.4, 0)):
        g, what = _generator(13), f"temperature {t:g}, top_k {k}"
        shares = torch.bincount(torch.tensor([draw(z, t, k, g, what) for _ in range(DRAWS)]), minlength=6) / DRAWS
        wanted = sample.probabilities(z, t, k)
        if (shares - wanted).abs().max() < 0.05:
            continue
        line = f"{what}: of {DRAWS} draws token 1 came in {shares[1]:.0%}, expected {wanted[1]:.0%}"
        near = [(float((shares - w).abs().max()), hint) for w, hint in _known_draws(z, t, k)]
        need(min(near)[0] >= 0.03, f"{line}: {min(near)[1]}")
        raise Wrong(f"{line}: the largest of logits / temperature - log(-log u), u uniform")
    for t, k in ((0, None), (0, 3)):
        got = {draw(z, t, k, _generator(s), f"temperature 0, top_k {k}") for s in range(20)}
        need(got == {1}, f"temperature 0: tokens {sorted(got)} came out, expected only 1, the most likely")
    once, again = ([draw(z, 1.5, None, _generator(s), "a draw") for s in range(30)] for _ in range(2))
    need(once == again, "the same generator gave other tokens: draw with generator=generator, from nothing else")
    need(len(set(once)) > 1, "thirty generators gave one token: draw with the generator that you are given")
    equal = {draw(torch.zeros(7), 1.0, 3, _generator(s), "seven equal logits, top_k 3") for s in range(60)}
    line = f"seven equal logits, top_k 3: {len(equal)} tokens were drawn"
    need(len(equal) == 3, f"{line}; a threshold keeps all that equal the third" if len(equal) > 3 else line)
    banned = torch.tensor([-math.inf, 5.0, -math.inf, 4.0])
    got = {draw(banned, 3.0, 10, _generator(s), "two logits of -inf, top_k 10") for s in range(60)}
    need(got == {1, 3}, f"two logits are -inf: tokens {sorted(got)} came out, expected 1 and 3")
    large = {draw(3e4 * z, 1e-3, None, _generator(s), "large logits, temperature 0.001") for s in range(10)}
    need(large == {1}, f"logits of 60,000, temperature 0.001: tokens {sorted(large)} came out, expected only 1")


# ---- 13.2


def _corrected(params, shape, context, batch, bandwidth):
    weights = params["matrices"] + params["lm_head"] + params["scalars"]
    row = shape["n_embd"] + shape["value_tables"] * shape["kv_width"]
    keys = sum(min(context, W) for W in shape["windows"]) * 2 * shape["kv_width"]
    size = 2 * (weights + batch * (row + keys))
    return size, batch * bandwidth / size


def _sizes(recipe: str = "jan29", **settings) -> tuple[dict, dict]:
    """(params, shape) of a recipe."""
    plan = resolve(recipe, **settings)
    m = plan.model
    tables = sum(m.has_value_embed(i) for i in range(m.n_layer))
    windows = [m.window(i)[0] for i in range(m.n_layer)]
    return plan.params, dict(n_embd=m.n_embd, kv_width=m.n_kv_head * m.head_dim, value_tables=tables, windows=windows)


def decode_cost(f) -> None:
    small = dict(depth=3, width=32, head_dim=8, n_kv_head=2, vocab_size=300, sequence_len=64)
    small |= dict(batch_tokens=64, steps=1, short_window_divisor=4)
    for settings, context, batch in (
        (dict(depth=24), 0, 1), (dict(depth=24), 2048, 1), (dict(depth=24), 1500, 64), (small, 50, 7), (small, 10, 300),
        (small, 3000, 3), (small | dict(recipe="modern"), 40, 100),
    ):  # fmt: skip
        params, shape = _sizes(**settings)
        args = params, shape, context, batch, 3.35e12
        keys = sum(min(context, W) for W in shape["windows"]) * 2 * shape["kv_width"]
        row = shape["n_embd"] + shape["value_tables"] * shape["kv_width"]
        read, right = params["matrices"] + params["lm_head"] + params["scalars"], _corrected(*args)
        uncut = min(context, max(shape["windows"])) * len(shape["windows"]) * 2 * shape["kv_width"]
        errors = [
            (params["total"] + batch * keys, "the tables are counted whole; a step looks up one row of each for a token"),
            (params["total"] + batch * (row + keys), "the tables are counted whole, and their rows once more"),
            (read + batch * keys, "the rows that are looked up are missing: one of each table for each text"),
            (read + batch * (shape["n_embd"] + keys), "the rows of the value embeddings are missing"),
            (read + row + batch * keys, "each text looks up its own rows"),
            (batch * (read + row + keys), "the weights are read once for all texts"),
            (read + batch * row, "the cache is missing"), (read + row + keys, "each text has rows and a cache of its own"),
            (read + batch * row + keys, "each text has a cache of its own"),
            (read + batch * (row + keys // 2), "the cache has keys and values"),
            (read + batch * (row + uncut), "short layers look at their window alone"),
            (read - params["lm_head"] + batch * (row + keys), "the head is a matrix: all of it is read"),
        ]  # fmt: skip
        got = several(call(f, *args, keep="its inputs"), 2, "two numbers, bytes and tokens a second")
        what = f"the bytes of a step, {len(shape['windows'])} layers, {context:,} tokens, {batch} texts,"
        numbers = [(right[0] // 2, "this is how many numbers; each has 2 bytes")]
        wrong = [(2 * n, hint) for n, hint in errors if 2 * n != right[0]] + numbers
        known(int(number(got[0], what)), right[0], what, wrong, "weights once; rows and cache for each text", 1e-9)
        slow = [(right[1] / batch, "the step gives one token to each text")] if batch > 1 else []
        slow += [(right[0] / 3.35e12, "this is the time of a step"), (right[1] * batch, "the batch counts twice")]
        known(number(got[1], "tokens a second"), right[1], "tokens a second", slow, "texts · bandwidth / bytes", 1e-4)


# ---- 13.3

LIMIT = 20_000  # draws that the service sells


def _service(temperature: float, top_k: int | None, seed: int):
    """ask(logits, n) -> n ids."""
    g, left = _generator(seed), [LIMIT]

    def ask(logits, n):
        left[0] -= n
        need(left[0] >= 0, f"you asked for more than {LIMIT:,} tokens")
        p = sample.probabilities(torch.as_tensor(logits, dtype=torch.float64), temperature, top_k)
        return torch.multinomial(p, n, replacement=True, generator=g).tolist()

    return ask


def _settings(ask):
    k = len(set(ask(torch.zeros(200), 5000)))
    drawn = ask(torch.tensor([1.0, 0.0]), 10_000)
    ones = sum(drawn)
    return 1 / math.log((10_000 - ones) / ones), None if k == 200 else k


def find_settings(f) -> None:
    for t, k, seed in (  # with a top_k first: without one, every mistake with it gets the same hint
        (0.7, 5, 1), (1.5, 40, 2), (1.0, None, 0), (0.4, 2, 3), (2.5, 50, 4), (0.8, None, 5), (0.6, 17, 6),
    ):  # fmt: skip
        what = f"a service that draws with temperature {t:g} and top_k {k}"
        got = several(tried(f, (_service(t, k, seed),), what, "ask(logits, n) wants a list or tensor of logits"), 2,
                      "temperature and top_k")  # fmt: skip
        need(got[0] is not None, f"{what}: no temperature came out")
        value, top = (
            number(got[0], f"the temperature of {what}"),
            got[1] if got[1] is None else int(number(got[1], "top_k")),
        )
        top = None if top == 0 else top
        line = f"{what}: top_k came out as {top}"
        need(k is None or top is not None, f"{line}; ask with more tokens than top_k, all with the same logit")
        need(k is not None or top is None, f"{line}; where every token that you offer comes, it is None")
        need(k is None or top <= k, f"{line}: count different tokens, not draws or offers")
        need(top == k, f"{line}; give all tokens the same logit, so that each comes as often, and draw more")
        line = f"{what}: the temperature came out as {value:.3g}"
        need(abs(value / t - 1) < 0.1 or abs(value * t - 1) >= 0.05, f"{line}, its inverse")
        need(value > 0, f"{line}; the more likely token comes more often")
        near = abs(value / t - 1) < 0.1
        need(near, f"{line}; two tokens whose logits are 1 apart come in the proportion exp(1 / temperature)")


# ---- 13.4


def _judge(p, q):
    accept = torch.where(q > 0, p / q, 1.0).clamp_max(1)
    rest = (p - q).clamp_min(0)
    return accept, rest / rest.sum() if rest.sum() > 0 else p


def _guesses() -> list[tuple]:
    """(p, q, what) for the check."""
    of = lambda *x: torch.tensor(x)
    soft = [torch.randn(9, generator=_generator(s)).mul(2).softmax(0) for s in (5, 6)]
    return [
        (of(0.5, 0.3, 0.2), of(0.8, 0.1, 0.1), "p (.5, .3, .2), q (.8, .1, .1)"),
        (of(0.2, 0.8), of(0.6, 0.4), "p (.2, .8), q (.6, .4)"),
        (of(0.0, 0.7, 0.3), of(0.5, 0.5, 0.0), "p (0, .7, .3), q (.5, .5, 0)"),
        (of(0.25, 0.75), of(0.25, 0.75), "p equal to q"),
        (*soft, "nine random tokens"),
    ]


def judge(f) -> None:
    for p, q, what in _guesses():
        got = several(tried(f, (p, q), what, "q may be 0, and p may equal q"), 2, "two results, accept and rest")
        accept, rest = (tensor(x, p.shape, f"{name} ({what})") for x, name in zip(got, ("accept", "rest")))
        right, left = (x.double() for x in _judge(p, q))
        near = lambda a, b: a.shape == b.shape and torch.allclose(a, b.double(), atol=1e-4)
        plain = torch.where(q > 0, p / q, 1.0)
        both = [(accept, right, "accept", [
            (plain, "a probability is at most 1"), ((q / p).clamp_max(1), "p and q are exchanged"),
            (torch.minimum(p, q), "this is the chance to be drafted and accepted; the draft's q is paid already"),
            ((p >= q).double(), "a token with p below q is accepted too, in p / q of the cases"), (p, "this is p itself"),
            (torch.where(q > 0, right, 0.0), "where q is 0, accept is 1"),
        ]), (rest, left, "rest", [
            (p, "drawing from p itself gives what was accepted too often; only what the guesses left out remains"),
            ((p - q).clamp_min(0), "divide by the sum, so that it is 1"), (p - q, "no probability is below 0"),
            (_judge(q, p)[1], "p and q are exchanged"), ((p - q).abs() / (p - q).abs().sum(), "where q is above p, nothing remains"),
            ((p - q).softmax(0), "divide by the sum; a softmax gives every token something"),
            (p * (1 - right) / (p * (1 - right)).sum(), "what remains is p - min(p, q)"),
        ])]  # fmt: skip
        for mine, wanted, name, wrong in both:
            for value, hint in wrong:
                need(near(mine, wanted) or not near(mine, value), f"{what}: {name} is off: {hint}")
            need_close(
                mine, wanted, f"{what}: {name} is off; q · accept, and the rest's share of the rest, make p", 1e-4
            )


EXERCISES = (
    Exercise("13.1", "Draw by a maximum", pick, points=4, minutes=20, difficulty=4, importance=5,
             forbids=(sample.pick, sample.probabilities, torch.multinomial, torch.Tensor.multinomial)),
    Exercise("13.2", "A benchmark that counts too many bytes", decode_cost, points=3, minutes=15, difficulty=3,
             importance=4, reference=_corrected),
    Exercise("13.3", "How does this service draw?", find_settings, points=3, minutes=20, difficulty=3, importance=3),
    Exercise("13.4", "A small model guesses for a large one", judge, points=3, minutes=20, difficulty=4, importance=4,
             nan="0 / 0: q may be 0, and p may equal q"),
)  # fmt: skip
