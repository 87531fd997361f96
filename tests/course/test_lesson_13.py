"""Lesson 13: wrong answers to its exercises get their hint, right ones pass; its figures draw; the lesson's cache is the package's."""

import html
import math
import re

import numpy as np
import pytest
import torch
from lesson_cases import answers, change, contrast_to_black, functions, lesson_tests

from gpt2course import sample
from gpt2course.attention import FULL, Cache
from gpt2course.course import mine
from gpt2course.course.build import lesson_cells
from gpt2course.course.figures import talking as figures
from gpt2course.recipes import make_model, resolve

NAMES = {"13.1": ("pick",), "13.2": ("corrected",), "13.3": ("find_settings",), "13.4": ("judge",)}
SOLVED = answers("13", torch=torch, math=math)


# ---- 13.1


def noise_of(u):
    return -(-u.log()).log()


def gumbel(z, t, k, g, zero=True, noise=noise_of, heat=lambda z, t: z / t, cut=True, ties=False, all_noise=False, of=None, global_=False):
    """A draw with one thing wrong."""
    z = z.double()
    if cut and k and k < len(z):
        kth = z.sort(descending=True).values[k - 1]
        z = z.masked_fill(z < kth, -math.inf) if ties else torch.full_like(z, -math.inf).index_copy(0, z.argsort(descending=True, stable=True)[:k], z.sort(descending=True).values[:k])
    if t == 0 and zero:
        return int(z.argmax())
    u = torch.rand(len(z), generator=None if global_ else g, dtype=torch.float64)
    t = t or 1.0
    scores = (z + noise(u)) / t if all_noise else heat(z, t) + noise(u)
    return int(scores.argmax()) if of is None else of(scores)


def by_cumulative_sum(z, t, k, g):
    z = z.double() - z.max()
    if t == 0:
        return torch.argmax(z)
    order = z.argsort(descending=True)[: k or len(z)]
    e = (z[order] / t).exp()
    at = torch.searchsorted(e.cumsum(0), torch.rand(1, generator=g, dtype=torch.float64) * e.sum(), right=True)
    return int(order[min(int(at), len(order) - 1)])


def by_exponentials(z, t, k, g):
    """The race of exponential clocks, in numpy at the end."""
    kept = np.argsort(-z.double().numpy(), kind="stable")[: k or len(z)]
    if t == 0:
        return int(kept[0])
    e = torch.empty(len(kept), dtype=torch.float64).exponential_(generator=g).numpy()
    return kept[np.argmax(z.double().numpy()[kept] / t - np.log(e))]


def uncut_then_retried(z, t, k, g):
    """Draws from all tokens until one is among the best k."""
    while True:
        token = SOLVED["pick"](z, t, None, g)
        if token in z.double().argsort(descending=True, stable=True)[: k or len(z)]:
            return token


# ---- 13.2


def cost(params, shape, context, batch, bandwidth, groups=("matrices", "lm_head", "scalars"), rows=lambda s, b: b * (s["n_embd"] + s["value_tables"] * s["kv_width"]),
         keys=2, seen=min, texts=lambda b: b, weights=lambda b: 1, size=2, speed=lambda b, bw, n: b * bw / n):  # fmt: skip
    """The bytes with one thing wrong."""
    cache = sum(seen(context, W) for W in shape["windows"]) * keys * shape["kv_width"]
    n = size * (weights(batch) * sum(params[g] for g in groups) + rows(shape, batch) + texts(batch) * cache)
    return n, speed(batch, bandwidth, n)


def cost_by_parts(params, shape, context, batch, bandwidth):
    width, total = shape["kv_width"], params["total"] - params["wte"] - params["value_embeds"]
    for _ in range(batch):
        total += shape["n_embd"] + width * shape["value_tables"]
        for W in shape["windows"]:
            total += 2 * width * (W if W < context else context)
    return [torch.tensor(2.0 * total, dtype=torch.float64), batch / (2 * total / bandwidth)]


# ---- 13.3


def look(ask, offered=200, count=lambda ids: len(set(ids)), equal=True, none=None, n=10_000, draws=5000, back=True):
    """Settings with one thing wrong."""
    k = count(ask(torch.zeros(offered) if equal else torch.arange(offered) / 2.0, draws))
    ones = sum(ask([1.0, 0.0], n))
    inverse = math.log((n - ones) / max(ones, 1))
    return 1 / inverse if back else inverse, none if k == offered else k


def look_in_lists(ask):
    k = len({*ask([0.0] * 150, 4000)})
    ids = ask([0.0, 2.0], 12_000)
    return [2 / math.log(ids.count(1) / ids.count(0)), 0 if k == 150 else k]


# ---- 13.4


def judged(p, q, accept=lambda p, q: torch.where(q > 0, p / q, 1.0).clamp(max=1), rest=lambda p, q: (p - q).clamp(min=0), divide=True, same=True):
    """A judgement with one thing wrong."""
    left = rest(p, q)
    total = left.sum()
    return accept(p, q), (left / total if (total > 0 or not same) and divide else left if not divide else p)


def judged_in_numpy(p, q):
    p, q = p.double().numpy(), q.double().numpy()
    accept = np.minimum(1, np.divide(p, q, out=np.ones_like(p), where=q > 0))
    left = p - np.minimum(p, q)
    return accept, left / left.sum() if left.sum() > 1e-12 else p


def judged_by_numbers(p, q):
    accept = [min(1.0, a / b) if b else 1.0 for a, b in zip(p.tolist(), q.tolist())]
    left = [max(0.0, a - b) for a, b in zip(p.tolist(), q.tolist())]
    return accept, [x / sum(left) for x in left] if sum(left) else p.tolist()


WRONG = {
    ("13.1", "no temperature"): (change(gumbel, heat=lambda z, t: z), "temperature has no effect"),
    ("13.1", "times the temperature"): (change(gumbel, heat=lambda z, t: z * t), "wrong way round"),
    ("13.1", "no top-k"): (change(gumbel, cut=False), "top_k has no effect"),
    ("13.1", "always the best"): (change(gumbel, noise=lambda u: 0), "always the most likely"),
    ("13.1", "the logits play no part"): (change(gumbel, heat=lambda z, t: torch.where(z.isfinite(), 0.0, z)), "equally often"),
    ("13.1", "the wrong sign"): (change(gumbel, noise=lambda u: -noise_of(u)), "wrong sign"),
    ("13.1", "one logarithm"): (change(gumbel, noise=lambda u: -u.log()), "one logarithm is missing"),
    ("13.1", "uniform noise"): (change(gumbel, noise=lambda u: u), "noise is uniform"),
    ("13.1", "all divided"): (change(gumbel, all_noise=True), "noise is divided too|no effect"),
    ("13.1", "a threshold"): (change(gumbel, ties=True), "a threshold keeps all"),
    ("13.1", "no case for 0"): (change(gumbel, zero=False), "temperature 0"),
    ("13.1", "other random numbers"): (change(gumbel, global_=True), "the same generator gave other tokens"),
    ("13.1", "one fixed generator"): (lambda z, t, k, g: gumbel(z, t, k, torch.Generator().manual_seed(1)), "of 1500 draws|one token"),
    ("13.1", "the score"): (change(gumbel, of=lambda s: float(s.max())), "expected whole numbers|no id"),
    ("13.1", "an id of its own"): (lambda z, t, k, g: len(z), "no id"),
    ("13.1", "the position among the best"): (lambda z, t, k, g: gumbel(z.sort(descending=True).values, t, k, g), "of 1500 draws"),
    ("13.1", "top_k as it is"): (lambda z, t, k, g: int(z.topk(k).indices[0]) if k else gumbel(z, t, k, g), "of 1500 draws|stopped your code|most likely"),
    ("13.1", "nothing"): (lambda *a: None, "return missing"),
    ("13.2", "as it was"): (change(cost, groups=("total",), rows=lambda s, b: 0), "tables are counted whole"),
    ("13.2", "all and the rows"): (change(cost, groups=("total",)), "once more"),
    ("13.2", "no rows"): (change(cost, rows=lambda s, b: 0), "rows that are looked up are missing"),
    ("13.2", "no value rows"): (change(cost, rows=lambda s, b: b * s["n_embd"]), "rows of the value embeddings"),
    ("13.2", "the rows once"): (change(cost, rows=lambda s, b: s["n_embd"] + s["value_tables"] * s["kv_width"]), "its own rows"),
    ("13.2", "weights for each text"): (change(cost, weights=lambda b: b), "read once for all"),
    ("13.2", "no cache"): (change(cost, keys=0), "cache is missing"),
    ("13.2", "one cache"): (change(cost, texts=lambda b: 1), "a cache of its own"),
    ("13.2", "keys alone"): (change(cost, keys=1), "keys and values"),
    ("13.2", "no window"): (change(cost, seen=lambda c, W: c), "short layers"),
    ("13.2", "no head"): (change(cost, groups=("matrices", "scalars")), "the head is a matrix"),
    ("13.2", "numbers"): (change(cost, size=1), "has 2 bytes"),
    ("13.2", "steps a second"): (change(cost, speed=lambda b, bw, n: bw / n), "one token to each text"),
    ("13.2", "seconds"): (change(cost, speed=lambda b, bw, n: n / bw), "time of a step"),
    ("13.2", "one number"): (lambda *a: cost(*a)[0], "two numbers"),
    ("13.3", "the inverse"): (change(look, back=False), "its inverse"),
    ("13.3", "half as much"): (lambda ask: (lambda t, k: (t / 2, k))(*look(ask)), "exp(1 / temperature)"),
    ("13.3", "the sign"): (lambda ask: (lambda t, k: (-t, k))(*look(ask)), "more likely token comes more often"),
    ("13.3", "ten offered"): (change(look, offered=10), "more tokens than top_k"),
    ("13.3", "never None"): (change(look, none=200), "it is None"),
    ("13.3", "draws"): (change(look, count=len), "count different tokens"),
    ("13.3", "unequal logits"): (change(look, equal=False), "so that each comes as often"),
    ("13.3", "a few draws"): (change(look, n=60), "exp(1 / temperature)|its inverse"),
    ("13.3", "few draws for top_k"): (change(look, draws=40), "draw more"),
    ("13.3", "too many"): (change(look, n=30_000), "more than 20,000"),
    ("13.3", "one number"): (lambda ask: 1.0, "temperature and top_k"),
    ("13.3", "no temperature"): (lambda ask: (None, None), "no temperature"),
    ("13.4", "not clamped"): (change(judged, accept=lambda p, q: torch.where(q > 0, p / q, 1.0)), "at most 1"),
    ("13.4", "exchanged"): (change(judged, accept=lambda p, q: torch.where(p > 0, q / p, 1.0).clamp(max=1)), "exchanged"),
    ("13.4", "min"): (change(judged, accept=torch.minimum), "drafted and accepted"),
    ("13.4", "yes or no"): (change(judged, accept=lambda p, q: (p >= q).float()), "in p / q of the cases"),
    ("13.4", "p"): (change(judged, accept=lambda p, q: p), "p itself"),
    ("13.4", "0 where q is 0"): (change(judged, accept=lambda p, q: torch.where(q > 0, (p / q).clamp(max=1), 0.0)), "where q is 0, accept is 1"),
    ("13.4", "again from p"): (change(judged, rest=lambda p, q: p), "drawing from p itself"),
    ("13.4", "not divided"): (change(judged, divide=False), "divide by the sum"),
    ("13.4", "below 0"): (change(judged, rest=lambda p, q: p - q, divide=False), "no probability is below 0"),
    ("13.4", "rest exchanged"): (change(judged, rest=lambda p, q: (q - p).clamp(min=0)), "p and q are exchanged"),
    ("13.4", "both signs"): (change(judged, rest=lambda p, q: (p - q).abs()), "nothing remains"),
    ("13.4", "a softmax"): (change(judged, rest=lambda p, q: (p - q).softmax(0)), "something"),
    ("13.4", "NaN where they are equal"): (change(judged, same=False), "NaN came out"),
    ("13.4", "one result"): (lambda p, q: judged(p, q)[0][:1], "two results"),
}  # fmt: skip
RIGHT = {
    ("13.1", "by cumulative sum"): by_cumulative_sum,
    ("13.1", "by exponentials"): by_exponentials,
    ("13.1", "with noise"): gumbel,
    ("13.1", "rejecting"): uncut_then_retried,
    ("13.2", "by groups"): cost,
    ("13.2", "text by text"): cost_by_parts,
    ("13.3", "by counts"): look,
    ("13.3", "in lists"): look_in_lists,
    ("13.4", "in numpy"): judged_in_numpy,
    ("13.4", "in numbers"): judged_by_numbers,
    ("13.4", "in torch"): judged,
}
SPEEDS = {"again": [(8, 900.0), (1000, 30.0)], "cached": [(8, 1000.0), (1000, 900.0)]}
FIGURES = {
    "temperatures": (lambda: figures.temperatures([" a", "$b", "c"], {1.0: [0.5, 0.2, 0.1], 2.0: [0.3, 0.2, 0.2]}), ["3 most likely", "at temperature 1 the first has 0.50 and all shown 0.80"]),
    "speed": (lambda: figures.speed(SPEEDS, "tokens"), ["again: at 1,000 0.033 times the speed at 8", "cached: at 1,000 0.9 times"]),
    "windows": (lambda: figures.windows({1: [2.7, 2.8], 8: [2.6, 2.65], 128: [2.7, 2.66]}, 8), ["trained with 8", "seed 1: 2.700 at 1, least 2.600 at 8, 2.700 at 128"]),
    "memory": (lambda: figures.memory([6.3, 12.6, 6.3], 12.6), ["3 layers: 25 MB cut", "38 MB uncut", "1 layers are long with 12.6 MB"]),
}  # fmt: skip
REFUSED = {
    "no token": lambda: figures.temperatures([], {}),
    "too few probabilities": lambda: figures.temperatures(["a"], {1.0: []}),
    "one size": lambda: figures.speed({"a": [(1, 1.0)]}, "x"),
    "no speed": lambda: figures.speed({"a": [(1, 1.0), (2, 0.0)]}, "x"),
    "one window": lambda: figures.windows({8: [2.0]}, 8),
    "unequal seeds": lambda: figures.windows({8: [2.0], 9: [2.0, 2.1]}, 8),
    "no layer": lambda: figures.memory([], 1.0),
    "no sure token": lambda: figures.sure([], []),
    "a probability above 1": lambda: figures.sure(["a"], [1.5]),
}

globals().update(lesson_tests("13", NAMES, WRONG, RIGHT, FIGURES, REFUSED))


def test_sure_tokens_can_be_read_without_colours():
    page, plain = figures.sure(["The", " <b>", "\n", " end"], [0.9, 0.02, 0.3, 0.001])
    assert "<b>" not in page and html.escape(" <b>") in page and page.count('title="') == 4
    styles = re.findall(r'style="(background[^"]*)"', page)
    assert len(styles) == 8 and all("color:#000000" in s for s in styles)  # black on a colour of its own: light and dark pages alike
    assert len(set(styles)) == 4 and len({re.search("border-bottom:([^;]*)", s)[1] for s in styles}) >= 3
    for text in (page, plain):
        assert "1 of 4 tokens 50 % or more, 1 of 4 tokens 10 % or more, 1 of 4 tokens 1 % or more, 1 of 4 tokens below" in text
    assert "The 90%; <b> 2%; ⏎ 30%; end 0%" in plain


def test_black_on_every_level_has_a_contrast_of_at_least_7():
    assert all(contrast_to_black(colour) >= 7 for _, colour, _ in figures.LEVELS)


# ---- what the lesson builds


@pytest.fixture(scope="module")
def built():
    return mine.load("cache", mine.source_of(lesson_cells("13"), "remember"))


@pytest.mark.parametrize("window", [FULL, (1, 0), (5, 0), (29, 0), (30, 0), (500, 0)])
@pytest.mark.parametrize("parts", [[30], [1] * 30, [7, 1, 1, 12, 9], [29, 1]])
def test_the_lessons_cache_is_the_packages(built, window, parts):
    """What it returns and what it keeps, for parts of all sizes."""
    x = torch.randn(3, 2, 30, 2, 8, generator=torch.Generator().manual_seed(1))
    found = []
    for pieces in ({}, {"cache": built}):
        cache = Cache()
        with mine.installed(pieces):
            for q, k, v in zip(*(y.split(parts, dim=1) for y in x)):
                cache.advance(q.size(1))
                found.append((cache.attend(0, q, k, v, window), *cache.past[0]))
    half = len(found) // 2
    assert all(torch.equal(a, b) for one, two in zip(found[:half], found[half:]) for a, b in zip(one, two))


def test_the_lessons_distribution_is_the_packages():
    distribution = functions("13", "distribution")["distribution"]
    z = torch.randn(50, generator=torch.Generator().manual_seed(2)).mul(5).round()  # with ties
    for t in (0, 0.001, 0.7, 1.0, 3.0):
        for k in (None, 1, 7, 50, 60):
            assert torch.allclose(distribution(z, t, k), sample.probabilities(z, t, k))


def test_rows_of_different_lengths_and_rows_that_end(built):
    """The piece serves the cache that the evaluator uses: filler in front of shorter rows, and rows that are dropped."""
    sizes = dict(depth=3, width=32, head_dim=16, vocab_size=300, sequence_len=32, short_window_divisor=8, short_window_tile=1, batch_tokens=32, steps=1)
    model = make_model(resolve("record", **sizes)).init_weights(1).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.2, generator=torch.Generator().manual_seed(p.numel()))
    idx, found = torch.randint(300, (3, 12), generator=torch.Generator().manual_seed(3)), []
    for pieces in ({}, {"cache": built}):
        with mine.installed(pieces), torch.no_grad():
            cache = Cache(pad=torch.tensor([0, 5, 7]))
            first = model(idx[:, :9], cache=cache)
            cache.keep([0, 2])
            found.append([first, model(idx[[0, 2], 9:10], cache=cache), model(idx[[0, 2], 10:], cache=cache)])
    assert all(torch.equal(a, b) for a, b in zip(*found))


def test_numbers_of_the_text():
    """What the lesson and its brief say about depth 24."""
    plan = resolve("jan29", depth=24)
    m = plan.model
    layer, T = 2 * m.n_kv_head * m.head_dim * 2, m.sequence_len
    assert m.n_layer * layer == 147_456 and round(m.n_layer * layer * T / 1e6) == 302
    assert m.short_window == 1024 and round(layer * sum(min(T, m.window(i)[0]) for i in range(m.n_layer)) / 1e6) == 189
    params, weights = plan.params, 2 * plan.params["scaling"]
    assert round(weights / 1e9, 2) == 1.46 and round(2 * params["total"] / 1e9, 2) == 2.77 and round(weights / 3.35e12 * 1e3, 2) == 0.44
    assert math.ceil(weights / (m.n_layer * layer * T)) == 5 and round(989e12 / 3.35e12) == 295
