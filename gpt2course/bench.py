"""How fast the parts are, alone or beside another implementation in the same process. Lesson 12.

    python -m gpt2course.bench all --out results/speed                  every piece in its own process, at most 10 minutes each
    python -m gpt2course.bench step --against adapter.py --out work     ours and theirs in turn: A B, B A, A B, ...

What runs beside something else is not measured: the machine should be quiet. On CUDA the time is that between two events on
the device, on a CPU the wall clock's, with the process's own seconds beside it. Compilation and warm-up are never inside.

An adapter is a Python file with a NAME and any of these:

    training(plan, weights, device, compute, embed, compile)   an object with params, a dict of parameters by our names that hold
                                                               `weights`; loss(idx, targets), the mean loss (B, T int64 each); and
                                                               step(lr, momentum, weight_decay), which also clears the gradients
    attention(q, k, v, left)                                   as the kernels of kernels.py
    cross_entropy(x, weight, targets, cap)                     as losses.cross_entropy
    TOLERANCE                                                  how far losses may differ before timing begins, default 1e-3
"""

import importlib.util
import math
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import torch
import tyro

from gpt2course import checkpoint, fp8, kernels
from gpt2course.attention import Cache, choose
from gpt2course.batches import Batches
from gpt2course.cost import mfu, peak_flops
from gpt2course.data import load_corpus
from gpt2course.files import UserError, command, read_json, write_json
from gpt2course.losses import cross_entropy, cross_entropy_plain
from gpt2course.model import cast_once
from gpt2course.recipes import PROFILES, make_model, make_optimizer, resolve, settings_from_text
from gpt2course.tokenizer import train_or_load
from gpt2course.train import describe_machine, git_commit, graphs

WINDOWS = (2048, 1024, 512)
OURS = "gpt2course"


@dataclass
class Bench:
    """Measure one part, or all of them.

    Example: python -m gpt2course.bench step --set depth=4 width=256 sequence_len=256 --rounds 20
    """

    what: tyro.conf.Positional[Literal["attention", "loss", "optimizer", "step", "memory", "profile", "loader", "sampling", "roof", "parity", "all"]]
    out: str | None = None  # folder for the JSON files; `all` needs it, and leaves out what is there already
    name: str | None = None  # of the JSON file; default: the part
    against: str | None = None  # file of an adapter, see the head of gpt2course/bench.py
    recipe: str = "record"
    set: tuple[str, ...] = ()  # settings of the recipe, name=value; without any, the sizes of profile 1gpu on CUDA and of laptop elsewhere
    rows: int | None = None  # rows of T tokens in a forward pass; default: the profile's
    micro: int = 1  # forward and backward passes in a step
    rounds: int = 20  # repeats, each of all sides
    seconds: float = 120.0  # no new round after this long
    device: str = "auto"
    dtype: str = "auto"  # auto, float32 or bfloat16
    compile: bool | None = None  # default: on CUDA only
    kernel: str = "auto"  # of attention; the part attention measures this one alone, or with auto all that there are
    fp8: bool = False
    corpus: str = "embedded"  # for the loader and for parity
    seed: int = 0
    limit: float = 600.0  # seconds for each piece of `all`


# ---- measuring


def alternate(sides: dict, args: Bench, device, before=None) -> dict[str, dict]:
    """Call every side in turn, in the other order at every second round; name -> seconds, and on a CPU cpu_seconds, of each call.

    before(name) runs before each call and is not timed.
    """
    samples = {name: {"seconds": [], "cpu_seconds": []} for name in sides}
    began = None
    for i in range(-2, args.rounds):  # two rounds to warm up, and to compile
        if i == 0:
            began = time.perf_counter()
        if i > 0 and time.perf_counter() - began > args.seconds:
            break
        for name in list(sides)[:: 1 if i % 2 else -1]:
            if before:
                before(name)
            seconds, cpu = timed(sides[name], device)
            if i >= 0:
                samples[name]["seconds"].append(seconds)
                samples[name]["cpu_seconds"].append(cpu)
    return samples


def timed(f, device) -> tuple[float, float]:
    """(seconds of one call, seconds that this process's threads computed)."""
    if device.type != "cuda":
        wall, cpu = time.perf_counter(), time.process_time()
        f()
        return time.perf_counter() - wall, time.process_time() - cpu
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    cpu = time.process_time()
    start.record()
    f()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3, time.process_time() - cpu


def summary(values: list[float]) -> dict:
    """Median and quartiles, and the values."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": middle, "quartiles": [low, high], "n": len(values), "values": [float(f"{v:.6g}") for v in values]}


def ratio(ours: list[float], theirs: list[float]) -> dict:
    """The median of ours / theirs, round by round, and an interval that covers the true median with 95 % at least (from the
    binomial distribution of how many of n values lie below it; None where n is too small for that)."""
    r = sorted(a / b for a, b in zip(ours, theirs))
    n, below, k = len(r), 0.0, 0
    while below + math.comb(n, k) / 2**n <= 0.025:
        below += math.comb(n, k) / 2**n
        k += 1
    return {"median": statistics.median(r), "interval": [r[k - 1], r[n - k]] if k else None, "n": n}


def compared(samples: dict[str, dict]) -> dict:
    """The summary of each side, and the ratio of the first side to each other."""
    first, *others = samples
    kinds = [k for k in samples[first] if any(samples[first][k])]
    found = {"sides": {name: {k: summary(s[k]) for k in kinds} for name, s in samples.items()}}
    return found | {"ratio": {name: {k: ratio(samples[first][k], samples[name][k]) for k in kinds} for name in others}}


def resident() -> int:
    """The most memory this process has held, in bytes."""
    try:
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on a Mac


# ---- what is measured


@dataclass
class Setting:
    """What all parts share."""

    args: Bench
    device: torch.device
    compute: torch.dtype
    embed: torch.dtype
    compile: bool
    plan: object
    rows: int
    peak: float | None  # FLOP/s


def setting(args: Bench) -> Setting:
    device = checkpoint.pick_device(args.device)
    cuda = device.type == "cuda"
    compute, embed = checkpoint.compute_dtypes(device, args.dtype)
    if cuda:
        torch.set_float32_matmul_precision("high")
    sizes = dict(PROFILES["1gpu" if cuda else "laptop"])
    del sizes["corpus"]
    rows = args.rows or sizes.pop("device_batch")
    sizes.pop("device_batch", None)
    for name in ("rounds", "micro", "rows"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"{name} = {getattr(args, name)} is not allowed; it must be at least 1")
    changes = sizes | settings_from_text(args.set)
    T = int(changes.get("sequence_len", 2048))
    plan = resolve(args.recipe, **(changes | {"batch_tokens": rows * args.micro * T, "steps": int(changes.get("steps", 1000))}))
    compile = cuda if args.compile is None else args.compile
    return Setting(args, device, compute, embed, compile, plan, rows, peak_flops(torch.cuda.get_device_name(device)) if cuda else None)


def adapter(path: str | None):
    """The module of an adapter file, or None."""
    if path is None:
        return None
    if not Path(path).is_file():
        raise UserError(f"--against {path!r} does not exist; it must be a Python file, see the head of gpt2course/bench.py")
    spec = importlib.util.spec_from_file_location("bench_adapter", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "NAME"):
        raise UserError(f"--against {path!r} has no NAME; see the head of gpt2course/bench.py for what an adapter holds")
    return module


def need(module, function: str):
    if not hasattr(module, function):
        raise UserError(f"--against: the adapter of {module.NAME} has no {function}(); see the head of gpt2course/bench.py")
    return getattr(module, function)


def initial(s: Setting) -> dict[str, torch.Tensor]:
    """Weights to measure with: a fresh model's, but no matrix of zeros, whose products would hide mistakes."""
    model = make_model(s.plan).init_weights(s.args.seed)
    generator = torch.Generator().manual_seed(s.args.seed)
    for name, p in model.state_dict().items():
        if "c_proj" in name:
            p.normal_(0, 0.02, generator=generator)
    return model.state_dict()


def training(plan, weights, device, compute, embed, compile, fp8_too=False, kernel="auto") -> SimpleNamespace:
    """Our side of a training step, as an adapter has it."""
    choose(kernel, device, compute, plan.model.head_dim)
    model = make_model(plan, device, compute, embed)
    model.load_state_dict(weights)
    optimizer = make_optimizer(model, plan, ns_dtype=compute, compile=compile)
    eight = fp8.convert(model) if fp8_too else None
    forward = torch.compile(model, dynamic=False) if compile else model

    def step(lr, momentum, weight_decay):
        optimizer.step(lr, momentum, weight_decay)
        optimizer.zero_grad()
        if eight:
            eight.refresh()

    return SimpleNamespace(params=dict(model.named_parameters()), loss=forward, step=step, once=lambda: cast_once(model, compute), model=model)


def make_side(s: Setting, name: str, module):
    given = s.plan, initial(s), s.device, s.compute, s.embed, s.compile
    return training(*given, s.args.fp8, s.args.kernel) if name == OURS else need(module, "training")(*given)


def batch(s: Setting) -> torch.Tensor:
    """(micro, rows, T + 1) random tokens."""
    m, generator = s.plan.model, torch.Generator().manual_seed(s.args.seed)
    return torch.randint(m.vocab_size, (s.args.micro, s.rows, m.sequence_len + 1), generator=generator).to(s.device)


def forward_backward(side, pieces) -> torch.Tensor:
    """The gradients of one step; returns the mean loss."""
    total = 0.0
    with side.once() if hasattr(side, "once") else torch.enable_grad():
        for piece in pieces:
            loss = side.loss(piece[:, :-1].contiguous(), piece[:, 1:].contiguous()) / len(pieces)
            loss.backward()
            total = total + loss.detach()
    return total


def agree(sides: dict, module, pieces) -> dict[str, float]:
    """The loss of each side before any step; UserError if they do not agree."""
    losses = {name: forward_backward(side, pieces).item() for name, side in sides.items()}
    for side in sides.values():
        for p in side.params.values():
            p.grad = None
    allowed = getattr(module, "TOLERANCE", 1e-3)
    if max(losses.values()) - min(losses.values()) > allowed:
        raise UserError(f"the losses of the two sides differ by more than {allowed:g}, so that nothing is to be compared: {losses}")
    return losses


def step_part(s: Setting, module) -> dict:
    names = [OURS] + ([module.NAME] if module else [])
    sides, pieces = {name: make_side(s, name, module) for name in names}, batch(s)
    losses = agree(sides, module, pieces)
    for side in [*sides.values()] * 2:  # what is compiled after the second step is a recompilation
        whole_step(side, pieces)
    before = graphs()
    samples = alternate({name: lambda side=side: whole_step(side, pieces) for name, side in sides.items()}, s.args, s.device)
    recompiled = graphs() - before
    found = {"loss": losses} | compared(samples)
    tokens = s.plan.batch_tokens
    for name, one in found["sides"].items():
        speed = tokens / one["seconds"]["median"]
        one |= {"tokens_per_second": speed, "peak_memory_bytes": peak_memory(s, name, sides[name], pieces)}
        for kind, flops in (("published", s.plan.flops_per_token), ("causal", s.plan.flops_per_token_causal)):
            one[f"mfu_{kind}"] = mfu(flops, speed, 1, s.peak)
    return found | {"recompiled": recompiled, "tokens": tokens, "flops_per_token": s.plan.flops_per_token, "flops_per_token_causal": s.plan.flops_per_token_causal}


def whole_step(side, pieces) -> None:
    forward_backward(side, pieces)
    side.step(0.1, 0.95, 1.0)


def peak_memory(s: Setting, name: str, side, pieces) -> int | None:
    """Bytes at the peak of a step: on CUDA what torch allocates above what the other side holds, elsewhere of a process of its own, above its imports."""
    if s.device.type == "cuda":
        own = sum(p.numel() * p.element_size() for p in side.params.values())
        torch.cuda.empty_cache()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        whole_step(side, pieces)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - held + own
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(alone, (s.args, name))


def alone(args: Bench, name: str) -> int:
    s, module = setting(args), adapter(args.against) if name != OURS else None
    pieces = batch(s)
    given = initial(s)  # and so is what building a model imports
    before = resident()
    side = make_side(s, name, module)
    del given
    for _ in range(3):
        whole_step(side, pieces)
    return resident() - before


def optimizer_part(s: Setting, module) -> dict:
    """The optimizer's step alone, on the same gradients; `differ`: the largest difference of a weight after the first step."""
    names = [OURS] + ([module.NAME] if module else [])
    sides = {name: make_side(s, name, module) for name in names}
    generator = torch.Generator().manual_seed(s.args.seed)
    grads = {name: torch.randn(p.shape, generator=generator).mul_(0.01).to(p.device, p.dtype) for name, p in sides[OURS].params.items()}

    def before(name):
        for key, p in sides[name].params.items():
            p.grad = grads[key].clone()

    for name, side in sides.items():
        before(name)
        side.step(0.1, 0.95, 1.0)
    differ = {name: max((p - sides[OURS].params[k]).abs().max().item() for k, p in sides[name].params.items()) for name in names[1:]}
    samples = alternate({name: lambda side=side: side.step(0.1, 0.95, 1.0) for name, side in sides.items()}, s.args, s.device, before)
    muon = {k: p for k, p in sides[OURS].params.items() if k.startswith("blocks.")}
    others = sum(p.numel() * p.element_size() for k, p in sides[OURS].params.items() if k not in muon)
    flops = sum(10 * min(p.shape) ** 2 * (2 * max(p.shape) + min(p.shape)) for p in muon.values())  # five iterations of three products
    moved = 5 * sum(p.numel() * p.element_size() for p in muon.values()) + 7 * others  # weights and moments read and written, gradients read
    return {"differ": differ, "flops": flops, "bytes": moved} | compared(samples)


def attention_part(s: Setting, module) -> dict:
    """Forward, and forward with backward, for each window and kernel; FLOPs count the keys that a query sees."""
    m = s.plan.model
    B, T, H, D = s.rows, m.sequence_len, m.n_head, m.head_dim
    names = [n for n in kernels.LOAD if s.args.kernel in ("auto", n)]
    found, cannot = {}, {}
    made = {n: kernels.load(n, s.device, s.compute, D) for n in names}
    cannot = {n: problem for n, (_, problem) in made.items() if problem}
    sides = {n: kernel for n, (kernel, problem) in made.items() if not problem} | ({module.NAME: need(module, "attention")} if module else {})
    if not sides:
        return {"cannot": cannot}
    generator = torch.Generator().manual_seed(s.args.seed)
    q, k, v, dy = (torch.randn(B, T, h, D, generator=generator).to(s.device, s.compute) for h in (H, m.n_kv_head, m.n_kv_head, H))
    for left in dict.fromkeys(w if w < T else -1 for w in (WINDOWS if s.device.type == "cuda" else (T, T // 2, T // 4))):
        keys = sum(min(t, left if left >= 0 else t) + 1 for t in range(T))

        def run(kernel, left=left, backward=True):
            leaves = [x.detach().requires_grad_(backward) for x in (q, k, v)]
            y = kernel(*leaves, left)
            if backward:
                torch.autograd.grad(y, leaves, dy)

        one = {}
        for way, backward in (("forward", False), ("forward_backward", True)):
            flops = (14 if backward else 4) * B * H * D * keys  # a backward pass makes five products where the forward pass makes two
            samples = alternate({n: lambda f=f, b=backward: run(f, backward=b) for n, f in sides.items()}, s.args, s.device)
            one[way] = compared(samples) | {"flops": flops, "bytes": (12 if backward else 4) * q.numel() * q.element_size()}
            for side in one[way]["sides"].values():
                side["flops_per_second"] = flops / side["seconds"]["median"]
        found[str(left)] = one
    return {"shape": {"B": B, "T": T, "H": H, "D": D}, "windows": found, "cannot": cannot}


def loss_part(s: Setting, module) -> dict:
    m, generator = s.plan.model, torch.Generator().manual_seed(s.args.seed)
    N, C, V = s.rows * m.sequence_len, m.n_embd, m.vocab_size
    x = torch.randn(N, C, generator=generator).to(s.device, s.compute).requires_grad_()
    weight = torch.randn(V, C, generator=generator).mul_(0.02).to(s.device).requires_grad_()
    targets = torch.randint(V, (N,), generator=generator).to(s.device)
    sides = {OURS: cross_entropy} | ({module.NAME: need(module, "cross_entropy")} if module else {"plain": cross_entropy_plain})
    samples = alternate({n: lambda f=f: torch.autograd.grad(f(x, weight, targets, m.softcap), (x, weight)) for n, f in sides.items()}, s.args, s.device)
    moved = 2 * (x.numel() * x.element_size() + weight.numel() * 4)
    return {"shape": {"N": N, "C": C, "V": V}, "flops": 6 * N * C * V, "bytes": moved} | compared(samples)


def memory_part(s: Setting, module) -> dict:
    """The peak of a step for 1, 2, 4, ... times the rows, until memory is full (CUDA), or once and twice (elsewhere)."""
    found = []
    for i in range(8 if s.device.type == "cuda" else 2):
        one = replace(s, args=replace(s.args, rows=s.rows << i, micro=1))
        try:
            if s.device.type != "cuda":
                found.append({"rows": s.rows << i, "peak_memory_bytes": peak_memory(one, OURS, None, None)})
                continue
            t = setting(one.args)
            torch._dynamo.reset()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            side = make_side(t, OURS, None)
            for _ in range(2):
                whole_step(side, batch(t))
            found.append({"rows": t.rows, "peak_memory_bytes": torch.cuda.max_memory_allocated(), "reserved_bytes": torch.cuda.max_memory_reserved()})
            del side
        except torch.OutOfMemoryError:
            found.append({"rows": s.rows << i, "out_of_memory": True})
            break
    return {"rows": found}


# What a kernel does, by its name; the first that fits counts
KINDS = (("attention", "attention|flash|fmha|varlen|flex|blocked"), ("loss", "cross_entropy|losses_and_gradient|softmax|logsumexp"),
         ("matrix products", "gemm|::mm|::bmm|addmm|cutlass|nvjet|xmma|cublas"), ("communication", "nccl|all_gather|reduce_scatter|all_reduce"),
         ("copies and casts", "memcpy|memset|copy|_to_copy|cat"), ("the rest", ""))  # fmt: skip


def profile_part(s: Setting, module) -> dict:
    """Where the time of a step goes: the kernels of the device (on a CPU torch's operators), sorted, and summed up by kind and by phase."""
    side, pieces = make_side(s, OURS, None), batch(s)
    for _ in range(3):
        whole_step(side, pieces)
    activity = torch.profiler.ProfilerActivity
    n, phases = 3, {"forward and backward": [], "optimizer": []}
    with torch.profiler.profile(activities=[activity.CPU] + ([activity.CUDA] if s.device.type == "cuda" else [])) as p:
        for _ in range(n):
            phases["forward and backward"].append(timed(lambda: forward_backward(side, pieces), s.device)[0])
            phases["optimizer"].append(timed(lambda: side.step(0.1, 0.95, 1.0), s.device)[0])
    field = "self_device_time_total" if s.device.type == "cuda" else "self_cpu_time_total"
    if s.device.type == "cuda":
        rows = [e for e in p.key_averages() if e.device_type == torch.autograd.DeviceType.CUDA]
    else:
        rows = p.key_averages()
    rows = sorted(((e.key, getattr(e, field) / n / 1e6, e.count / n) for e in rows if getattr(e, field) > 0), key=lambda r: -r[1])
    kinds = {name: 0.0 for name, _ in KINDS}
    for key, seconds, _ in rows:
        kinds[next(name for name, words in KINDS if re.search(words, key.lower()))] += seconds
    return {"phases": {k: summary(v) for k, v in phases.items()}, "kinds": kinds, "kernels": [{"name": k[:120], "seconds": t, "calls": c} for k, t, c in rows[:30]]}


def loader_part(s: Setting, module) -> dict:
    """Rows of T + 1 tokens from documents: read, encoded and packed, by one process."""
    corpus = load_corpus(s.args.corpus)
    loader = Batches(corpus.train, train_or_load(corpus, s.plan.model.vocab_size), s.plan.model.sequence_len, streams=min(8, len(corpus.train)))
    samples = alternate({OURS: lambda: loader.next_rows(s.rows)}, s.args, torch.device("cpu"))
    found = compared(samples)
    found["sides"][OURS]["tokens_per_second"] = s.rows * s.plan.model.sequence_len / found["sides"][OURS]["seconds"]["median"]
    return found


def sampling_part(s: Setting, module) -> dict:
    """A prompt of T / 2 tokens read, then 16 tokens one by one, with the cache and without."""
    m = s.plan.model
    model = make_model(s.plan, s.device, s.compute, s.embed)
    model.load_state_dict(initial(s))
    prompt = batch(s)[0, :1, : m.sequence_len // 2]  # (1, T / 2)
    count = 16

    @torch.no_grad()
    def generate(cached):
        idx, cache, new = prompt, Cache() if cached else None, prompt
        for _ in range(count):
            last = model(new if cached else idx, cache=cache)[:, -1]  # (1, V)
            new = last.argmax(-1, keepdim=True)  # (1, 1)
            idx = torch.cat([idx, new], dim=1)
        return idx

    samples = alternate({"cache": lambda: generate(True), "no cache": lambda: generate(False)}, s.args, s.device)
    found = compared(samples)
    for one in found["sides"].values():
        one["tokens_per_second"] = count / one["seconds"]["median"]
    return found | {"prompt": prompt.size(1), "tokens": count}


def roof_part(s: Setting, module) -> dict:
    """What this device reaches: large matrix products in the compute dtype, and copying memory; and the model's own products."""
    big, m, N = 8192 if s.device.type == "cuda" else 1024, s.plan.model, s.rows * s.plan.model.sequence_len
    shapes = {"large": (big, big, big), "q, k, v and output": (N, m.n_embd, m.n_embd), "MLP": (N, m.n_embd, 4 * m.n_embd), "head": (min(N, 8192), m.n_embd, m.vocab_size)}
    products = {}
    for name, (rows, inner, columns) in shapes.items():
        a, b = (torch.randn(shape, device=s.device).to(s.compute) for shape in ((rows, inner), (inner, columns)))
        one = compared(alternate({OURS: lambda a=a, b=b: a @ b}, s.args, s.device))["sides"][OURS]
        flops, moved = 2 * rows * inner * columns, s.compute.itemsize * (rows * inner + inner * columns + rows * columns)
        products[name] = one | {"shape": [rows, inner, columns], "flops": flops, "bytes": moved, "flops_per_second": flops / one["seconds"]["median"]}
    x = torch.zeros(2**28 if s.device.type == "cuda" else 2**24, device=s.device)
    y = torch.empty_like(x)
    copy = compared(alternate({OURS: lambda: y.copy_(x)}, s.args, s.device))["sides"][OURS]
    return {"products": products, "copy": copy | {"bytes_per_second": 2 * x.numel() * 4 / copy["seconds"]["median"]}}


def parity_part(s: Setting, module) -> dict:
    """The loss of each step, from the same weights on the same text by the same schedule; and the other side's curves from two other seeds.

    difference: the mean of |ours - theirs| over the last quarter of the steps; spread: the same between theirs of different seeds.
    Rounding grows in training, so that is what a difference has to be compared with.
    """
    if module is None:
        raise UserError("parity needs --against, the adapter of what to compare with")
    corpus, m = load_corpus(s.args.corpus), s.plan.model
    tokenizer, losses = train_or_load(corpus, m.vocab_size), {}
    for name, seed in [(OURS, 0), *((module.NAME, i) for i in range(3))]:
        one = replace(s, args=replace(s.args, seed=s.args.seed + seed))
        side, loader = make_side(one, name, module), Batches(corpus.train, tokenizer, m.sequence_len, streams=min(8, len(corpus.train)))
        curve = losses[f"{name}, seed {one.args.seed}"] = []
        for step in range(s.plan.steps):
            pieces = torch.from_numpy(loader.next_rows(s.args.micro * s.rows)).view(s.args.micro, s.rows, -1).to(s.device)  # (micro, rows, T + 1)
            curve.append(forward_backward(side, pieces).item())
            side.step(s.plan.lr(step), s.plan.muon_momentum(step), s.plan.weight_decay(step))
        del side

    def apart(a, b):
        late = slice(-max(1, s.plan.steps // 4), None)
        return statistics.mean(abs(x - y) for x, y in zip(a[late], b[late]))

    ours, *theirs = losses.values()
    return {"losses": {name: [round(x, 5) for x in curve] for name, curve in losses.items()}, "difference": apart(ours, theirs[0]),
            "first_difference": abs(ours[0] - theirs[0][0]), "spread": [apart(a, b) for i, a in enumerate(theirs) for b in theirs[:i]]}  # fmt: skip


PARTS = {"attention": attention_part, "loss": loss_part, "optimizer": optimizer_part, "step": step_part, "memory": memory_part, "profile": profile_part,
         "loader": loader_part, "sampling": sampling_part, "roof": roof_part, "parity": parity_part}  # fmt: skip


# ---- one part, or all


def record(args: Bench) -> dict:
    """Measure one part; what it gave and how it was made."""
    s, module = setting(args), adapter(args.against)
    began = time.perf_counter()
    result = PARTS[args.what](s, module)
    made = {
        "machine": describe_machine(s.device), "commit": git_commit(), "command": ["python", "-m", "gpt2course.bench", *sys.argv[1:]], "date": time.strftime("%Y-%m-%d"),
        "seed": args.seed, "dtype": str(s.compute).removeprefix("torch."), "compile": s.compile, "fp8": args.fp8, "against": module and module.NAME, "peak_flops": s.peak,
        "plan": {"recipe": s.plan.recipe.name, "rows": s.rows, "micro": args.micro, "T": s.plan.model.sequence_len, "depth": s.plan.model.n_layer, "width": s.plan.model.n_embd,
                 "vocab_size": s.plan.model.vocab_size, "parameters": s.plan.params["total"]},
    }  # fmt: skip
    if args.what in ("step", "profile"):
        made["attention"] = list(choose(args.kernel, s.device, s.compute, s.plan.model.head_dim))
    return {"part": args.what, "made": made, "result": result, "took_seconds": round(time.perf_counter() - began, 1)}


def pieces_of_all(args: Bench, cuda: bool) -> dict[str, list[str]]:
    """name -> arguments of every piece of `all`: what the machine's size allows to measure, each in minutes."""
    common = ["--recipe", args.recipe, "--rounds", str(args.rounds), "--seconds", str(args.seconds), "--seed", str(args.seed), "--device", args.device, "--dtype", args.dtype]
    against, given = ["--against", str(Path(args.against).resolve())] if args.against else [], list(args.set)
    rows = ["--rows", str(args.rows)] if args.rows else []

    def sized(*settings):
        return ["--set", *given, *settings] if given or settings else []

    if not cuda:
        small = [*common, *rows, *sized()]
        return {name: [name, *small, *(against if name in ("step", "optimizer", "parity") else []), *(["--corpus", args.corpus] if name in ("loader", "parity") else [])]
                for name in PARTS if name != "parity" or against}  # fmt: skip
    pieces = {"roof": ["roof", *common, *sized("depth=24")]}
    for kernel in kernels.LOAD:
        pieces[f"attention-{kernel}"] = ["attention", *common, "--kernel", kernel, "--rows", "16", *sized("depth=24")]  # 12 heads of 128
    for depth, device_batch in ((12, 32), (20, 16), (24, 16)):
        sizes = sized(f"depth={depth}")
        own = rows or ["--rows", str(device_batch)]
        pieces[f"step-d{depth}-bf16"] = ["step", *common, *own, *sizes, *against]
        pieces[f"step-d{depth}-fp8"] = ["step", *common, *own, *sizes, "--fp8"]
        pieces[f"memory-d{depth}-bf16"] = ["memory", *common, "--rows", "8", *sizes]
        pieces[f"memory-d{depth}-fp8"] = ["memory", *common, "--rows", "8", *sizes, "--fp8"]
        pieces[f"optimizer-d{depth}"] = ["optimizer", *common, *own, *sizes, *against]
        pieces[f"profile-d{depth}"] = ["profile", *common, *own, *sizes]
    if against:
        pieces["parity-d12"] = ["parity", *common, *(rows or ["--rows", "16"]), *sized("depth=12", "steps=200"), *against, "--corpus", args.corpus]
    pieces["loss-d24"] = ["loss", *common, *(rows or ["--rows", "16"]), *sized("depth=24")]
    pieces["sampling"] = ["sampling", *common, *sized("depth=12")]
    pieces["loader"] = ["loader", *common, *sized("depth=12"), "--corpus", args.corpus]
    return pieces


def everything(args: Bench) -> None:
    """Each piece in a process of its own, ended after `limit`; pieces whose file is there are left out."""
    if args.out is None:
        raise UserError("all needs --out, the folder for its files")
    out, failed = Path(args.out), []
    out.mkdir(parents=True, exist_ok=True)
    pieces = pieces_of_all(args, checkpoint.pick_device(args.device).type == "cuda")
    for i, (name, more) in enumerate(pieces.items(), 1):
        if (out / f"{name}.json").exists():
            print(f"{i}/{len(pieces)}  {name}: there already", flush=True)
            continue
        print(f"{i}/{len(pieces)}  {name} ...", flush=True)
        try:
            done = subprocess.run([sys.executable, "-m", "gpt2course.bench", *more, "--out", str(out), "--name", name], timeout=args.limit, capture_output=True, text=True)
            problem = None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no message"])[-1]
        except subprocess.TimeoutExpired:
            problem = f"not done after {args.limit:g} seconds; try --rounds or --seconds lower, or --limit higher"
        print(done.stdout.rstrip() if problem is None else f"   {name} failed: {problem}", flush=True)
        failed += [name] if problem else []
    figure(out)
    if failed:
        raise UserError(f"{len(failed)} of {len(pieces)} pieces failed: {', '.join(failed)}; the same command tries them again")


def figure(out: Path) -> None:
    """roofline.png from the files of a folder, where there is a roof."""
    from gpt2course.figures.speed import roofline
    from gpt2course.plots import png

    files = {p.stem: read_json(p, "measurement") for p in sorted(out.glob("*.json"))}
    if "roof" in files:
        (out / "roofline.png").write_bytes(png(roofline(*roofline_points(files))))
        print(f"figure {out / 'roofline.png'}")


def roofline_points(files: dict[str, dict]) -> tuple[float, float, dict[str, tuple[float, float]]]:
    """(FLOP/s of large products, bytes/s of copying, what was measured -> (FLOPs a byte, FLOP/s)) of the files of a folder."""
    roof = files["roof"]["result"]
    points = {name: (p["flops"] / p["bytes"], p["flops_per_second"]) for name, p in roof["products"].items() if name != "large"}
    for stem, file in files.items():
        result = file["result"]
        if file["part"] in ("loss", "optimizer"):
            points[stem] = result["flops"] / result["bytes"], result["flops"] / result["sides"][OURS]["seconds"]["median"]
        elif file["part"] == "attention" and "windows" in result:
            ways = result["windows"].get("-1") or next(iter(result["windows"].values()))
            one = ways["forward_backward"]
            best = max(one["sides"], key=lambda n: one["sides"][n]["flops_per_second"])
            points[f"attention, {best}"] = one["flops"] / one["bytes"], one["sides"][best]["flops_per_second"]
    return roof["products"]["large"]["flops_per_second"], roof["copy"]["bytes_per_second"], points


def lines(found: dict) -> list[str]:
    """The result in a few lines for people."""
    out = [f"{found['part']} on {found['made']['machine']['device']}, {found['made']['dtype']}, commit {found['made']['commit']}"]

    def sides(result, label=""):
        for name, one in result.get("sides", {}).items():
            t = one["seconds"]
            more = "".join(f"  {one[k]:,.0f} {unit}" for k, unit in (("tokens_per_second", "tokens/s"),) if one.get(k))
            more += f"  {one['flops_per_second'] / 1e9:,.1f} GFLOP/s" if one.get("flops_per_second") else ""
            more += f"  MFU {one['mfu_published']:.1%} as published, {one['mfu_causal']:.1%} causal" if one.get("mfu_published") else ""
            more += f"  peak {one['peak_memory_bytes'] / 1e6:,.0f} MB" if one.get("peak_memory_bytes") else ""
            out.append(f"  {label}{name}: {t['median'] * 1e3:.3f} ms [{t['quartiles'][0] * 1e3:.3f}, {t['quartiles'][1] * 1e3:.3f}]{more}")
        for name, kinds in result.get("ratio", {}).items():
            for kind, r in kinds.items():
                between = f" [{r['interval'][0]:.3f}, {r['interval'][1]:.3f}]" if r["interval"] else ""
                out.append(f"  {label}{next(iter(result['sides']))} / {name}, {kind}: {r['median']:.3f}{between}")

    result = found["result"]
    sides(result)
    if "spread" in result:
        spread = ", ".join(f"{x:.4f}" for x in result["spread"])
        out.append(f"  loss: first step {result['first_difference']:.2g} apart, last quarter {result['difference']:.4f}; the other side's seeds among themselves {spread}")
    for left, ways in result.get("windows", {}).items():
        for way, one in ways.items():
            sides(one, f"window {left}, {way}, ")
    for name, why in result.get("cannot", {}).items():
        out.append(f"  {name} cannot be used: {why}")
    for row in result["rows"] if isinstance(result.get("rows"), list) else ():
        out.append(f"  {row['rows']} rows: " + ("out of memory" if row.get("out_of_memory") else f"{row['peak_memory_bytes'] / 1e9:.2f} GB"))
    out += [f"  {kind}: {seconds * 1e3:.2f} ms a step" for kind, seconds in result.get("kinds", {}).items()]
    out += [f"  {name}: {p['flops_per_second'] / 1e9:,.1f} GFLOP/s" for name, p in result.get("products", {}).items()]
    return out + ([f"  copying: {result['copy']['bytes_per_second'] / 1e9:,.1f} GB/s"] if "copy" in result else [])


def main(args: Bench) -> None:
    if args.what == "all":
        return everything(args)
    found = record(args)
    print("\n".join(lines(found)))
    if args.out is not None:
        os.makedirs(args.out, exist_ok=True)
        write_json(Path(args.out) / f"{args.name or args.what}.json", found)


if __name__ == "__main__":
    command(main)
