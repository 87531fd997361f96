"""What a run will take and score, said before it is paid for: hours, dollars, chance of GPT-2 grade. Lessons 12 and 14.

A step of a run on n devices is

    micro-steps * the time of one  +  optimizer / n  +  communication that nothing hides

The first two are measured on one device by `python -m gpt2course.bench`, or follow from a stated MFU. Communication is
arithmetic: gradients are reduce-scattered and weights all-gathered once a step, each device sends (n - 1) / n of their
bytes, and `Link` states how fast and how much of it computation hides. The result is a PROJECTION and is called so.
`check` predicts the published records 2 to 6 from record 1 by the same arithmetic; its errors are the interval that a
projection is given.
"""

import functools
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gpt2course import leaderboard
from gpt2course.cost import PEAKS, chip, dollars, hours, suggest_device_batch
from gpt2course.files import UserError, atomic_file, command, read_json
from gpt2course.leaderboard import GPT2_CORE, Entry, plan_of
from gpt2course.recipes import Plan, build, resolve, settings_from_text

H100 = 989e12  # peak bf16 FLOP/s, see cost.PEAKS
MUON_MFU = 0.5  # assumed share of the peak that Muon's matrix products reach
PAGE = Path(__file__).parent.parent / "launch" / "README.md"


@dataclass(frozen=True)
class Link:
    """The communication model: assumptions, not measurements."""

    bytes_per_second: float = 360e9  # each device sends: 80 % of NVLink 4's peak, 450e9 each way (H100 SXM data sheet)
    overlap: float = 0.5  # share of the communication that computation hides

    def __post_init__(self):
        if not self.bytes_per_second > 0 or not 0 <= self.overlap <= 1:
            raise UserError(
                f"bandwidth = {self.bytes_per_second:g} and overlap = {self.overlap:g} are not allowed; "
                "bytes a second above 0, and a share from 0 to 1"
            )


def exchanged_bytes(plan: Plan) -> int:
    """Bytes of all gradients, and of all weights: float32, embeddings in bfloat16, as they are on CUDA here and in
    nanochat."""
    embeddings = plan.params.get("wte", 0) + plan.params.get("value_embeds", 0)
    return 4 * (plan.params["total"] - embeddings) + 2 * embeddings


def muon_flops(plan: Plan) -> float:
    """FLOPs of a step of Muon: one iteration on an (m, n) matrix, m <= n, is 4 m^2 n + 2 m^3 (arXiv 2505.16932)."""
    if plan.recipe.matrix_optimizer != "muon":
        return 0.0
    return plan.recipe.ns_steps * _iteration_flops(plan.model)


@functools.cache
def _iteration_flops(config) -> float:
    flops = 0
    for name, p in build(config).named_parameters():
        if name.startswith("blocks.") and p.ndim == 2:
            m, n = sorted(p.shape)
            flops += 4 * m * m * n + 2 * m**3
    return float(flops)


def overhead(
    plan: Plan, gpus: int, link: Link, peak: float = H100, optimizer: float | None = None
) -> tuple[float, float]:
    """Seconds a step of (the optimizer, communication that nothing hides).

    optimizer: seconds of the whole one on one device; default: from Muon's FLOPs.
    """
    if optimizer is None:
        optimizer = muon_flops(plan) / (peak * MUON_MFU)
    sent = 2 * exchanged_bytes(plan) * (gpus - 1) / gpus
    return optimizer / gpus, sent / link.bytes_per_second * (1 - link.overlap)


# ---- the check: records 2 to 6 from record 1


@functools.cache
def fp8_factor(link: Link = Link()) -> float:
    """How much faster fp8 (tensorwise) makes the computing: 630,000 -> 740,000 tokens/s at depth 26, batches of 2^19.

    One comparison on 8 H100 (nanochat, dev/LOG.md, 2 February 2026), taken without optimizer and communication. Not
    fitted to any record.
    """
    outside = sum(overhead(resolve("jan29", depth=26), 8, link))
    return (2**19 / 630e3 - outside) / (2**19 / 740e3 - outside)


def seconds_of(e: Entry) -> float:
    return e.seconds or 3600 * e.hours


def predict(plan: Plan, rate: float, speedup: float, link: Link, gpus: int = 8) -> float:
    """Seconds of a run whose devices compute `rate` * speedup FLOP/s of the model each."""
    compute = plan.flops_per_token * plan.batch_tokens / (gpus * rate * speedup)
    return plan.steps * (compute + sum(overhead(plan, gpus, link)))


def implied_rate(plan: Plan, seconds: float, speedup: float, link: Link, gpus: int = 8) -> float:
    """The inverse of `predict`: bfloat16 FLOP/s a device, while it computes."""
    return plan.flops / (gpus * speedup * (seconds - plan.steps * sum(overhead(plan, gpus, link))))


@dataclass(frozen=True)
class Check:
    """A published run beside its prediction, in seconds."""

    id: str
    published: float
    predicted: float  # from record 1 alone
    left_out: float | None  # from all six records but this one; None for a run outside the six

    @property
    def error(self) -> float:
        return self.predicted / self.published - 1


def check(link: Link = Link(), unmerged: bool = False) -> list[Check]:
    """Records 1 to 6 predicted from record 1, and from all but the one predicted; or unmerged claims, from record 1.

    Given, not fitted: depth, ratio, batch and windows (so FLOPs, steps), the gain of fp8, bandwidth and overlap, Muon's
    FLOPs. Fitted: one number, the rate of an H100 in bfloat16; in the first prediction to record 1, in the second to
    the five records that are not predicted.
    """
    entries = sorted(leaderboard.read(), key=lambda e: e.id)
    six = [e for e in entries if e.id.startswith("nanochat-")]
    speedup = {e.id: fp8_factor(link) if "--fp8" in e.command.split() else 1.0 for e in entries}
    rates = {e.id: implied_rate(plan_of(e), seconds_of(e), speedup[e.id], link) for e in six}

    def seconds(e: Entry, rate: float) -> float:
        return predict(plan_of(e), rate, speedup[e.id], link)

    first = rates["nanochat-1"]
    if unmerged:
        claims = [e for e in entries if e.who == "unmerged" and e.command]
        return [Check(e.id, seconds_of(e), seconds(e, first), None) for e in claims]
    out = []
    for e in six:
        others = statistics.geometric_mean(rate for name, rate in rates.items() if name != e.id)
        out.append(Check(e.id, seconds_of(e), seconds(e, first), seconds(e, others)))
    return out


def interval(rows: list[Check], level: float = 0.95) -> tuple[float, float]:
    """Factors (low, high) on a predicted time, between which the next published time lies at this level.

    By Student's t on the logarithms of the errors, without that of record 1, which the prediction is fitted to.
    """
    logs = [math.log(r.published / r.predicted) for r in rows if r.id != "nanochat-1"]
    mean, sd, n = statistics.mean(logs), statistics.stdev(logs), len(logs)
    low, high = 0.0, 100.0
    for _ in range(60):  # the quantile, by halving
        middle = (low + high) / 2
        if t_cdf(middle, n - 1) < (1 + level) / 2:
            low = middle
        else:
            high = middle
    half = low * sd * math.sqrt(1 + 1 / n)
    return math.exp(mean - half), math.exp(mean + half)


# ---- the chance of GPT-2 grade


def t_cdf(t: float, dof: int) -> float:
    """Student's t distribution function, the integral of its density by Simpson's rule."""
    # with t = sqrt(dof) tan x the density is c cos(x)^(dof - 1); lgamma, since gamma itself overflows from 342 on
    top, n = math.atan(t / math.sqrt(dof)), 200
    c = math.exp(math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2)) / math.sqrt(math.pi)
    weights = [1, *[4, 2] * (n // 2 - 1), 4, 1]
    return 0.5 + c * top / (3 * n) * sum(w * math.cos(i * top / n) ** (dof - 1) for i, w in enumerate(weights))


# CORE of equal runs, seed by seed, as their authors list them
DRAWS = {
    "nanochat-4": (0.25373, 0.2584, 0.25489, 0.2568, 0.25732, 0.26765, 0.25119),
    "pr-655": (0.2540, 0.2643, 0.2589),
    "pr-733": (0.2665, 0.2620, 0.2617),
    "pr-807": (0.2367, 0.2305, 0.2315, 0.2288, 0.2377, 0.2350, 0.2438, 0.2426, 0.2469, 0.2373,
               0.2397, 0.2441, 0.2445, 0.2341, 0.2301, 0.2358, 0.2475, 0.2377, 0.2441, 0.2497),
}  # fmt: skip


def seed_spread() -> tuple[float, int]:
    """(standard deviation of CORE over seeds, degrees of freedom), pooled over the published sets of equal runs.

    The sets are DRAWS, and pull request 830's 0.0023 of 6 runs.
    """
    squares, dof = 0.0, 0
    for variance, n in [(statistics.variance(d), len(d)) for d in DRAWS.values()] + [(0.0023**2, 6)]:
        squares += (n - 1) * variance
        dof += n - 1
    return math.sqrt(squares / dof), dof


def chance(mean: float, sd: float, n_draws: int, dof: int | None = None, bar: float = GPT2_CORE) -> float:
    """The probability that ONE more run of a recipe scores above the bar, when n_draws runs of it have this mean.

    sd: of single runs, with dof degrees of freedom (default n_draws - 1: from the same runs). The new run varies by sd,
    and the mean is itself uncertain by sd / sqrt(n_draws); sd is an estimate, so the ratio follows Student's t. So two
    more runs are not needed to know that a mean 0.0006 above the bar is a coin toss. Not in it: another tokenizer or
    other data, which the published runs share.
    """
    dof = n_draws - 1 if dof is None else dof
    if not sd > 0 or n_draws < 1 or dof < 1:
        raise UserError(
            f"sd = {sd:g}, n_draws = {n_draws} and dof = {dof} are not allowed; "
            "sd above 0, from 1 run, from 1 degree of freedom (one run alone says nothing of its spread)"
        )
    return t_cdf((mean - bar) / (sd * math.sqrt(1 + 1 / n_draws)), dof)


def chance_of_gpt2(recipe: str, depth: int, ratio: float, corpus: str = "climbmix") -> dict:
    """{"mean", "sd", "probability", "source"} of a run's CORE, from the official record with the nearest ratio.

    Only records of the same recipe, depth and corpus count; mean and probability are None where none was published. A
    ratio other than the record's is said in `source`: a longer run of the same recipe scores no less on average, so the
    probability is then a lower bound, and for a shorter one an upper bound.
    """
    sd, dof = seed_spread()
    data = {"climbmix": "ClimbMix", "fineweb-edu": "FineWeb-EDU"}.get(corpus, corpus)

    def equal(e: Entry) -> bool:
        same_run = e.command.split()[:1] == [recipe] and e.depth == depth
        return e.who == "published" and same_run and e.train_data.startswith(data)

    same = [e for e in leaderboard.read() if equal(e)]
    if not same:
        source = f"no published record of recipe {recipe} at depth {depth} on {data}"
        return {"mean": None, "sd": sd, "probability": None, "source": source}
    e = min(same, key=lambda e: abs(math.log(e.ratio / ratio)))
    source = (
        f"{e.id} ({e.date}): mean CORE {e.core:g} of {e.core_runs} run{'s' * (e.core_runs > 1)} at ratio {e.ratio:g}; "
        f"spread of seeds {sd:.4f}, from {dof} degrees of freedom in {len(DRAWS) + 1} published sets"
    )
    if abs(e.ratio / ratio - 1) >= 0.005:
        bound = "a lower" if ratio > e.ratio else "an upper"
        source += f"; this run's ratio is {ratio:.3g}, so the probability is {bound} bound"
    return {"mean": e.core, "sd": sd, "probability": chance(e.core, sd, e.core_runs, dof), "source": source}


# ---- a projection


@dataclass(frozen=True)
class Step:
    """A training step measured on one device."""

    device: str
    recipe: str
    depth: int
    B: int
    T: int
    micro_seconds: float  # forward and backward of B rows of T tokens
    optimizer_seconds: float  # the whole optimizer step, on this one device
    flops_per_token: float  # of its model, as published
    muon_flops: float  # of its optimizer step
    fp8: bool = False


def read_step(path, optimizer=None) -> Step:
    """The training step in a JSON file of `bench step`, less the optimizer's share.

    optimizer: the file of `bench optimizer` for the same model, which holds that share; default optimizer-d<depth>.json
    or optimizer.json in the same folder, the names that bench gives.
    """
    path = Path(path)

    def read(path, part):
        value = read_json(path, "measurement")
        try:
            if value["part"] != part:
                raise UserError(
                    f"measurement {path} is of {value['part']}, not of {part}; "
                    f"`python -m gpt2course.bench {part} --out FOLDER` makes that one"
                )
            made, result = value["made"], value["result"]
            return made, result, float(result["sides"]["gpt2course"]["seconds"]["median"])
        except (KeyError, TypeError, ValueError) as e:
            reason = f"{type(e).__name__}: {e}"
            raise UserError(f"measurement {path} is none of `python -m gpt2course.bench` ({reason})") from None

    made, result, seconds = read(path, "step")
    plan = made["plan"]
    beside = [path.parent / f"optimizer-d{plan['depth']}.json", path.parent / "optimizer.json"]
    places = [optimizer] if optimizer else beside
    other = next((p for p in places if Path(p).is_file()), None)
    if other is None:
        raise UserError(
            f"measurement {path}: the optimizer's own time is not beside it ({', '.join(map(str, places))}); "
            f"`python -m gpt2course.bench optimizer --out {path.parent}` with the same settings makes it, "
            "or name it with --optimizer"
        )
    made2, result2, alone = read(other, "optimizer")
    device = made["machine"]["device"]
    same_model = all(plan[k] == made2["plan"][k] for k in ("recipe", "depth", "width", "vocab_size"))
    if not same_model or made2["machine"]["device"] != device:
        raise UserError(
            f"measurements {path} and {other} are of different models or devices; measure both with the same settings"
        )
    if not 0 < alone < seconds:
        raise UserError(
            f"measurements {path} and {other}: the optimizer took {alone:g} s and the whole step {seconds:g} s; "
            "measure again on a quiet machine"
        )
    return Step(
        device=device, recipe=plan["recipe"], depth=plan["depth"], B=plan["rows"], T=plan["T"],
        micro_seconds=(seconds - alone) / plan["micro"], optimizer_seconds=alone,
        flops_per_token=result["flops_per_token"], muon_flops=result2["flops"], fp8=bool(made["fp8"]),
    )  # fmt: skip


def _chip(name: str) -> tuple[str, float]:
    found = chip(name)
    if found is None:
        raise UserError(f"the peak of gpu {name!r} is unknown; known are {', '.join(n.upper() for n, *_ in PEAKS)}")
    return found[:2]


def _from_step(plan: Plan, step: Step, gpu: str, gpus: int, fp8: bool, link: Link) -> tuple[float, float, float, list]:
    """(compute, optimizer, communication) in seconds a step, and the notes on what was scaled and what assumed."""
    rows, T, notes = plan.batch_tokens // plan.model.sequence_len, plan.model.sequence_len, []
    if rows % (gpus * step.B) or step.T != T:
        raise UserError(
            f"the step was measured with B = {step.B} rows of T = {step.T}; {gpus} devices and a batch of {rows} rows "
            f"of {T} need the same T, and a B that divides the rows of a device"
        )
    scale = plan.flops_per_token / step.flops_per_token
    muon = muon_flops(plan) / step.muon_flops if step.muon_flops else 1.0
    if (step.recipe, step.depth) != (plan.recipe.name, plan.recipe.depth) or abs(scale - 1) > 1e-6:
        notes.append(f"measured on {step.recipe} at depth {step.depth}, scaled by FLOPs: times {scale:.3f}")
    kind, peak = _chip(gpu)
    measured, its_peak = _chip(step.device)
    faster = peak / its_peak
    if measured != kind:
        notes.append(
            f"measured on {step.device}, scaled by the peaks: times {1 / faster:.3f}; "
            "the other memory bandwidth is not in it"
        )
    gain = 1.0
    if fp8 != step.fp8:
        gain = fp8_factor(link) if fp8 else 1 / fp8_factor(link)
        how = "with" if step.fp8 else "without"
        notes.append(
            f"measured {how} fp8, which is assumed to make the computing {fp8_factor(link):.3f} times as fast "
            "(one published comparison at depth 26)"
        )
    compute = plan.batch_tokens / (gpus * step.B * step.T) * step.micro_seconds * scale / (faster * gain)
    optimizer, wire = overhead(plan, gpus, link, peak, step.optimizer_seconds * muon / faster)
    notes.append(
        f"{2 * exchanged_bytes(plan) / 1e9:.1f} GB reduced and gathered a step, {link.bytes_per_second / 1e9:g} GB/s "
        f"a device, {link.overlap:.0%} of it hidden: assumed, not measured"
    )
    notes.append(
        "the interval is that of the check, and of all or none of the communication hidden; "
        "nothing published tests the step from one device to several"
    )
    return compute, optimizer, wire, notes


def project(
    plan: Plan, *, step: Step | None = None, mfu: float | None = None,
    gpu: str = "H100", gpus: int = 8, fp8: bool = False, link: Link = Link(),
) -> dict:  # fmt: skip
    """Seconds a step and hours of a plan on `gpus` devices, from a measured step or from an MFU of the whole step.

    A step measured at another depth, recipe or device is scaled by the model's FLOPs and the device's peak, and for fp8
    by `fp8_factor`; `notes` says so. low_hours and high_hours are None for an assumed MFU: no check can vouch for it.
    """
    peak = _chip(gpu)[1]
    if (step is None) == (mfu is None):
        raise UserError("give a measured step (--from FILE) or a share of the peak (--mfu 0.5), one of the two")
    low_hours = high_hours = None
    if step is None:
        compute, optimizer, wire = hours(plan.flops, gpus, peak, mfu) * 3600 / plan.steps, 0.0, 0.0
        notes = [f"from an assumed MFU of {mfu:.1%} of {peak / 1e12:g} TFLOP/s, with everything in it"]
    else:
        compute, optimizer, wire, notes = _from_step(plan, step, gpu, gpus, fp8, link)
    total = plan.steps * (compute + optimizer + wire)
    if step is not None:
        checked = check(link)
        if plan.recipe.depth not in (24, 26):  # the records have these depths; d22 is 5 % slower than its FLOPs say
            checked += check(link, unmerged=True)
        low, high = interval(checked)
        open_wire = overhead(plan, gpus, Link(link.bytes_per_second, overlap=0.0))[1]
        low_hours = min(total * low, plan.steps * (compute + optimizer)) / 3600
        high_hours = max(total * high, plan.steps * (compute + optimizer + open_wire)) / 3600
    return {
        "label": "projection", "recipe": plan.recipe.name, "depth": plan.recipe.depth, "steps": plan.steps,
        "batch_tokens": plan.batch_tokens, "flops": plan.flops, "gpus": gpus, "gpu": gpu, "fp8": fp8,
        "compute_seconds": compute, "optimizer_seconds": optimizer, "communication_seconds": wire,
        "hours": total / 3600, "low_hours": low_hours, "high_hours": high_hours,
        "mfu": plan.flops / (total * gpus * peak), "notes": notes,
    }  # fmt: skip


# ---- one GPU


# Memory in GB, depth, and cards of that memory: what a person with one GPU can finish in about a day
TIERS = ((16, 14, ("RTX 5080",)), (24, 16, ("RTX 4090", "RTX 3090")), (80, 24, ("H100", "A100")))
# Measured: H100 0.398 at depth 8 (karpathy/autoresearch, program.md), A100 0.39 at depth 14 (pull request 747: 3:23 h)
TIER_MFU = 0.4
# Published CORE of recipe `record` on ClimbMix at ratio 8, by depth: pull request 747 (a maintainer's run on one A100)
# and record 6
SCORES = {14: 0.1574, 24: 0.262634}


def expected_core(plan: Plan) -> float:
    """CORE to expect of `record` on ClimbMix: the line through SCORES over the logarithm of the FLOPs.

    Two other published scores, depth 12 on ClimbMix at ratios 10.5 (0.145, pull request 563) and about 12 (0.148, a
    user's report), lie within 0.005 of it; the spread of seeds is as large.
    """
    (x0, y0), (x1, y1) = ((math.log(resolve("record", depth=d).flops), score) for d, score in SCORES.items())
    return y0 + (y1 - y0) * (math.log(plan.flops) - x0) / (x1 - x0)


def tiers() -> list[dict]:
    """What one GPU of each memory size can train: depth, hours on its cards at TIER_MFU, CORE to expect, the command.

    device_batch is the largest that cost.memory_estimate finds room for.
    """
    out = []
    for gigabytes, depth, cards in TIERS:
        plan = resolve("record", depth=depth)
        m = plan.model
        sizes = dict(T=m.sequence_len, n_layer=depth, n_embd=m.n_embd, vocab_size=m.vocab_size, compiled=True)
        B = suggest_device_batch(gigabytes * 1e9, plan.batch_tokens // m.sequence_len, plan.params, **sizes)
        out.append({
            "memory_gb": gigabytes, "depth": depth, "device_batch": B, "tokens": plan.tokens, "flops": plan.flops,
            "core": expected_core(plan), "published": depth in SCORES,
            "hours": {card: hours(plan.flops, 1, _chip(card)[1], TIER_MFU) for card in cards},
            "command": f"python -m gpt2course.train record --profile 1gpu --device-batch {B} --set depth={depth}",
        })  # fmt: skip
    return out


# ---- pages


def tiers_table() -> str:
    lines = [
        "| memory | depth | device batch | training tokens | hours of training | CORE to expect | command |",
        "|---|---|---|---|---|---|---|",
    ]
    for t in tiers():
        time = ", ".join(f"{h:.0f} ({card})" for card, h in t["hours"].items())
        core = f"{t['core']:.3f} ({'published' if t['published'] else 'interpolated'})"
        tokens = f"{t['tokens'] / 1e9:.2f} billion"
        cells = (f"{t['memory_gb']} GB", t["depth"], t["device_batch"], tokens, time, core, f"`{t['command']}`")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def check_table() -> str:
    lines = [
        "| run | published | predicted from record 1 | error | predicted from the other five | error |",
        "|---|---|---|---|---|---|",
    ]
    rows = check()
    for r in rows:
        fitted = r.id == "nanochat-1"
        first = "(the one number fitted) | " if fitted else f"{r.predicted / 3600:.3f} h | {r.error:+.1%}"
        others = f"{r.left_out / 3600:.3f} h | {r.left_out / r.published - 1:+.1%}"
        lines.append(f"| {r.id} | {r.published / 3600:.3f} h | {first} | {others} |")
    for r in check(unmerged=True):
        lines.append(f"| {r.id} | {r.published / 3600:.3f} h | {r.predicted / 3600:.3f} h | {r.error:+.1%} | | |")
    low, high = interval(rows)
    factors = f"between {low:.3f} and {high:.3f} times the predicted ones (95 %, Student's t on five errors)"
    return "\n".join([*lines, "", f"Records 2 to 6: the next run's hours lie {factors}."])


def entries_table() -> str:
    lines = [
        "| entry | hours | `torchrun --standalone --nproc_per_node=8 -m gpt2course.train` ... | what that leaves out |",
        "|---|---|---|---|",
    ]
    for e in leaderboard.of_others(leaderboard.read()):
        made_by = f"`{e.command}`" if e.command else "none"
        lines.append(f"| {e.id} | {e.hours:.2f} | {made_by} | {e.missing} |")
    return "\n".join(lines)


TABLES = {"tiers": tiers_table, "check": check_table, "entries": entries_table}


def page(text: str) -> str:
    """A page with every table between its marks made anew."""
    for name, make in TABLES.items():
        first, last = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        if text.count(first) != 1 or text.count(last) != 1:
            marks = f"{first.strip()} and {last.strip()}"
            raise UserError(f"the page has no place for the table {name}: it needs the lines {marks} once")
        text = text[: text.index(first) + len(first)] + make() + text[text.index(last) :]
    return text


@dataclass
class Forecast:
    """Hours and dollars of a run on several GPUs, from a step measured on one: a projection. And the check of the
    arithmetic.

    Example: python -m gpt2course.forecast --from results/speed/step-d24-bf16.json --recipe record --price 3

    `check` prints the published records predicted from the first, `tiers` what one GPU can do, `entries` every
    published record as a command; `page` writes these three tables into launch/README.md.
    """

    what: tyro.conf.Positional[Literal["project", "check", "tiers", "entries", "page"]] = "project"
    # JSON of a training step, made by `python -m gpt2course.bench step --out FOLDER`
    file: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    optimizer: Path | None = None  # JSON of `bench optimizer` for the same model; default: the one beside it
    mfu: float | None = None  # instead of a measurement: share of the peak that the whole step reaches, such as 0.5
    recipe: str = "record"  # of the run to be forecast
    depth: int = 24  # layers
    ratio: float | None = None  # training tokens for each scaling parameter; default: the recipe's
    set: tuple[str, ...] = ()  # any other setting of the recipe, as name=value
    fp8: bool = False  # linear layers in fp8
    gpu: str = "H100"  # the devices of the run
    gpus: int = 8  # how many
    price: float | None = None  # dollars for one hour of ONE device
    bandwidth: float = Link.bytes_per_second  # bytes a second that a device sends: an assumption
    overlap: float = Link.overlap  # share of the communication that computation hides: an assumption


def main(args: Forecast) -> None:
    if args.what == "page":
        text = page(PAGE.read_text(encoding="utf-8"))
        with atomic_file(PAGE) as f:
            f.write(text)
        print(f"wrote the tables of {PAGE}")
        return
    if args.what != "project":
        print(TABLES[args.what]())
        return
    ratio = {} if args.ratio is None else {"ratio": args.ratio}
    plan = resolve(args.recipe, **({"depth": args.depth} | ratio | settings_from_text(args.set)))
    step = read_step(args.file, args.optimizer) if args.file else None
    link = Link(args.bandwidth, args.overlap)
    r = project(plan, step=step, mfu=args.mfu, gpu=args.gpu, gpus=args.gpus, fp8=args.fp8, link=link)

    def between(values):
        ends = f", between {values[1]:,.2f} and {values[2]:,.2f}" if values[1:] else ""
        return f"{values[0]:,.2f}{ends}"

    fp8 = ", fp8" if args.fp8 else ""
    print(f"PROJECTION, not a measurement: {args.recipe} at depth {plan.recipe.depth} on {args.gpus} x {args.gpu}{fp8}")
    print(f"work       {plan.steps:,} steps of {plan.batch_tokens:,} tokens, {plan.flops:.4g} FLOPs")
    parts = [f"{1000 * r[f'{part}_seconds']:.1f} ms {part}" for part in ("compute", "optimizer", "communication")]
    print(f"step       {' + '.join(parts)}; MFU {r['mfu']:.1%} of the bf16 peak")
    times = [r[k] for k in ("hours", "low_hours", "high_hours") if r[k] is not None]
    print(f"training   {between(times)} h")
    if args.price is None:
        print("dollars    give --price, the dollars for one hour of one device")
    else:
        price = args.gpus * args.price
        print(f"dollars    {between([dollars(h, price) for h in times])} for training alone, at {price:g} an hour")
    c = chance_of_gpt2(args.recipe, plan.recipe.depth, plan.tokens / plan.params["scaling"])
    grade = "chance unknown" if c["probability"] is None else f"{c['probability']:.0%} of single runs"
    print(f"GPT-2      {grade}: {c['source']}")
    for note in r["notes"]:
        print(f"note       {note}")


if __name__ == "__main__":
    command(main)
