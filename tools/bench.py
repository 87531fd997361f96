"""How fast the parts are, alone or beside another implementation in the same process. Lesson 12.

    python -m gpt2course.bench all --out results/speed                every piece in its own process, at most 10 minutes
    python -m gpt2course.bench step --against adapter.py --out work   ours and theirs in turn: A B, B A, A B, ...

What runs beside something else is not measured: the machine should be quiet. On CUDA the time is that between two
events on the device, on a CPU the wall clock's, with the process's own seconds beside it. Compilation and warm-up are
never inside.

An adapter is a Python file with a NAME and any of these:

    training(plan, weights, device, compute, embed, compile)
        an object with params, a dict of parameters by our names that hold `weights`; loss(idx, targets), the mean loss
        (B, T int64 each); and step(lr, momentum, weight_decay), which also clears the gradients
    attention(q, k, v, left)                  as the kernels of kernels.py
    cross_entropy(x, weight, targets, cap)    as losses.cross_entropy
    TOLERANCE                                 how far losses may differ before timing begins, default 1e-3
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
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import torch
import tyro

from gpt2course import checkpoint
from gpt2course.fast import fp8, kernels
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

    what: tyro.conf.Positional[
        Literal[
            "attention", "loss", "optimizer", "step", "memory", "profile", "loader", "sampling", "roof", "parity", "all"
        ]
    ]
    out: str | None = None  # folder for the JSON files; `all` needs it, and leaves out what is there already
    name: str | None = None  # of the JSON file; default: the part
    against: str | None = None  # file of an adapter, see the head of gpt2course/bench.py
    recipe: str = "record"
    # Settings of the recipe, name=value; without any, the sizes of profile 1gpu on CUDA and of laptop elsewhere
    set: tuple[str, ...] = ()
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
    """Call every side in turn, in the other order at every second round; name -> seconds and cpu_seconds of each call.

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
    """The median of ours / theirs, round by round, and an interval that covers the true median with 95 % at least (from
    the binomial distribution of how many of n values lie below it; None where n is too small for that)."""
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
    return {
        "sides": {name: {k: summary(s[k]) for k in kinds} for name, s in samples.items()},
        "ratio": {name: {k: ratio(samples[first][k], samples[name][k]) for k in kinds} for name in others},
    }


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
    for name in ("rounds", "micro", "rows"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"{name} = {value} is not allowed; it must be at least 1")
    device = checkpoint.pick_device(args.device)
    cuda = device.type == "cuda"
    compute, embed = checkpoint.compute_dtypes(device, args.dtype)
    if cuda:
        torch.set_float32_matmul_precision("high")
    sizes = dict(PROFILES["1gpu" if cuda else "laptop"])
    del sizes["corpus"]
    device_batch = sizes.pop("device_batch")
    rows = args.rows or device_batch
    changes = {"steps": 1000} | sizes | settings_from_text(args.set)
    changes["batch_tokens"] = rows * args.micro * int(changes.get("sequence_len", 2048))
    plan = resolve(args.recipe, **changes)
    compile = cuda if args.compile is None else args.compile
    peak = peak_flops(torch.cuda.get_device_name(device)) if cuda else None
    return Setting(args, device, compute, embed, compile, plan, rows, peak)


def adapter(path: str | None):
    """The module of an adapter file, or None."""
    if path is None:
        return None
    if not Path(path).is_file():
        raise UserError(
            f"--against {path!r} does not exist; it must be a Python file, see the head of gpt2course/bench.py"
        )
    spec = importlib.util.spec_from_file_location("bench_adapter", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "NAME"):
        raise UserError(
            f"--against {path!r} has no NAME; see the head of gpt2course/bench.py for what an adapter holds"
        )
    return module


def need(module, function: str):
    if not hasattr(module, function):
        raise UserError(
            f"--against: the adapter of {module.NAME} has no {function}(); see the head of gpt2course/bench.py"
        )
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

    params = dict(model.named_parameters())
    return SimpleNamespace(params=params, loss=forward, step=step, once=lambda: cast_once(model, compute))


def make_side(s: Setting, name: str, module):
    given = s.plan, initial(s), s.device, s.compute, s.embed, s.compile
    return training(*given, s.args.fp8, s.args.kernel) if name == OURS else need(module, "training")(*given)


def make_sides(s: Setting, module) -> dict:
    """Ours, and the adapter's where there is one."""
    return {name: make_side(s, name, module) for name in ([OURS, module.NAME] if module else [OURS])}


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


def update(side) -> None:
    side.step(0.1, 0.95, 1.0)


def whole_step(side, pieces) -> None:
    forward_backward(side, pieces)
    update(side)


def agree(sides: dict, module, pieces) -> dict[str, float]:
    """The loss of each side before any step; UserError if they do not agree."""
    losses = {name: forward_backward(side, pieces).item() for name, side in sides.items()}
    for side in sides.values():
        for p in side.params.values():
            p.grad = None
    allowed = getattr(module, "TOLERANCE", 1e-3)
    if max(losses.values()) - min(losses.values()) > allowed:
        raise UserError(
            f"the losses of the two sides differ by more than {allowed:g}, so that nothing is to be compared: {losses}"
        )
    return losses


def step_part(s: Setting, module) -> dict:
    sides, pieces = make_sides(s, module), batch(s)
    losses = agree(sides, module, pieces)
    for side in [*sides.values()] * 2:  # what is compiled after the second step is a recompilation
        whole_step(side, pieces)
    before = graphs()
    calls = {name: partial(whole_step, side, pieces) for name, side in sides.items()}
    found = {"loss": losses} | compared(alternate(calls, s.args, s.device))
    found["recompiled"] = graphs() - before
    plan = s.plan
    for name, one in found["sides"].items():
        speed = plan.batch_tokens / one["seconds"]["median"]
        one["tokens_per_second"] = speed
        one["peak_memory_bytes"] = peak_memory(s, name, sides[name], pieces)
        one["mfu_published"] = mfu(plan.flops_per_token, speed, 1, s.peak)
        one["mfu_causal"] = mfu(plan.flops_per_token_causal, speed, 1, s.peak)
    flops = {"flops_per_token": plan.flops_per_token, "flops_per_token_causal": plan.flops_per_token_causal}
    return found | {"tokens": plan.batch_tokens} | flops


def peak_memory(s: Setting, name: str, side, pieces) -> int:
    """Bytes at the peak of a step: on CUDA what torch allocates above what the other side holds, elsewhere of a process
    of its own, above its imports."""
    if s.device.type != "cuda":
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(alone, (s.args, name))
    own = sum(p.numel() * p.element_size() for p in side.params.values())
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    whole_step(side, pieces)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - held + own


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
    """The optimizer's step alone, on the same gradients; `differ`: the largest difference of a weight after it."""
    sides = make_sides(s, module)
    ours = sides[OURS].params
    generator = torch.Generator().manual_seed(s.args.seed)
    grads = {k: torch.randn(p.shape, generator=generator).mul_(0.01).to(p.device, p.dtype) for k, p in ours.items()}

    def before(name):
        for key, p in sides[name].params.items():
            p.grad = grads[key].clone()

    differ = {}
    for name, side in sides.items():
        before(name)
        update(side)
        if name != OURS:
            differ[name] = max((p - ours[k]).abs().max().item() for k, p in side.params.items())
    found = compared(alternate({name: partial(update, side) for name, side in sides.items()}, s.args, s.device, before))
    muon = [p for k, p in ours.items() if k.startswith("blocks.")]
    others = [p for k, p in ours.items() if not k.startswith("blocks.")]
    # Five iterations of three products; weights and moments read and written, gradients read
    flops = sum(10 * min(p.shape) ** 2 * (2 * max(p.shape) + min(p.shape)) for p in muon)
    moved = 5 * sum(p.nbytes for p in muon) + 7 * sum(p.nbytes for p in others)
    return {"differ": differ, "flops": flops, "bytes": moved} | found


def attention_part(s: Setting, module) -> dict:
    """Forward, and forward with backward, for each window and kernel; FLOPs count the keys that a query sees."""
    m = s.plan.model
    B, T, H, D = s.rows, m.sequence_len, m.n_head, m.head_dim
    sides, cannot = {}, {}
    for name in kernels.LOAD if s.args.kernel == "auto" else [s.args.kernel]:
        kernel, problem = kernels.load(name, s.device, s.compute, D)
        if problem:
            cannot[name] = problem
        else:
            sides[name] = kernel
    if module:
        sides[module.NAME] = need(module, "attention")
    if not sides:
        return {"cannot": cannot}
    generator = torch.Generator().manual_seed(s.args.seed)
    heads = H, m.n_kv_head, m.n_kv_head, H
    q, k, v, dy = (torch.randn(B, T, h, D, generator=generator).to(s.device, s.compute) for h in heads)

    def run(kernel, left, backward):
        leaves = [x.detach().requires_grad_(backward) for x in (q, k, v)]
        y = kernel(*leaves, left)
        if backward:
            torch.autograd.grad(y, leaves, dy)

    windows = WINDOWS if s.device.type == "cuda" else (T, T // 2, T // 4)
    found = {}
    for left in dict.fromkeys(w if w < T else -1 for w in windows):
        keys = sum(min(t, left if left >= 0 else t) + 1 for t in range(T))
        found[str(left)] = {}
        for way, backward in (("forward", False), ("forward_backward", True)):
            flops = (14 if backward else 4) * B * H * D * keys  # backward has five products where forward has two
            calls = {name: partial(run, kernel, left, backward) for name, kernel in sides.items()}
            one = compared(alternate(calls, s.args, s.device))
            for side in one["sides"].values():
                side["flops_per_second"] = flops / side["seconds"]["median"]
            found[str(left)][way] = one | {"flops": flops, "bytes": (12 if backward else 4) * q.nbytes}
    return {"shape": {"B": B, "T": T, "H": H, "D": D}, "windows": found, "cannot": cannot}


def loss_part(s: Setting, module) -> dict:
    """The loss and its gradients, beside the adapter's, or beside the loss as one would write it down."""
    m, generator = s.plan.model, torch.Generator().manual_seed(s.args.seed)
    N, C, V = s.rows * m.sequence_len, m.n_embd, m.vocab_size
    x = torch.randn(N, C, generator=generator).to(s.device, s.compute).requires_grad_()
    weight = torch.randn(V, C, generator=generator).mul_(0.02).to(s.device).requires_grad_()
    targets = torch.randint(V, (N,), generator=generator).to(s.device)
    other = {module.NAME: need(module, "cross_entropy")} if module else {"plain": cross_entropy_plain}

    def run(loss):
        torch.autograd.grad(loss(x, weight, targets, m.softcap), (x, weight))

    calls = {name: partial(run, loss) for name, loss in ({OURS: cross_entropy} | other).items()}
    made = {"shape": {"N": N, "C": C, "V": V}, "flops": 6 * N * C * V, "bytes": 2 * (x.nbytes + weight.nbytes)}
    return made | compared(alternate(calls, s.args, s.device))


def memory_part(s: Setting, module) -> dict:
    """The peak of a step for 1, 2, 4, ... times the rows, on CUDA until memory is full, elsewhere once and twice."""
    found = []
    for i in range(8 if s.device.type == "cuda" else 2):
        t = setting(replace(s.args, rows=s.rows << i, micro=1))
        one = {"rows": t.rows}
        found.append(one)
        if s.device.type != "cuda":
            one["peak_memory_bytes"] = peak_memory(t, OURS, None, None)
            continue
        try:
            torch._dynamo.reset()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            side = make_side(t, OURS, None)
            for _ in range(2):
                whole_step(side, batch(t))
            one["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
            one["reserved_bytes"] = torch.cuda.max_memory_reserved()
            del side
        except torch.OutOfMemoryError:
            one["out_of_memory"] = True
            break
    return {"rows": found}


KINDS = {  # what a kernel does, by its name; the first that fits counts
    "attention": "attention|flash|fmha|varlen|flex|blocked",
    "loss": "cross_entropy|losses_and_gradient|softmax|logsumexp",
    "matrix products": "gemm|::mm|::bmm|addmm|cutlass|nvjet|xmma|cublas",
    "communication": "nccl|all_gather|reduce_scatter|all_reduce",
    "copies and casts": "memcpy|memset|copy|_to_copy|cat",
    "the rest": "",
}


def profile_part(s: Setting, module) -> dict:
    """Where the time of a step goes: the kernels of the device (on a CPU torch's operators), sorted, and summed up by
    kind and by phase."""
    side, pieces = make_side(s, OURS, None), batch(s)
    for _ in range(3):
        whole_step(side, pieces)
    cuda = s.device.type == "cuda"
    activity = torch.profiler.ProfilerActivity
    n, phases = 3, {"forward and backward": [], "optimizer": []}
    with torch.profiler.profile(activities=[activity.CPU, activity.CUDA] if cuda else [activity.CPU]) as p:
        for _ in range(n):
            phases["forward and backward"].append(timed(partial(forward_backward, side, pieces), s.device)[0])
            phases["optimizer"].append(timed(partial(update, side), s.device)[0])
    rows, kinds = [], dict.fromkeys(KINDS, 0.0)
    for event in p.key_averages():
        if cuda and event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        seconds = (event.self_device_time_total if cuda else event.self_cpu_time_total) / n / 1e6  # from microseconds
        if seconds > 0:
            rows.append({"name": event.key[:120], "seconds": seconds, "calls": event.count / n})
            kinds[next(kind for kind, words in KINDS.items() if re.search(words, event.key.lower()))] += seconds
    rows.sort(key=lambda row: -row["seconds"])
    return {"phases": {k: summary(v) for k, v in phases.items()}, "kinds": kinds, "kernels": rows[:30]}


def loader_part(s: Setting, module) -> dict:
    """Rows of T + 1 tokens from documents: read, encoded and packed, by one process."""
    corpus, m = load_corpus(s.args.corpus), s.plan.model
    tokenizer = train_or_load(corpus, m.vocab_size)
    loader = Batches(corpus.train, tokenizer, m.sequence_len, streams=min(8, len(corpus.train)))
    found = compared(alternate({OURS: lambda: loader.next_rows(s.rows)}, s.args, torch.device("cpu")))
    one = found["sides"][OURS]
    one["tokens_per_second"] = s.rows * m.sequence_len / one["seconds"]["median"]
    return found


def sampling_part(s: Setting, module) -> dict:
    """A prompt of T / 2 tokens read, then 16 tokens one by one, with the cache and without."""
    model = make_model(s.plan, s.device, s.compute, s.embed)
    model.load_state_dict(initial(s))
    prompt = batch(s)[0, :1, : s.plan.model.sequence_len // 2]  # (1, T / 2)
    count = 16

    @torch.no_grad()
    def generate(cached):
        idx, cache, new = prompt, Cache() if cached else None, prompt
        for _ in range(count):
            last = model(new if cached else idx, cache=cache)[:, -1]  # (1, V)
            new = last.argmax(-1, keepdim=True)  # (1, 1)
            idx = torch.cat([idx, new], dim=1)
        return idx

    ways = {"cache": partial(generate, True), "no cache": partial(generate, False)}
    found = compared(alternate(ways, s.args, s.device))
    for one in found["sides"].values():
        one["tokens_per_second"] = count / one["seconds"]["median"]
    return found | {"prompt": prompt.size(1), "tokens": count}


def roof_part(s: Setting, module) -> dict:
    """What this device reaches: large matrix products in the compute dtype, and copying memory; and the model's own
    products."""
    cuda, m, N = s.device.type == "cuda", s.plan.model, s.rows * s.plan.model.sequence_len

    def measured(call):
        return compared(alternate({OURS: call}, s.args, s.device))["sides"][OURS]

    big = 8192 if cuda else 1024
    shapes = {
        "large": (big, big, big),
        "q, k, v and output": (N, m.n_embd, m.n_embd),
        "MLP": (N, m.n_embd, 4 * m.n_embd),
        "head": (min(N, 8192), m.n_embd, m.vocab_size),
    }
    products = {}
    for name, (rows, inner, columns) in shapes.items():
        a = torch.randn(rows, inner, device=s.device).to(s.compute)
        b = torch.randn(inner, columns, device=s.device).to(s.compute)
        one = measured(partial(torch.matmul, a, b))
        flops, moved = 2 * rows * inner * columns, a.nbytes + b.nbytes + s.compute.itemsize * rows * columns
        speed = flops / one["seconds"]["median"]
        products[name] = one | {
            "shape": [rows, inner, columns], "flops": flops, "bytes": moved, "flops_per_second": speed,
        }  # fmt: skip
    x = torch.zeros(2**28 if cuda else 2**24, device=s.device)
    copy = measured(partial(torch.empty_like(x).copy_, x))
    return {"products": products, "copy": copy | {"bytes_per_second": 2 * x.nbytes / copy["seconds"]["median"]}}


def parity_part(s: Setting, module) -> dict:
    """The loss of each step, from the same weights on the same text by the same schedule; and the other side's curves
    from two other seeds.

    difference: the mean of |ours - theirs| over the last quarter of the steps; spread: the same between theirs of
    different seeds. Rounding grows in training, so that is what a difference has to be compared with.
    """
    if module is None:
        raise UserError("parity needs --against, the adapter of what to compare with")
    corpus, plan, micro = load_corpus(s.args.corpus), s.plan, s.args.micro
    tokenizer = train_or_load(corpus, plan.model.vocab_size)
    losses = {}
    for name, more in [(OURS, 0), (module.NAME, 0), (module.NAME, 1), (module.NAME, 2)]:
        seed = s.args.seed + more
        side = make_side(replace(s, args=replace(s.args, seed=seed)), name, module)
        loader = Batches(corpus.train, tokenizer, plan.model.sequence_len, streams=min(8, len(corpus.train)))
        curve = losses[f"{name}, seed {seed}"] = []
        for step in range(plan.steps):
            rows = torch.from_numpy(loader.next_rows(micro * s.rows)).to(s.device)  # (micro * rows, T + 1)
            curve.append(forward_backward(side, rows.view(micro, s.rows, -1)).item())
            side.step(plan.lr(step), plan.muon_momentum(step), plan.weight_decay(step))
        del side

    def apart(a, b):
        late = slice(-max(1, plan.steps // 4), None)
        return statistics.mean(abs(x - y) for x, y in zip(a[late], b[late]))

    ours, *theirs = losses.values()
    return {
        "losses": {name: [round(x, 5) for x in curve] for name, curve in losses.items()},
        "difference": apart(ours, theirs[0]),
        "first_difference": abs(ours[0] - theirs[0][0]),
        "spread": [apart(a, b) for i, a in enumerate(theirs) for b in theirs[:i]],
    }


PARTS = {
    "attention": attention_part, "loss": loss_part, "optimizer": optimizer_part, "step": step_part,
    "memory": memory_part, "profile": profile_part, "loader": loader_part, "sampling": sampling_part,
    "roof": roof_part, "parity": parity_part,
}  # fmt: skip


# ---- one part, or all


def record(args: Bench) -> dict:
    """Measure one part; what it gave and how it was made."""
    s, module = setting(args), adapter(args.against)
    began = time.perf_counter()
    result = PARTS[args.what](s, module)
    m = s.plan.model
    made = {
        "machine": describe_machine(s.device), "commit": git_commit(),
        "command": ["python", "-m", "gpt2course.bench", *sys.argv[1:]], "date": time.strftime("%Y-%m-%d"),
        "seed": args.seed, "dtype": str(s.compute).removeprefix("torch."), "compile": s.compile, "fp8": args.fp8,
        "against": module and module.NAME, "peak_flops": s.peak,
        "plan": {
            "recipe": s.plan.recipe.name, "rows": s.rows, "micro": args.micro, "T": m.sequence_len, "depth": m.n_layer,
            "width": m.n_embd, "vocab_size": m.vocab_size, "parameters": s.plan.params["total"],
        },
    }  # fmt: skip
    if args.what in ("step", "profile"):
        made["attention"] = list(choose(args.kernel, s.device, s.compute, m.head_dim))
    return {"part": args.what, "made": made, "result": result, "took_seconds": round(time.perf_counter() - began, 1)}


def pieces_of_all(args: Bench, cuda: bool) -> dict[str, list[str]]:
    """name -> arguments of every piece of `all`: what the machine's size allows to measure, each in minutes."""
    against = ["--against", str(Path(args.against).resolve())] if args.against else []
    corpus = ["--corpus", args.corpus]

    def piece(part, *settings, rows=args.rows, more=()):
        common = ("recipe", "rounds", "seconds", "seed", "device", "dtype")
        call = [part, *(f"--{name}={getattr(args, name)}" for name in common)]
        if rows:
            call.append(f"--rows={rows}")
        if args.set or settings:
            call += ["--set", *args.set, *settings]
        return [*call, *more]

    if not cuda:
        more = {"step": against, "optimizer": against, "loader": corpus, "parity": [*against, *corpus]}
        return {part: piece(part, more=more.get(part, ())) for part in PARTS if part != "parity" or against}
    pieces = {"roof": piece("roof", "depth=24", rows=None)}
    for kernel in kernels.LOAD:  # 16 rows, 12 heads of 128
        pieces[f"attention-{kernel}"] = piece("attention", "depth=24", rows=16, more=["--kernel", kernel])
    for depth, device_batch in ((12, 32), (20, 16), (24, 16)):
        size, rows = f"depth={depth}", args.rows or device_batch
        pieces |= {
            f"step-d{depth}-bf16": piece("step", size, rows=rows, more=against),
            f"step-d{depth}-fp8": piece("step", size, rows=rows, more=["--fp8"]),
            f"memory-d{depth}-bf16": piece("memory", size, rows=8),
            f"memory-d{depth}-fp8": piece("memory", size, rows=8, more=["--fp8"]),
            f"optimizer-d{depth}": piece("optimizer", size, rows=rows, more=against),
            f"profile-d{depth}": piece("profile", size, rows=rows),
        }
    rows = args.rows or 16
    if against:
        pieces["parity-d12"] = piece("parity", "depth=12", "steps=200", rows=rows, more=[*against, *corpus])
    return pieces | {
        "loss-d24": piece("loss", "depth=24", rows=rows),
        "sampling": piece("sampling", "depth=12", rows=None),
        "loader": piece("loader", "depth=12", rows=None, more=corpus),
    }


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
        call = [sys.executable, "-m", "gpt2course.bench", *more, "--out", str(out), "--name", name]
        problem = None
        try:
            done = subprocess.run(call, timeout=args.limit, capture_output=True, text=True)
            if done.returncode:
                problem = (done.stderr.strip().splitlines() or ["no message"])[-1]
        except subprocess.TimeoutExpired:
            problem = f"not done after {args.limit:g} seconds; try --rounds or --seconds lower, or --limit higher"
        if problem is None:
            print(done.stdout.rstrip(), flush=True)
        else:
            print(f"   {name} failed: {problem}", flush=True)
            failed.append(name)
    figure(out)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(pieces)} pieces failed: {', '.join(failed)}; the same command tries them again"
        )


def figure(out: Path) -> None:
    """roofline.png from the files of a folder, where there is a roof."""
    from gpt2course.course.figures.speed import roofline
    from gpt2course.course.plots import png

    files = {p.stem: read_json(p, "measurement") for p in sorted(out.glob("*.json"))}
    if "roof" in files:
        (out / "roofline.png").write_bytes(png(roofline(*roofline_points(files))))
        print(f"figure {out / 'roofline.png'}")


def roofline_points(files: dict[str, dict]) -> tuple[float, float, dict[str, tuple[float, float]]]:
    """Of a folder's files: FLOP/s of large products, bytes/s of copying, what was measured -> (FLOPs/byte, FLOP/s)."""
    roof = files["roof"]["result"]
    products = dict(roof["products"])
    large = products.pop("large")["flops_per_second"]
    points = {name: (p["flops"] / p["bytes"], p["flops_per_second"]) for name, p in products.items()}
    for stem, file in files.items():
        result = file["result"]
        if file["part"] in ("loss", "optimizer"):
            speed = result["flops"] / result["sides"][OURS]["seconds"]["median"]
            points[stem] = result["flops"] / result["bytes"], speed
        elif file["part"] == "attention" and "windows" in result:
            ways = result["windows"].get("-1") or next(iter(result["windows"].values()))
            one = ways["forward_backward"]
            speed, best = max((side["flops_per_second"], name) for name, side in one["sides"].items())
            points[f"attention, {best}"] = one["flops"] / one["bytes"], speed
    return large, roof["copy"]["bytes_per_second"], points


def lines(found: dict) -> list[str]:
    """The result in a few lines for people."""
    made, result = found["made"], found["result"]
    out = [f"{found['part']} on {made['machine']['device']}, {made['dtype']}, commit {made['commit']}"]
    out += side_lines(result)
    if "spread" in result:
        spread = ", ".join(f"{x:.4f}" for x in result["spread"])
        out.append(
            f"  loss: first step {result['first_difference']:.2g} apart, last quarter {result['difference']:.4f}; "
            f"the other side's seeds among themselves {spread}"
        )
    for left, ways in result.get("windows", {}).items():
        for way, one in ways.items():
            out += side_lines(one, f"window {left}, {way}, ")
    for name, why in result.get("cannot", {}).items():
        out.append(f"  {name} cannot be used: {why}")
    for row in result.get("rows", ()):
        held = "out of memory" if row.get("out_of_memory") else f"{row['peak_memory_bytes'] / 1e9:.2f} GB"
        out.append(f"  {row['rows']} rows: {held}")
    for kind, seconds in result.get("kinds", {}).items():
        out.append(f"  {kind}: {seconds * 1e3:.2f} ms a step")
    for name, product in result.get("products", {}).items():
        out.append(f"  {name}: {product['flops_per_second'] / 1e9:,.1f} GFLOP/s")
    if "copy" in result:
        out.append(f"  copying: {result['copy']['bytes_per_second'] / 1e9:,.1f} GB/s")
    return out


def side_lines(result: dict, label: str = "") -> list[str]:
    """A line for each side's time, and one for each ratio."""
    out, sides = [], result.get("sides", {})
    for name, one in sides.items():
        low, high = one["seconds"]["quartiles"]
        line = f"  {label}{name}: {one['seconds']['median'] * 1e3:.3f} ms [{low * 1e3:.3f}, {high * 1e3:.3f}]"
        if one.get("tokens_per_second"):
            line += f"  {one['tokens_per_second']:,.0f} tokens/s"
        if one.get("flops_per_second"):
            line += f"  {one['flops_per_second'] / 1e9:,.1f} GFLOP/s"
        if one.get("mfu_published"):
            line += f"  MFU {one['mfu_published']:.1%} as published, {one['mfu_causal']:.1%} causal"
        if one.get("peak_memory_bytes"):
            line += f"  peak {one['peak_memory_bytes'] / 1e6:,.0f} MB"
        out.append(line)
    for name, kinds in result.get("ratio", {}).items():
        for kind, r in kinds.items():
            between = " [{:.3f}, {:.3f}]".format(*r["interval"]) if r["interval"] else ""
            out.append(f"  {label}{next(iter(sides))} / {name}, {kind}: {r['median']:.3f}{between}")
    return out


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
