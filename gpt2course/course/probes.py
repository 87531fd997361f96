"""Probes of the pieces: for each a small computation of the package in which the piece takes part.

mine.py runs a probe without the learner's piece and with it. So a probe calls the package through its modules, whose
attributes a piece replaces.
"""

import functools
import math
import random
import types

import torch

from gpt2course import attention, batches, data, evaluate, model, optim, recipes, sample, scaling
from gpt2course.tokenizer import Tokenizer


@functools.cache
def small():
    """(plan, model, tokenizer, texts) of a small run, for the probes."""
    sizes = dict(depth=2, width=64, head_dim=32, sequence_len=128, vocab_size=400, batch_tokens=1024, steps=400)
    plan = recipes.resolve("modern", **sizes, warmup_steps=7, warmdown_ratio=0.4, final_lr=0.1)
    corpus = data.load_corpus("embedded").train
    texts = [corpus[i] for i in range(30)]
    return plan, recipes.make_model(plan).init_weights(1), Tokenizer.train(texts, 400), texts


def learned():
    return [b for token in Tokenizer.train(small()[3], 400).ranks for b in (*token, 256)]


def encoded():
    tok = Tokenizer(small()[2].ranks)  # a new one, which remembers nothing
    return [i for text in small()[3] for i in tok.encode(text)]


def measured():
    plan, gpt, tok, texts = small()
    return evaluate.bits_per_byte(gpt, texts, tok, plan.model.sequence_len)


def packed():
    texts = ["x" * n for n in random.Random(3).choices(range(20, 900), k=3000)]
    as_bytes = types.SimpleNamespace(encode_batch=lambda texts, bos: [[0, *t.encode()] for t in texts], sha256="")
    return batches.Batches(data.from_list(texts), as_bytes, 256).next_rows(200)


def with_gradients(f, *shapes) -> torch.Tensor:
    """What f makes of random tensors, and the gradients."""
    g = torch.Generator().manual_seed(7)
    x = [torch.randn(shape, generator=g).requires_grad_() for shape in shapes]
    y = f(*x)
    y.sin().sum().backward()
    return torch.cat([t.detach().flatten() for t in (y, *(t.grad for t in x))])


def attended():
    both = lambda q, k, v: attention.attention(q, k, v) + attention.attention(q, k, v, (64, 0))
    return with_gradients(both, *[(4, 256, 2, 64)] * 3)


def turned():
    """From position 0 on, and from position 20 on, as after a cache."""
    late = lambda x: model.rope(x[:, :80], *(t[20:] for t in small()[1].rope(100, "cpu")))
    both = lambda x: torch.cat([model.rope(x, *small()[1].rope(100, "cpu")), late(x)], dim=1)
    return with_gradients(both, (8, 100, 2, 32))


def normed():
    return with_gradients(lambda x: model.norm(x), (2048, 128))


def mixed():
    return with_gradients(lambda *a: model.mix(*a), (4, 9, 16), (4, 9, 16), (), ())


def scheduled():
    return [small()[0].lr(step) for step in range(400)]


def valued():
    """A layer with a value embedding, and the gradients of its input, rows and gate."""
    config = model.GPTConfig(sequence_len=30, n_layer=1, n_embd=64, n_head=4, n_kv_head=2, value_embeds=True)
    attend, g = model.Attention(config, 0), torch.Generator().manual_seed(8)
    for p in attend.parameters():
        p.data.normal_(0, 0.2, generator=g)
    tables = model.rope_tables(30, 16, 10_000.0)
    both = lambda x, ve, w: torch.func.functional_call(attend, {"ve_gate.weight": w}, (x, ve, *tables))
    return with_gradients(both, (3, 30, 64), (3, 30, 32), (2, 32))


def lost():
    """The loss of a head with a cap, some targets of which do not count, and the gradients."""
    targets = torch.arange(600) * 7 % 83 - 1
    return with_gradients(lambda x, w: model.cross_entropy(x, 3 * w, targets, 15.0), (600, 16), (82, 16))


def stepped():
    g, out, settings = torch.Generator().manual_seed(5), [], (0.02, 0.9, 0.95, 0.1, 5, 1.02, False, False)
    for m, n in ((512, 128), (128, 512), (128, 128)):
        p, second = torch.randn(2, m, n, generator=g), torch.zeros((2, m, 1) if m >= n else (2, 1, n))
        buffer = torch.zeros_like(p)
        for grad in torch.randn(3, 2, m, n, generator=g):
            optim.muon_update(p, grad, buffer, second, *settings, torch.float32)
        out += [p.flatten(), buffer.flatten()]
    return torch.cat(out)


def picked():
    """How often each of five tokens is drawn: at temperature 1, at 0.5 from the best two, and at 0."""
    g, logits = torch.Generator().manual_seed(1), torch.tensor([0.0, 2.0, -1.0, 1.5, 0.3])
    drawn = [[sample.pick(logits, *s, g) for _ in range(3000)] for s in ((1.0, None), (0.5, 2), (0, None))]
    return [d.count(i) / len(d) for d in drawn for i in range(5)]


def read_in_parts():
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


def fitted():
    """The best sizes that scaling.py finds at three budgets, and their exponents."""
    rows = [dict(budget=c, n=n, tokens=c / 6 / n, val_bpb=0.8 + 60 / n**0.4 + 300 / (c / 6 / n) ** 0.36)
            for c in (1e17, 4e17, 2e18) for n in (3e7 * (c / 1e17) ** 0.5 * 2**i for i in range(-2, 4))]  # fmt: skip
    minima = [scaling.minimum(group) for group in scaling.by_budget(rows).values()]
    found = [x for m in minima for x in (math.log(m["n"]), m["val_bpb"])]
    return found + [exponent for exponent, _ in scaling.laws(minima).values()]


def shares():
    """Which of n matrices each rank of several worlds updates."""
    found = []
    for n, world in ((12, 8), (5, 2), (3, 4), (7, 1)):
        group = optim.Group("", "muon", {f"{i}": torch.zeros(2, 2) for i in range(n)}, lr=0.1)
        parts = [optim.MuonAdamW([group], ranks=(rank, world)).parts[0] for rank in range(world)]
        found += [x for part in parts for x in (part.first, part.k, len(part.state["momentum"]))]
    return found
