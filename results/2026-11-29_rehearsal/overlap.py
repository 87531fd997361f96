"""What would starting each reduce-scatter during the backward pass win? Two questions, answered without a GPU.

    python results/2026-11-29_rehearsal/overlap.py       # writes overlap.json

1. When are gradients ready? A hook on every parameter (`register_post_accumulate_grad_hook`) notes how much of the
   backward pass is done when it fires, eager and compiled, at depth 4 on the CPU.
2. What is there to hide? A time line of the optimizer at depth 24 on eight ranks: bytes and products of every part are
   exact, and LINK, PRODUCTS and MEMORY are assumed speeds of an H100 node. One link sends one message after another.
"""

import json
import time
from pathlib import Path

import torch

from gpt2course.recipes import build, make_model, make_optimizer, resolve
from gpt2course.runlog import git_commit

WORLD, STEP = 8, 0.656  # ranks; seconds of nanochat's step on 8xH100
LINK = 450e9  # bytes a second that a rank sends and receives over NVLink
PRODUCTS = 500e12  # FLOP/s of bfloat16 products of matrices, about half of the peak
MEMORY = 2.7e12  # bytes a second, 80 % of the peak


def hooks(compiled: bool) -> dict:
    """Share of the backward pass, in seconds, that is over when hooks fire."""
    plan = resolve("jan29", depth=4, width=256, vocab_size=512, sequence_len=256)
    torch.manual_seed(0)
    model = make_model(plan).init_weights()
    fired = {}
    for name, p in model.named_parameters():
        p.register_post_accumulate_grad_hook(lambda p, name=name: fired.update({name: time.perf_counter()}))
    step = torch.compile(model) if compiled else model
    idx = torch.randint(0, 500, (8, 257), generator=torch.Generator().manual_seed(0))
    for _ in range(3):  # the first call compiles
        fired.clear()
        loss = step(idx[:, :-1], idx[:, 1:]).mean()
        began = time.perf_counter()
        loss.backward()
        seconds = time.perf_counter() - began
    share = {name: (t - began) / seconds for name, t in fired.items()}
    large = {n: s for n, s in share.items() if dict(model.named_parameters())[n].numel() > 1024}
    return {"first": min(large.values()), "median": sorted(large.values())[len(large) // 2], "last": max(large.values())}


def parts(recipe: str) -> list[dict]:
    """Bytes on the link and seconds of work of every part of the optimizer that ranks divide."""
    plan = resolve(recipe, depth=24)
    found = []
    for part in make_optimizer(build(plan.model, torch.bfloat16, torch.bfloat16), plan, torch.bfloat16, ranks=(0, WORLD)).parts:
        if not part.divided:
            continue
        own = part.k * part.params[0].numel() if part.muon else part.k  # numbers of one rank
        work = own * 28 / MEMORY  # AdamW reads p, g, m, v and writes p, m, v, 4 bytes each; Muon's other steps are close
        if part.muon:
            short, long = sorted(part.params[0].shape)
            work += part.k * part.group.ns_steps * (4 * short * short * long + 2 * short**3) / PRODUCTS
        size = part.params[0].element_size()
        found.append({"part": part.names[0], "matrices": len(part.names), "sent": own * (WORLD - 1) * size, "work": work})
    return found


def line(parts: list[dict], early=lambda part: False) -> dict:
    """The optimizer's time line, in seconds. `early` parts are reduced before the backward pass ends."""
    link, calls = 0.0, []
    for p in parts:
        p["arrived"] = 0.0 if early(p) else link + p["sent"] / LINK
        calls.append(["reduce-scatter", p["part"], link, p["arrived"]])
        link = p["arrived"] if not early(p) else link
    busy, work = 0.0, []
    for p in parts:
        start = max(busy, p["arrived"])
        busy = start + p["work"]
        work.append((start, busy))
        link = max(link, busy) + p["sent"] / LINK
        calls.append(["all-gather", p["part"], link - p["sent"] / LINK, link])
    beside = lambda a, b: sum(max(0.0, min(b, e) - max(a, s)) for s, e in work)
    hidden = sum(beside(a, b) for _, _, a, b in calls)
    with_work = sum(beside(a, b) > 0 for _, _, a, b in calls)
    return {"seconds": link, "work": sum(e - s for s, e in work), "hidden": hidden, "calls": len(calls), "with_work_beside": with_work,
            "time_line": calls}  # fmt: skip


def main() -> None:
    found = {"assumed": {"link": LINK, "products": PRODUCTS, "memory": MEMORY, "step": STEP}, "torch": torch.__version__, "commit": git_commit()}
    found["hooks"] = {"eager": hooks(False), "compiled": hooks(True)}
    for recipe in ("jan29", "record"):
        some = parts(recipe)
        single = lambda p: p["matrices"] == 1
        alone = sum(2 * p["sent"] / LINK + p["work"] for p in some)
        found[recipe] = {"parts": some, "one after another": alone, "as it is": line(some), "single parameters early": line(some, single),
                         "all early": line(some, lambda p: True), "largest first": line(sorted(some, key=lambda p: -p["sent"]))}  # fmt: skip
        print(recipe, f"one after another {1e3 * alone:.1f} ms", *(
            f"\n  {way}: {1e3 * x['seconds']:.1f} ms, {1e3 * x['work']:.1f} of work, {x['with_work_beside']} of {x['calls']} calls have work beside them"
            for way, x in found[recipe].items() if isinstance(x, dict)))  # fmt: skip
    print(json.dumps(found["hooks"], indent=1))
    (Path(__file__).parent / "overlap.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
