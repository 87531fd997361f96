"""The pieces that a learner can own: what each is, where the real loop calls it, and how it is compared.

A piece is one function. `PIECES` has for each: what the learner writes; the exercise that asks for it; `install`, which
names the attributes of the core to replace, each by an adapter with the package's arguments that calls the learner's
function; and a probe, a computation of the package in which the piece takes part (probes.py). The core itself knows
nothing of pieces.
"""

import hashlib
import inspect
import time
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
from gpt2course.course import probes
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
    fourth = list(inspect.signature(f).parameters.values())[3:4]
    windows = any(p.default is p.empty or "window" in p.name for p in fourth)  # whether f takes (q, k, v, window)

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


MUON = ("nesterov", "finish")
PIECES = {
    "pair": Piece("most_frequent_pair(words)", "01", _trainer, probes.learned, needs=("merge",)),
    "merge": Piece("merge(ids, pair, new)", "01", _trainer, probes.learned, needs=("pair",)),
    "encode": Piece("encode(piece, ranks)", "01", _encoder, probes.encoded),
    "bpb": Piece("bits_per_byte(nats, texts)", "1.1", _bpb, probes.measured),
    "packing": Piece("choose(lengths, space)", "2.2", _packing, probes.packed),
    "attention": Piece("causal_attention(q, k, v)", "3.1", _attention, probes.attended),
    "rope": Piece("turn(q, k, v, start=0, base=10_000.0)", "03", _rope, probes.turned, package=_package_turn),
    "norm": Piece("rms_norm(x, eps=1e-6)", "03", _norm, probes.normed, package=_package_rms_norm),
    "mix": Piece("mix(x, x0, resid, skip)", "07", _mix, probes.mixed),
    "values": Piece("add_values(v, ve, x, weight, scale=2.0)", "08", _values, probes.valued),
    "schedule": Piece("rate(step, steps, warmup, warmdown, final)", "4.1", _schedule, probes.scheduled),
    "nesterov": Piece("nesterov(grad, buffer, momentum)", "05", _muon, probes.stepped, needs=MUON,
                      package=_package_nesterov),
    "orthogonal": Piece("orthogonal(G, coefficients, safety)", "5.2", _orthogonal, probes.stepped, 1e-3),
    "finish": Piece("finish(p, U, lr, weight_decay)", "05", _muon, probes.stepped, needs=MUON, package=_package_finish),
    "muon": Piece("muon(p, grad, buffer, second, rate, momentum, beta2, decay)", "05", _muon, probes.stepped, 1e-3,
                  package=_package_muon),
    "parabola": Piece("parabola(n, bpb)", "09", _parabola, probes.fitted, package=scaling.parabola),
    "owned": Piece("owned(n, rank, world)", "11", _owned, probes.shares),
    "loss": Piece("chunked(x, W, targets, cap, chunk)", "12", _loss, probes.lost),
    "sampling": Piece("pick(logits, temperature, top_k, generator)", "13.1", _sampling, probes.picked, 0.05,
                      package=sample.pick),
    "cache": Piece("remember(past, k, v, left)", "13", _cache, probes.read_in_parts),
}  # fmt: skip
