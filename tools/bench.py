"""How fast the parts are, alone or beside another implementation in the same process.

    python tools/bench.py all --out results/speed                every part in its own process, at most 10 minutes
    python tools/bench.py step --against adapter.py --out work   ours and theirs in turn: A B, B A, A B, ...

The machine must be quiet: what runs beside it is measured too. On CUDA the time is that between two events on the
device, on a CPU the wall clock's, with the process's own seconds beside it. Compilation and warm-up are left out.

An adapter is a Python file with a NAME and any of these:

    training(plan, weights, device, compute, embed, compile)
        an object with params, a dict of parameters by our names that hold `weights`; loss(idx, targets), the mean loss
        (B, T int64 each); and step(lr, momentum, weight_decay), which also clears the gradients
    attention(q, k, v, left)                  as the kernels of gpt2course/fast/kernels.py
    cross_entropy(x, weight, targets, cap)    as losses.cross_entropy
    TOLERANCE                                 how far losses may differ before timing begins, default 1e-3
"""

import importlib.util
import math
import multiprocessing
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import torch
import tyro

from gpt2course.cost import mfu, peak_flops
from gpt2course.fast import fp8, kernels
from gpt2course.files import UserError, coerce, command, write_json
from gpt2course.losses import cross_entropy, cross_entropy_plain
from gpt2course.ranks import compute_dtypes, pick_device
from gpt2course.recipes import PROFILES, make_model, make_optimizer, resolve, settings_from_text
from gpt2course.runlog import describe_machine, git_commit

WINDOWS = (2048, 1024, 512)
OURS = "gpt2course"


@dataclass
class Bench:
    """Measure one part, or all of them.

    Example: python tools/bench.py step --set depth=4 width=256 sequence_len=256 --rounds 20
    """

    what: tyro.conf.Positional[Literal["attention", "loss", "optimizer", "step", "roof", "all"]]
    out: str | None = None  # folder for the JSON files; `all` needs it, and leaves out what is there already
    name: str | None = None  # of the JSON file; default: the part
    against: str | None = None  # file of an adapter, see the head of tools/bench.py
    recipe: str = "record"
    # settings of the recipe, name=value; without any, the sizes of profile 1gpu on CUDA and of laptop elsewhere
    set: tuple[str, ...] = ()
    rows: int | None = None  # rows of T tokens in a forward pass; default: the profile's
    rounds: int = 20  # repeats, each of all sides
    seconds: float = 120.0  # no new round after this long
    device: str = "auto"
    dtype: str = "auto"  # auto, float32 or bfloat16
    compile: bool | None = None  # default: on CUDA only
    kernel: str = "auto"  # of attention; the part attention measures this one alone, or with auto all that there are
    fp8: bool = False
    seed: int = 0
    limit: float = 600.0  # seconds for each part of `all`


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
    """The median of ours / theirs, round by round, and an interval that covers the true median with at least 95 %.

    The interval comes from the binomial distribution of how many of n values lie below the median; None for small n.
    """
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
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))[1])
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
    coerce("rounds", args.rounds, int, 1)
    coerce("rows", args.rows, int | None, 1)
    device = pick_device(args.device)
    cuda = device.type == "cuda"
    compute, embed = compute_dtypes(device, args.dtype)
    if cuda:
        torch.set_float32_matmul_precision("high")
    sizes = dict(PROFILES["1gpu" if cuda else "laptop"])
    del sizes["corpus"]
    device_batch = sizes.pop("device_batch")
    rows = args.rows or device_batch
    changes = {"steps": 1000} | sizes | settings_from_text(args.set)
    changes["batch_tokens"] = rows * int(changes.get("sequence_len", 2048))
    plan = resolve(args.recipe, **changes)
    peak = peak_flops(torch.cuda.get_device_name(device)) if cuda else None
    return Setting(args, device, compute, embed, cuda if args.compile is None else args.compile, plan, rows, peak)


def adapter(path: str | None):
    """The module of an adapter file, or None."""
    if path is None:
        return None
    if not Path(path).is_file():
        raise UserError(f"--against {path!r} does not exist; it must be a Python file, see the head of tools/bench.py")
    spec = importlib.util.spec_from_file_location("bench_adapter", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    need(module, "NAME")
    return module


def need(module, name: str):
    if not hasattr(module, name):
        raise UserError(f"--against {module.__file__!r} has no {name}; see the head of tools/bench.py")
    return getattr(module, name)


def initial(s: Setting) -> dict[str, torch.Tensor]:
    """Weights to measure with: a fresh model's, but no matrix of zeros, whose products would hide mistakes."""
    model = make_model(s.plan).init_weights(s.args.seed)
    generator = torch.Generator().manual_seed(s.args.seed)
    for name, p in model.state_dict().items():
        if "c_proj" in name:
            p.normal_(0, 0.02, generator=generator)
    return model.state_dict()


def training(plan, weights, device, compute, embed, compile, fp8_too=False, kernel="auto") -> SimpleNamespace:
    """Our side of a training step, in the form of an adapter."""
    kernels.choose(kernel, device, compute, plan.model.head_dim)
    kernels.choose_loss(device, compute)
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

    return SimpleNamespace(params=dict(model.named_parameters()), loss=forward, step=step)


def make_side(s: Setting, name: str, module):
    given = s.plan, initial(s), s.device, s.compute, s.embed, s.compile
    return training(*given, s.args.fp8, s.args.kernel) if name == OURS else need(module, "training")(*given)


def make_sides(s: Setting, module) -> dict:
    """Ours, and the adapter's where there is one."""
    return {name: make_side(s, name, module) for name in ([OURS, module.NAME] if module else [OURS])}


def batch(s: Setting) -> torch.Tensor:
    """(rows, T + 1) random tokens."""
    m, generator = s.plan.model, torch.Generator().manual_seed(s.args.seed)
    return torch.randint(m.vocab_size, (s.rows, m.sequence_len + 1), generator=generator).to(s.device)


def update(side) -> None:
    side.step(0.1, 0.95, 1.0)


def whole_step(side, rows) -> float:
    loss = side.loss(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
    loss.backward()
    update(side)
    return loss.item()


# ---- the parts


def step_part(s: Setting, module) -> dict:
    """A whole training step: forward, backward, optimizer. The first losses of both sides must agree."""
    sides, rows = make_sides(s, module), batch(s)
    losses = {name: whole_step(side, rows) for name, side in sides.items()}
    allowed = getattr(module, "TOLERANCE", 1e-3)
    if max(losses.values()) - min(losses.values()) > allowed:
        raise UserError(f"the losses of the two sides differ by more than {allowed:g}, so times mean nothing: {losses}")
    calls = {name: partial(whole_step, side, rows) for name, side in sides.items()}
    plan, found = s.plan, {"loss": losses} | compared(alternate(calls, s.args, s.device))
    for name, one in found["sides"].items():
        speed = plan.batch_tokens / one["seconds"]["median"]
        one["tokens_per_second"] = speed
        one["peak_memory_bytes"] = peak_memory(s, name, sides[name], rows)
        one["mfu_published"] = mfu(plan.flops_per_token, speed, 1, s.peak)
        one["mfu_causal"] = mfu(plan.flops_per_token_causal, speed, 1, s.peak)
    return found | {"tokens": plan.batch_tokens, "flops_per_token": plan.flops_per_token}


def peak_memory(s: Setting, name: str, side, rows) -> int:
    """Bytes at the peak of a step.

    On CUDA: what torch allocates above the other side's tensors. Elsewhere: of a process of its own, above its imports.
    """
    if s.device.type != "cuda":
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(alone, (s.args, name))
    own = sum(p.numel() * p.element_size() for p in side.params.values())
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    whole_step(side, rows)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before + own


def alone(args: Bench, name: str) -> int:
    """The memory of three steps of one side, above what the imports and the initial weights take."""
    s, module = setting(args), adapter(args.against) if name != OURS else None
    rows, given = batch(s), initial(s)
    before = resident()
    side = make_side(s, name, module)
    del given
    for _ in range(3):
        whole_step(side, rows)
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


PARTS = {
    "roof": roof_part, "attention": attention_part, "loss": loss_part, "optimizer": optimizer_part, "step": step_part,
}  # fmt: skip


# ---- one part, or all


def record(args: Bench) -> dict:
    """Measure one part; what it gave and how it was made."""
    s, module = setting(args), adapter(args.against)
    began = time.perf_counter()
    result, m = PARTS[args.what](s, module), s.plan.model
    made = {
        "machine": describe_machine(s.device), "commit": git_commit(),
        "command": ["python", "tools/bench.py", *sys.argv[1:]], "date": time.strftime("%Y-%m-%d"),
        "seed": args.seed, "dtype": str(s.compute).removeprefix("torch."), "compile": s.compile, "fp8": args.fp8,
        "against": module and module.NAME, "peak_flops": s.peak,
        "plan": {
            "recipe": s.plan.recipe.name, "rows": s.rows, "T": m.sequence_len, "depth": m.n_layer,
            "width": m.n_embd, "vocab_size": m.vocab_size, "parameters": s.plan.params["total"],
        },
    }  # fmt: skip
    return {"part": args.what, "made": made, "result": result, "took_seconds": round(time.perf_counter() - began, 1)}


def parts_of_all(args: Bench, cuda: bool) -> dict[str, list[str]]:
    """name -> arguments of every part of `all`: what the machine's size allows to measure, each in minutes."""
    against = ["--against", str(Path(args.against).resolve())] if args.against else []

    def part(what, *settings, rows=args.rows, more=()):
        common = ("recipe", "rounds", "seconds", "seed", "device", "dtype")
        call = [what, *(f"--{name}={getattr(args, name)}" for name in common), *([f"--rows={rows}"] if rows else [])]
        return [*call, *(["--set", *args.set, *settings] if args.set or settings else []), *more]

    if not cuda:
        return {what: part(what, more=against if what in ("step", "optimizer") else ()) for what in PARTS}
    parts = {"roof": part("roof", "depth=24", rows=None), "loss-d24": part("loss", "depth=24", rows=16)}
    for kernel in kernels.LOAD:  # 16 rows, 12 heads of 128
        parts[f"attention-{kernel}"] = part("attention", "depth=24", rows=16, more=["--kernel", kernel])
    for depth, device_batch in ((12, 32), (24, 16)):
        size, rows = f"depth={depth}", args.rows or device_batch
        parts |= {
            f"step-d{depth}-bf16": part("step", size, rows=rows, more=against),
            f"step-d{depth}-fp8": part("step", size, rows=rows, more=["--fp8"]),
            f"optimizer-d{depth}": part("optimizer", size, rows=rows, more=against),
        }
    return parts


def everything(args: Bench) -> None:
    """Each part in a process of its own, stopped after `limit`; parts whose file is there are left out."""
    if args.out is None:
        raise UserError("`all` needs --out, the folder for its files")
    out, failed = Path(args.out), []
    parts = parts_of_all(args, pick_device(args.device).type == "cuda")
    for i, (name, more) in enumerate(parts.items(), 1):
        if (out / f"{name}.json").exists():
            print(f"{i}/{len(parts)}  {name}: there already", flush=True)
            continue
        print(f"{i}/{len(parts)}  {name} ...", flush=True)
        call = [sys.executable, __file__, *more, "--out", str(out), "--name", name]
        try:
            done = subprocess.run(call, timeout=args.limit, capture_output=True, text=True)
            problem = (done.stderr.strip().splitlines() or ["no message"])[-1] if done.returncode else None
        except subprocess.TimeoutExpired:
            problem = f"not done after {args.limit:g} seconds; use fewer --rounds or --seconds, or a higher --limit"
        print(f"   {name} failed: {problem}" if problem else done.stdout.rstrip(), flush=True)
        failed += [name] if problem else []
    if failed:
        raise UserError(f"{len(failed)} of {len(parts)} parts failed: {', '.join(failed)}; run the same command again")


def lines(found: dict) -> list[str]:
    """The result in a few lines for people."""
    made, result = found["made"], found["result"]
    out = [f"{found['part']} on {made['machine']['device']}, {made['dtype']}, commit {made['commit']}"]
    out += side_lines(result)
    for left, ways in result.get("windows", {}).items():
        for way, one in ways.items():
            out += side_lines(one, f"window {left}, {way}, ")
    for name, why in result.get("cannot", {}).items():
        out.append(f"  {name} cannot be used: {why}")
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
        write_json(Path(args.out) / f"{args.name or args.what}.json", found)


if __name__ == "__main__":
    command(main)
