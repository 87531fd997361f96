"""The pieces that a learner can own: what each is, where the real loop calls it, and how it is compared.

A piece is one function. `PIECES` has for each: what the learner writes; the exercise that asks for it; `install`, which
names the attributes of the core to replace, each by an adapter with the package's arguments that calls the learner's
function; and a probe, a computation of the package in which the piece takes part. mine.py runs the probe without the
piece and with it. The core itself knows nothing of pieces.
"""

import functools
import hashlib
import inspect
import math
import random
import time
import types
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import regex
import torch

from gpt2course import (  # isort: skip
    attention, batches, data, evaluate, gpt2, losses, model, optim, recipes, sample, scaling, tokenizer, train,
)
from gpt2course.files import UserError
from gpt2course.tokenizer import DOC_CAP, MAX_CHARS, SPLIT_PATTERN, Tokenizer

EVERY = 15.0  # seconds between two lines of progress


@dataclass(frozen=True)
class Piece:
    signature: str  # what the learner writes
    exercise: str  # the exercise that asks for it, or the lesson ("01") whose cell has the course's version
    install: Callable  # {piece: function} -> [(owner, attribute, its new value)]
    probe: Callable  # () -> numbers
    atol: float = 1e-4  # largest difference of the probe
    needs: tuple[str, ...] = ()  # pieces that `install` calls too, so that the course's stand in for those not kept
    package: Callable | None = None  # the package's version with this signature; None: the exercise's solution

    @property
    def function(self) -> str:
        return self.signature.partition("(")[0]


# ---- adapters


class Index:
    """Which words hold which pair, so that a trainer in plain Python looks at a few words for each merge, not at all.

    With only the words of the most frequent pairs, the counts of these are right and those of the others too small. So
    a function that looks for the most frequent pair finds the same one.
    """

    def __init__(self, words: list[tuple[list[int], int]]):
        self.words, self.counts, self.where = words, Counter(), defaultdict(set)
        for i in range(len(words)):
            self.add(i, 1)

    def add(self, i: int, sign: int) -> None:
        ids, n = self.words[i]
        for pair in pairwise(ids):
            self.counts[pair] += sign * n
            (self.where[pair].add if sign > 0 else self.where[pair].discard)(i)
            if not self.counts[pair]:
                del self.counts[pair]

    def frequent(self) -> list[tuple[list[int], int]]:
        least = 0.9 * max(self.counts.values(), default=0)
        found = set().union(*(self.where[pair] for pair, n in self.counts.items() if n >= least))
        return [self.words[i] for i in sorted(found)]

    def replace(self, pair: tuple[int, int], merged: Callable) -> None:
        for i in list(self.where[pair]):
            self.add(i, -1)
            self.words[i] = merged(self.words[i][0]), self.words[i][1]
            self.add(i, 1)


def _trainer(pieces):
    pair, merge, package = pieces["pair"], pieces["merge"], tokenizer.default_folder
    sources = "".join(getattr(f, "source", "") for f in (pair, merge))
    digest = hashlib.sha256(sources.encode()).hexdigest()[:8]

    def folder(corpus_name, vocab_size):  # the same two functions are trained with only once
        place = package(corpus_name, vocab_size)
        return place.with_name(f"{place.name}-mine-{digest}")

    def learn(cls, texts, vocab_size, *, max_chars=MAX_CHARS, doc_cap=DOC_CAP, pattern=SPLIT_PATTERN, provenance=None):
        counts, about, spoke = Counter(), {"documents": 0, "chars": 0}, time.monotonic()
        for text in texts:
            text = text[: min(doc_cap, max_chars - about["chars"])]
            about = {"documents": about["documents"] + 1, "chars": about["chars"] + len(text)}
            counts.update(regex.findall(pattern, data.valid(text)))
            if about["chars"] >= max_chars:
                break
        words, ranks = [(list(word.encode()), n) for word, n in counts.items()], [bytes([b]) for b in range(256)]
        index = Index(words)
        end = vocab_size - len(tokenizer.SPECIAL_TOKENS)
        for new in range(256, end):
            if not (best := pair(index.frequent())):
                raise UserError(f"vocab_size {vocab_size} is too large for this text: no pair is left to merge")
            index.replace(tuple(best), lambda ids: merge(ids, best, new))  # noqa: B023
            ranks.append(ranks[best[0]] + ranks[best[1]])
            if time.monotonic() - spoke >= EVERY:
                spoke = time.monotonic()
                print(f"your tokenizer has learned {new - 255:,} of {end - 256:,} merges", flush=True)
        about |= {"trained_by": "your pair and merge", "max_chars": max_chars, "doc_cap": doc_cap}
        return cls(ranks, pattern, (provenance or {}) | about)

    return [(Tokenizer, "train", classmethod(learn)), (tokenizer, "default_folder", folder)]


def _encoder(pieces):
    tables = weakref.WeakKeyDictionary()  # tokenizer -> (ranks by token, ids of the words encoded before)

    def encode(self, text, bos=False):
        if self not in tables:
            tables[self] = {token: rank for rank, token in enumerate(self.ranks)}, {}
        (ranks, known), ids = tables[self], [self.bos] if bos else []
        for word in regex.findall(self.pattern, data.valid(text)):
            if word not in known:
                known[word] = [int(i) for i in pieces["encode"](word, ranks)]
            ids += known[word]
        return ids

    return [(Tokenizer, "encode", encode)]


def _bpb(pieces):
    package = evaluate.bits_per_byte

    def bits_per_byte(model, documents, tokenizer, T, batch=16, progress=None, team=None):
        nats = []  # of the targets; those that are -1 are no targets
        hook = model.register_forward_hook(lambda _, inputs, out: nats.append(out[inputs[1] >= 0].cpu()))
        try:
            _, size = package(model, documents, tokenizer, T, batch, progress, team)
        finally:
            hook.remove()
        bpb = float(pieces["bpb"]([torch.cat(nats)], [data.valid("".join(documents))]))
        return (team.reduce(bpb)[0] if team else bpb), size

    return [(module, "bits_per_byte", bits_per_byte) for module in (evaluate, train)]


def _packing(pieces):
    def fill(self, row):
        start, documents = 0, []
        while start < len(row):
            self.top_up()
            space, length = len(row) - start, {arrival: n for n, arrival in self.keys}
            waiting = list(self.buffer)  # in order of arrival
            arrival = waiting[pieces["packing"]([length[a] for a in waiting], space)]
            index, n, tokens = self.take(self.keys.index((length[arrival], arrival)))
            row[start : start + n] = tokens[:space]
            start = min(start + n, len(row))
            self.cropped, self.cropped_tokens = self.cropped + (n > space), self.cropped_tokens + max(0, n - space)
            documents.append(index)
        return documents

    return [(batches._Stream, "fill", fill)]


def _attention(pieces):
    f, package = pieces["attention"], attention.attention
    windows = len(inspect.signature(f).parameters) > 3  # whether f takes (q, k, v, window)

    def attend(q, k, v, window=attention.FULL, pad=None):
        whole = not 0 <= window[0] < k.size(1) - 1
        if q.size(1) != k.size(1) or pad is not None or not (whole or windows):
            return package(q, k, v, window, pad)  # a query after a cache, or a window that f does not know
        k, v = (x.repeat_interleave(q.size(2) // x.size(2), dim=2) if x.size(2) < q.size(2) else x for x in (k, v))
        return f(q, k, v, *[window] * windows).to(q.dtype)

    return [(module, "attention", attend) for module in (attention, model, gpt2)]


def _rope(pieces):
    def tables(self, T, device):  # positions and the base, in place of cos and sin
        return torch.arange(T, device=device), torch.full((T,), self.config.rope_base or 1.0, device=device)

    def rope(x, at, base):
        if at.dim() == 1:
            return pieces["rope"](x, x, x, int(at[0]), float(base[0]))[0].to(x.dtype)
        rows = []  # after a cache: each begins with its own number of fillers, which have no position
        for row, at_row in zip(x.split(1), at):
            first = max(0, int((at_row == 0).sum()) - 1)
            rows.append(torch.cat([row[:, :first], rope(row[:, first:], at_row[first:], base[0])], dim=1))
        return torch.cat(rows)

    return [(model.GPT, "rope", tables), (model, "rope", rope)]


def _mix(pieces):
    def mix(x, x0, resid, skip):
        if resid is None and skip is None:
            return x
        resid, skip = (x.new_tensor(off) if p is None else p for p, off in ((resid, 1.0), (skip, 0.0)))
        return pieces["mix"](x, x0, resid, skip).to(x.dtype)

    return [(model, "mix", mix)]


def _values(pieces):
    package = model.Attention.forward

    def forward(self, x, ve, *rest):  # the package's, with the values changed behind their matrix
        def add(_, inputs, v):
            rows = (t.view(*x.shape[:2], self.config.n_kv_head, self.config.head_dim) for t in (v, ve))
            return pieces["values"](*rows, x, self.ve_gate.weight.to(x.dtype), self.config.ve_gate_scale).view_as(v)

        hook = None if ve is None else self.c_v.register_forward_hook(add)
        try:
            return package(self, x, None, *rest)
        finally:
            hook and hook.remove()

    return [(model.Attention, "forward", forward)]


ROPE, TABLES, NORM = model.rope, model.rope_tables, model.norm


def _package_turn(q, k, v, start=0, base=10_000.0):
    tables = [t[start:] for t in TABLES(start + q.size(1), q.size(3), base, q.device)]
    return ROPE(q, *tables), ROPE(k, *tables), v


def _package_rms_norm(x, eps=1e-6):
    return NORM(x)


def _norm(pieces):
    return [(model, "norm", lambda x: pieces["norm"](x, torch.finfo(x.dtype).eps))]


def _schedule(pieces):
    package = recipes.Plan.lr

    def lr(self, step):
        r = self.recipe
        if r.lr_schedule != "linear":
            return package(self, step)
        warmup = r.warmup_steps or round(r.warmup_ratio * self.steps)
        return pieces["schedule"](step, self.steps, warmup, round(r.warmdown_ratio * self.steps), r.final_lr)

    return [(recipes.Plan, "lr", lr)]


def _orthogonal(pieces):
    def polar_express(G, steps=5, safety=1.02):  # (..., m, n)
        found = [pieces["orthogonal"](g, optim.POLAR_EXPRESS[:steps], safety) for g in G.reshape(-1, *G.shape[-2:])]
        return torch.stack(found).reshape(G.shape)

    return [(optim, "polar_express", polar_express)]


def _muon(pieces):
    package = optim.muon_update

    def step(p, grad, buffer, second, lr, momentum, beta2, weight_decay, ns_steps, safety, dtype):  # one matrix (m, n)
        G, new = pieces["nesterov"](grad, buffer.clone(), momentum)
        buffer.copy_(new)
        U = optim.polar_express(G.to(dtype), ns_steps, safety)
        U = optim.variance_reduction(U[None], second[None], beta2)[0].to(p.dtype)
        p.copy_(pieces["finish"](p.clone(), U, lr / max(1, p.size(0) / p.size(1)) ** 0.5, weight_decay))

    def muon_update(p, grad, momentum_buffer, second, *settings):
        *numbers, row_norm, renorm, dtype = settings
        if row_norm or renorm:  # of the recipe `record`; no exercise asks for them
            return package(p, grad, momentum_buffer, second, *settings)
        for matrix in zip(p, grad, momentum_buffer, second):
            pieces["muon"](*matrix, *numbers[:4]) if "muon" in pieces else step(*matrix, *numbers, dtype)

    return [(optim, "muon_update", muon_update)]


PACKAGE = optim.muon_update


def _package_muon(p, grad, buffer, second, rate, momentum, beta2, decay):
    """The package's Muon step on one matrix (m, n), in place."""
    state = [x[None] for x in (p, grad, buffer, second)]
    PACKAGE(*state, rate, momentum, beta2, decay, 5, 1.02, False, False, torch.float32)


def _package_nesterov(grad, buffer, momentum):
    new = buffer.lerp(grad, 1 - momentum)
    return grad.lerp(new, momentum), new


def _package_finish(p, U, lr, weight_decay):
    rate = lr * max(1, p.size(0) / p.size(1)) ** 0.5
    return p - rate * (U + weight_decay * p * (U * p >= 0))


def _parabola(pieces):
    return [(scaling, "parabola", lambda n, bpb: pieces["parabola"](n, bpb))]


def _sampling(pieces):
    return [(sample, "pick", lambda *arguments: int(pieces["sampling"](*arguments)))]


def _cache(pieces):
    def attend(self, layer, q, k, v, window=attention.FULL):
        k, v, self.past[layer] = pieces["cache"](self.past.get(layer), k, v, window[0])
        pad = None if self.pad is None else self.pad - (self.length - k.size(1))
        return attention.attention(q, k, v, window, pad)

    return [(attention.Cache, "attend", attend)]


class _Chunked(torch.autograd.Function):
    """A loss whose forward pass computes the gradients too."""

    @staticmethod
    def forward(ctx, x, weight, targets, cap, f):
        loss, *gradients = f(x, weight, targets, cap, 256)
        ctx.save_for_backward(*gradients)
        return torch.as_tensor(loss, dtype=x.dtype)

    @staticmethod
    def backward(ctx, grad):
        dx, dw = ctx.saved_tensors
        return dx * grad, dw * grad, None, None, None


def _loss(pieces):
    package = losses.cross_entropy

    def cross_entropy(x, weight, targets, cap=0.0, reduction="mean", chunk=None):
        counts = targets >= 0
        if reduction != "mean" or not cap or not counts.any():
            return package(x, weight, targets, cap, reduction, chunk)
        x = losses.at_least_float32(x[counts])
        return _Chunked.apply(x, weight, targets[counts], cap, pieces["loss"])

    return [(model, "cross_entropy", cross_entropy)]


def _owned(pieces):
    package = optim.MuonAdamW._muon_part

    def muon_part(self, group, names):
        part = package(self, group, names)
        part.first, part.k = map(int, pieces["owned"](len(names), self.rank, self.world))
        part.state = {kind: x.new_zeros(part.k, *x.shape[1:]) for kind, x in part.state.items()}
        return part

    return [(optim.MuonAdamW, "_muon_part", muon_part)]


# ---- probes


@functools.cache
def small():
    """(plan, model, tokenizer, texts) of a small run, for the probes."""
    sizes = dict(depth=2, width=64, head_dim=32, sequence_len=128, vocab_size=400, batch_tokens=1024, steps=400)
    plan = recipes.resolve("modern", **sizes, warmup_steps=7, warmdown_ratio=0.4, final_lr=0.1)
    corpus = data.load_corpus("embedded").train
    texts = [corpus[i] for i in range(30)]
    return plan, recipes.make_model(plan).init_weights(1), Tokenizer.train(texts, 400), texts


def _learned():
    return [b for token in Tokenizer.train(small()[3], 400).ranks for b in (*token, 256)]


def _encoded():
    tok = Tokenizer(small()[2].ranks)  # a new one, which remembers nothing
    return [i for text in small()[3] for i in tok.encode(text)]


def _measured():
    plan, gpt, tok, texts = small()
    return evaluate.bits_per_byte(gpt, texts, tok, plan.model.sequence_len)


def _packed():
    texts = ["x" * n for n in random.Random(3).choices(range(20, 900), k=3000)]
    as_bytes = types.SimpleNamespace(encode_batch=lambda texts, bos: [[0, *t.encode()] for t in texts], sha256="")
    return batches.Batches(data.from_list(texts), as_bytes, 256).next_rows(200)


def _with_gradients(f, *shapes) -> torch.Tensor:
    """What f makes of random tensors, and the gradients."""
    g = torch.Generator().manual_seed(7)
    x = [torch.randn(shape, generator=g).requires_grad_() for shape in shapes]
    y = f(*x)
    y.sin().sum().backward()
    return torch.cat([t.detach().flatten() for t in (y, *(t.grad for t in x))])


def _attended():
    both = lambda q, k, v: attention.attention(q, k, v) + attention.attention(q, k, v, (64, 0))
    return _with_gradients(both, *[(4, 256, 2, 64)] * 3)


def _turned():
    """From position 0 on, and from position 20 on, as after a cache."""
    late = lambda x: model.rope(x[:, :80], *(t[20:] for t in small()[1].rope(100, "cpu")))
    both = lambda x: torch.cat([model.rope(x, *small()[1].rope(100, "cpu")), late(x)], dim=1)
    return _with_gradients(both, (8, 100, 2, 32))


def _valued():
    """A layer with a value embedding, and the gradients of its input, rows and gate."""
    config = model.GPTConfig(sequence_len=30, n_layer=1, n_embd=64, n_head=4, n_kv_head=2, value_embeds=True)
    attend, g = model.Attention(config, 0), torch.Generator().manual_seed(8)
    for p in attend.parameters():
        p.data.normal_(0, 0.2, generator=g)
    tables = model.rope_tables(30, 16, 10_000.0)
    both = lambda x, ve, w: torch.func.functional_call(attend, {"ve_gate.weight": w}, (x, ve, *tables))
    return _with_gradients(both, (3, 30, 64), (3, 30, 32), (2, 32))


def _lost():
    """The loss of a head with a cap, some targets of which do not count, and the gradients."""
    targets = torch.arange(600) * 7 % 83 - 1
    return _with_gradients(lambda x, w: model.cross_entropy(x, 3 * w, targets, 15.0), (600, 16), (82, 16))


def _stepped():
    g, out, settings = torch.Generator().manual_seed(5), [], (0.02, 0.9, 0.95, 0.1, 5, 1.02, False, False)
    for m, n in ((512, 128), (128, 512), (128, 128)):
        p, second = torch.randn(2, m, n, generator=g), torch.zeros((2, m, 1) if m >= n else (2, 1, n))
        buffer = torch.zeros_like(p)
        for grad in torch.randn(3, 2, m, n, generator=g):
            optim.muon_update(p, grad, buffer, second, *settings, torch.float32)
        out += [p.flatten(), buffer.flatten()]
    return torch.cat(out)


def _picked():
    """How often each of five tokens is drawn: at temperature 1, at 0.5 from the best two, and at 0."""
    g, logits = torch.Generator().manual_seed(1), torch.tensor([0.0, 2.0, -1.0, 1.5, 0.3])
    drawn = [[sample.pick(logits, *s, g) for _ in range(3000)] for s in ((1.0, None), (0.5, 2), (0, None))]
    return [d.count(i) / len(d) for d in drawn for i in range(5)]


def _read_in_parts():
    """Attention over a text that a cache reads in parts, the whole past and a window, and how much the cache keeps."""
    qkv = torch.randn(3, 2, 30, 2, 16, generator=torch.Generator().manual_seed(2))
    parts = [x.split([9, 1, 1, 5, 1, 13], dim=1) for x in qkv]
    found = []
    for window in (attention.FULL, (7, 0), (1, 0)):
        cache = attention.Cache()
        for q, k, v in zip(*parts):
            cache.advance(q.size(1))
            y = cache.attend("layer", q, k, v, window)
            found += [y.flatten(), torch.tensor([float(x.size(1)) for x in cache.past["layer"]])]
    return torch.cat(found)


def _fitted():
    """The best sizes that scaling.py finds at three budgets, and their exponents."""
    rows = [dict(budget=c, n=n, tokens=c / 6 / n, val_bpb=0.8 + 60 / n**0.4 + 300 / (c / 6 / n) ** 0.36)
            for c in (1e17, 4e17, 2e18) for n in (3e7 * (c / 1e17) ** 0.5 * 2**i for i in range(-2, 4))]  # fmt: skip
    minima = [scaling.minimum(group) for group in scaling.by_budget(rows).values()]
    found = [x for m in minima for x in (math.log(m["n"]), m["val_bpb"])]
    return found + [exponent for exponent, _ in scaling.laws(minima).values()]


def _shares():
    """Which of n matrices each rank of several worlds updates."""
    found = []
    for n, world in ((12, 8), (5, 2), (3, 4), (7, 1)):
        group = optim.Group("", "muon", {f"{i}": torch.zeros(2, 2) for i in range(n)}, lr=0.1)
        parts = [optim.MuonAdamW([group], ranks=(rank, world)).parts[0] for rank in range(world)]
        found += [x for part in parts for x in (part.first, part.k, len(part.state["momentum"]))]
    return found


MUON = ("nesterov", "finish")
PIECES = {
    "pair": Piece("most_frequent_pair(words)", "01", _trainer, _learned, needs=("merge",)),
    "merge": Piece("merge(ids, pair, new)", "01", _trainer, _learned, needs=("pair",)),
    "encode": Piece("encode(piece, ranks)", "01", _encoder, _encoded),
    "bpb": Piece("bits_per_byte(nats, texts)", "1.1", _bpb, _measured),
    "packing": Piece("choose(lengths, space)", "2.2", _packing, _packed),
    "attention": Piece("causal_attention(q, k, v)", "3.1", _attention, _attended),
    "rope": Piece("turn(q, k, v, start=0, base=10_000.0)", "03", _rope, _turned, package=_package_turn),
    "norm": Piece("rms_norm(x, eps=1e-6)", "03", _norm, lambda: _with_gradients(lambda x: model.norm(x), (2048, 128)),
                  package=_package_rms_norm),
    "mix": Piece("mix(x, x0, resid, skip)", "07", _mix,
                 lambda: _with_gradients(lambda *a: model.mix(*a), (4, 9, 16), (4, 9, 16), (), ())),
    "values": Piece("add_values(v, ve, x, weight, scale=2.0)", "08", _values, _valued),
    "schedule": Piece("rate(step, steps, warmup, warmdown, final)", "4.1", _schedule,
                      lambda: [small()[0].lr(step) for step in range(400)]),
    "nesterov": Piece("nesterov(grad, buffer, momentum)", "05", _muon, _stepped, needs=MUON, package=_package_nesterov),
    "orthogonal": Piece("orthogonal(G, coefficients, safety)", "5.2", _orthogonal, _stepped, 1e-3),
    "finish": Piece("finish(p, U, lr, weight_decay)", "05", _muon, _stepped, needs=MUON, package=_package_finish),
    "muon": Piece("muon(p, grad, buffer, second, rate, momentum, beta2, decay)", "05", _muon, _stepped, 1e-3,
                  package=_package_muon),
    "parabola": Piece("parabola(n, bpb)", "09", _parabola, _fitted, package=scaling.parabola),
    "owned": Piece("owned(n, rank, world)", "11", _owned, _shares),
    "loss": Piece("chunked(x, W, targets, cap, chunk)", "12", _loss, _lost),
    "sampling": Piece("pick(logits, temperature, top_k, generator)", "13.1", _sampling, _picked, 0.05,
                      package=sample.pick),
    "cache": Piece("remember(past, k, v, left)", "13", _cache, _read_in_parts),
}  # fmt: skip
