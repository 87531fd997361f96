"""The ladder of recipes and the dial `depth`, which together fix every number of a run. Lessons 04 and 14.

A recipe says how to train, depth how large the model is; `resolve` computes a Plan from both, with every number fixed.
Sources: `gpt2` is the model of 2019 with the training settings that the GPT-3 paper published (arXiv 2005.14165,
appendix B; GPT-2's own were never published); this course swept its rate. `jan29` is karpathy/nanochat at commit
348fbb3 (the 3.04-hour run of 29 January 2026), `record` the same project at commit 92d63d4 (3 July 2026), both as their
code computes. The sizes for small machines are this course's choice.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, field

import torch
import tyro

from gpt2course.files import UserError, closest, coerce, command
from gpt2course.gpt2 import GPT2, GPT2Config
from gpt2course.model import GPT, GPTConfig
from gpt2course.optim import Group, MuonAdamW

REFERENCE_BATCH = 2**19  # tokens; the batch for which the rates below were tuned at depth 12
REFERENCE_WIDTH = 768  # the width of depth 12; AdamW rates scale with (width / 768)^-0.5
BELOW_1 = 0.9999


def within(default, low, high=math.inf):
    """A field of Recipe with the range that a person may set."""
    return field(default=default, metadata=dict(low=low, high=high))


def one_of(*choices, default):
    """A field of Recipe with the words that a person may set."""
    return field(default=default, metadata=dict(choices=choices))


@dataclass(frozen=True)
class Recipe:
    """How to train. Every field can be overridden by name; None means that `resolve` derives it from depth."""

    name: str = "modern"
    lesson: str = "03"

    # size: what depth fixes unless it is set apart
    depth: int = within(12, 1, 128)  # layers
    width: int | None = within(None, 1, 65_536)  # C; None: 64 * depth, rounded up to a multiple of head_dim
    head_dim: int = within(128, 2, 65_536)
    n_kv_head: int | None = within(None, 1, 65_536)  # None: as many as query heads
    sequence_len: int = within(2048, 2, 2**20)  # T
    vocab_size: int = within(32768, 266, 2**20)
    batch_tokens: int | None = within(None, 1, 2**30)  # tokens of one optimizer step; None: by batch_rule
    # fixed: 2^19; horizon: 2^19 (D / D_d12)^0.383 to a power of two (arXiv 2505.13738)
    batch_rule: str = one_of("fixed", "horizon", default="fixed")
    ratio: float = within(12.0, 1e-6)  # training tokens for each scaling parameter (matrices + head)
    steps: int | None = within(None, 1, 10**9)  # None: ratio * scaling parameters / batch_tokens, rounded down
    eval_bytes: int = within(48_000_000, 1)  # text of an evaluation during training, about 20 * 2^19 tokens

    # architecture: modern, whose fields follow (those of GPTConfig), or gpt2 (gpt2.py), which has none of them
    architecture: str = "modern"
    rope_base: float = within(10_000.0, 0)
    qk_norm: bool = True
    qk_gain: float = 1.0
    softcap: float = within(15.0, 0)
    embed_norm: bool = True
    window_pattern: str = "L"
    short_window_divisor: int = within(2, 1)  # the short window is T / divisor ...
    short_window_tile: int = within(1, 1)  # ... rounded up to a multiple of this (128: FlashAttention-3's tile)
    resid_lambda: tuple[float, float] | None = None
    x0_lambda: tuple[float, float] | None = None
    value_embeds: bool = False
    ve_gate_channels: int = within(32, 1)
    ve_gate_scale: float = 2.0
    ve_gate_init: float = 0.0
    smear: bool = False
    backout: float | None = None
    wte_std: float = 1.0
    c_fc_scale: float = 1.0

    # optimizer: rates at width 768 and 2^19 tokens a batch
    matrix_optimizer: str = one_of("adamw", "muon", default="adamw")
    matrix_lr: float = within(0.02, 0)  # Muon
    matrix_adamw_lr: float = within(0.003, 0)  # AdamW on the matrices
    head_lr: float = within(0.004, 0)
    wte_lr: float = within(0.3, 0)
    ve_lr: float = within(0.3, 0)
    scalar_lr: float = within(0.5, 0)  # x0 lambdas; the residual lambdas, which multiply, get a hundredth
    smear_lr: float = within(0.2, 0)  # smear and backout; not scaled with the batch
    head_betas: tuple[float, float] = (0.8, 0.95)
    embed_betas: tuple[float, float] = (0.8, 0.95)
    x0_beta1: float = within(0.96, 0, BELOW_1)
    head_weight_decay: float = 0.0
    wte_weight_decay: float = 0.0
    ve_weight_decay: float = 0.0
    resid_weight_decay: float = 0.0
    weight_decay: float = within(0.2, 0)  # of the matrices, cautious with Muon
    # depth: * (12 / depth)^2; horizon: * sqrt(B / 2^19) * D_d12 / D (arXiv 2405.13698); fixed: as it is
    weight_decay_rule: str = one_of("fixed", "depth", "horizon", default="depth")
    matrix_betas: tuple[float, float] = (0.9, 0.95)  # AdamW on the matrices
    eps: float = within(1e-10, 1e-30)  # AdamW
    grad_clip: float = within(0.0, 0)  # largest norm of all gradients together; off: 0
    muon_beta2: float = within(0.95, 0, BELOW_1)
    ns_steps: int = within(5, 1, 5)
    muon_safety: float = 1.02
    muon_row_norm: bool = False
    muon_renorm: bool = False
    lr_batch_power: float = 0.5  # rates scale with (B / 2^19)^power, as published ...
    tiny_batch: int = within(2**15, 0)  # ... but batches of at most this many tokens take tiny_batch_lr,
    tiny_batch_lr: float = within(1.0, 0)  # measured at 2,048 tokens: results/2026-11-23_small-batch-rates

    # schedules
    warmup_steps: int = within(0, 0)
    warmup_ratio: float = within(0.0, 0, 1)  # the same as a share of the steps, where warmup_steps is 0
    # linear: flat, then falling in the warm-down; cosine: falling from the warm-up on
    lr_schedule: str = one_of("linear", "cosine", default="linear")
    warmdown_ratio: float = within(0.5, 0, 1)  # share of the steps in which the rate falls linearly
    final_lr: float = within(0.0, 0)
    momentum_start: float = within(0.85, 0, BELOW_1)
    momentum: float = within(0.95, 0, BELOW_1)
    momentum_steps: int = within(300, 0)  # linear from start to peak
    momentum_end: float | None = None  # linear to this during the warm-down; None: stay
    weight_decay_schedule: str = one_of("linear", "cosine", default="linear")  # both end at 0


MODERN = Recipe()
GPT2_2019 = dataclasses.replace(
    MODERN, name="gpt2", lesson="03", architecture="gpt2",
    matrix_adamw_lr=6e-4, head_betas=(0.9, 0.95), embed_betas=(0.9, 0.95), eps=1e-8, grad_clip=1.0,
    weight_decay=0.1, wte_weight_decay=0.1, weight_decay_rule="fixed",
    warmup_ratio=0.02, lr_schedule="cosine", final_lr=0.1,
)  # fmt: skip
# Settings that change something in the model of 2019 and its optimizer; any other is refused for it
GPT2_SETTINGS = {
    "depth", "width", "head_dim", "sequence_len", "vocab_size", "batch_tokens", "batch_rule", "ratio", "steps",
    "eval_bytes", "matrix_adamw_lr", "matrix_betas", "eps", "grad_clip", "weight_decay", "wte_weight_decay",
    "weight_decay_rule", "lr_batch_power", "tiny_batch", "tiny_batch_lr",
    "warmup_steps", "warmup_ratio", "lr_schedule", "warmdown_ratio", "final_lr",
}  # fmt: skip
MUON = dataclasses.replace(MODERN, name="muon", lesson="05", matrix_optimizer="muon")
WINDOWS = dataclasses.replace(MUON, name="windows", lesson="06", window_pattern="SSSL")
LAMBDAS = dataclasses.replace(WINDOWS, name="lambdas", lesson="07", resid_lambda=(1.0, 1.0), x0_lambda=(0.1, 0.1))
JAN29 = dataclasses.replace(LAMBDAS, name="jan29", lesson="08", value_embeds=True)
RECORD = dataclasses.replace(
    JAN29, name="record", lesson="14", ratio=8.0, batch_rule="horizon", eval_bytes=192_000_000,
    rope_base=100_000.0, qk_gain=1.2, short_window_divisor=4, short_window_tile=128,
    resid_lambda=(1.15, 1.05), x0_lambda=(0.20, 0.05), ve_gate_channels=12, ve_gate_scale=3.0, ve_gate_init=0.02,
    smear=True, backout=0.2, wte_std=0.8, c_fc_scale=0.4,
    head_lr=0.008, ve_lr=0.15, head_betas=(0.8, 0.96), embed_betas=(0.8, 0.995),
    head_weight_decay=0.01, wte_weight_decay=0.001, ve_weight_decay=0.01, resid_weight_decay=0.05,
    weight_decay=0.28, weight_decay_rule="horizon", weight_decay_schedule="cosine",
    muon_beta2=0.9, muon_safety=1.01, muon_row_norm=True, muon_renorm=True,
    warmup_steps=40, warmdown_ratio=0.65, final_lr=0.05,
    momentum=0.97, momentum_steps=400, momentum_end=0.90,
)  # fmt: skip
LADDER = {r.name: r for r in (GPT2_2019, MODERN, MUON, WINDOWS, LAMBDAS, JAN29, RECORD)}

# Sizes for a machine, by its memory and speed. `corpus` and `device_batch` (rows that a device takes at a time) are not
# fields of a recipe; all the others are. One is no size: the recipes' rules for weight decay were tuned at depth 12 and
# more, and give 1.8 at depth 4 for 0.2; a tenth of it was best there for jan29 (results/2026-11-29_laptop-decay).
PROFILES = {
    "laptop": dict(corpus="embedded", device_batch=16, depth=4, width=128, head_dim=64, sequence_len=256,
                   vocab_size=4096, batch_tokens=2048, steps=2000, eval_bytes=130_000, weight_decay=0.02),
    "1gpu": dict(corpus="climbmix", device_batch=32, depth=12),
    "8xh100": dict(corpus="climbmix", device_batch=16, depth=24),
}  # fmt: skip
GPUS = {"1gpu": 1, "8xh100": 8}  # that a profile is made for


@dataclass(frozen=True)
class Plan:
    """Every number of a run, resolved: what `config.json` of a run holds."""

    recipe: Recipe
    model: GPTConfig | GPT2Config
    params: dict[str, int]  # by group, see GPT.num_params
    batch_tokens: int
    steps: int
    tokens: int  # batch_tokens * steps
    flops_per_token: float  # as published; `flops_per_token_causal` counts only the keys a query sees
    flops_per_token_causal: float
    flops: float  # of the whole run, as published
    lr_width_scale: float
    lr_batch_scale: float
    groups: dict[str, dict] = field(default_factory=dict)  # optimizer group -> its settings, rates at their peak

    def lr(self, step: int) -> float:
        """The multiplier of every rate at `step` (from 0).

        Linear: warm-up, flat, linear warm-down to final_lr. Cosine: warm-up, then a half cosine down to final_lr.
        """
        r, warmdown = self.recipe, round(self.recipe.warmdown_ratio * self.steps)
        warmup = r.warmup_steps or round(r.warmup_ratio * self.steps)
        if step < warmup:
            return (step + 1) / warmup
        if r.lr_schedule == "cosine":
            angle = math.pi * (step - warmup) / (self.steps - warmup)
            return r.final_lr + (1 - r.final_lr) * 0.5 * (1 + math.cos(angle))
        if step <= self.steps - warmdown:
            return 1.0
        left = (self.steps - step) / warmdown
        return left + (1 - left) * r.final_lr

    def muon_momentum(self, step: int) -> float:
        """Muon's momentum at `step`: rising, flat, and falling in the warm-down where momentum_end is set."""
        r, warmdown = self.recipe, round(self.recipe.warmdown_ratio * self.steps)
        if step < r.momentum_steps:
            return r.momentum_start + (r.momentum - r.momentum_start) * step / r.momentum_steps
        if r.momentum_end is not None and step >= self.steps - warmdown:
            into = step - (self.steps - warmdown)  # steps into the warm-down
            return r.momentum + (r.momentum_end - r.momentum) * into / warmdown
        return r.momentum

    def weight_decay(self, step: int) -> float:
        """The multiplier of the matrices' weight decay at `step`."""
        done = step / self.steps
        if self.recipe.weight_decay_schedule == "linear":
            return 1 - done
        return 0.5 * (1 + math.cos(math.pi * done))

    def to_json(self) -> dict:
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(value: dict) -> "Plan":
        """Rebuild a Plan from `to_json`, for checkpoints: the stored numbers, not today's defaults."""

        def make(cls, values):
            return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

        try:
            recipe = make(Recipe, value["recipe"])
            config = GPT2Config if recipe.architecture == "gpt2" else GPTConfig
            return Plan(**(value | {"recipe": recipe, "model": make(config, value["model"])}))
        except (KeyError, TypeError, ValueError) as e:
            what = f"this plan was not made by this version of gpt2course ({e})"
            raise UserError(f"{what}; train again, or use the version that made it") from None


@dataclass(frozen=True)
class RunSizes:
    """A Plan and how one machine shares its batch."""

    plan: Plan
    corpus: str  # the profile's
    device_batch: int  # rows of one forward pass
    devices: int  # ranks that share a batch


def resolve_run(
    recipe: str, profile: str, settings: dict, devices: int | None = None, device_batch: int | None = None,
    gpus: int = 0, streams: int = 8,
) -> RunSizes:  # fmt: skip
    """The sizes of a run; `settings` change the recipe by name, on top of the profile's sizes.

    devices: ranks; None for as many of the machine's `gpus` as can share a batch, at most those of the profile.
    device_batch: None for the profile's, made smaller until it divides a rank's rows.
    """
    if profile not in PROFILES:
        raise UserError(f"profile {profile!r} does not exist; {closest(profile, PROFILES)}")
    sizes = dict(PROFILES[profile])
    if recipe == "gpt2":
        sizes.pop("weight_decay", None)  # AdamW's, a fixed one
    corpus, most = sizes.pop("corpus"), sizes.pop("device_batch")
    plan = resolve(recipe, **(sizes | settings))
    rows = plan.batch_tokens // plan.model.sequence_len
    can_share = [n for n in range(1, streams + 1) if rows % n == 0 and streams % n == 0]
    devices = devices or max(n for n in can_share if n <= max(1, min(gpus, GPUS.get(profile, 1))))
    if devices not in can_share:
        by = f"can be shared by {', '.join(map(str, can_share))} processes"
        raise UserError(f"devices = {devices} is not allowed; the {rows} rows of a batch, from {streams} streams, {by}")
    if 0 < gpus < devices:
        raise UserError(f"devices = {devices} is not allowed; this machine has {gpus} GPUs")
    fitting = [n for n in range(1, rows // devices + 1) if rows // devices % n == 0]
    if device_batch is not None and device_batch not in fitting:
        of = f"the {rows // devices} rows of a batch on each device: {', '.join(map(str, fitting))}"
        raise UserError(f"device_batch = {device_batch} is not allowed; it must divide {of}")
    return RunSizes(plan, corpus, device_batch or max(n for n in fitting if n <= most), devices)


def override(recipe: Recipe, changes: dict) -> Recipe:
    """The recipe with fields changed by name; names, types and ranges are checked, and values may be given as text."""
    known = {f.name: f for f in dataclasses.fields(Recipe) if f.name not in ("name", "lesson", "architecture")}
    clean = {}
    for name, value in changes.items():
        if name not in known:
            raise UserError(f"recipe {recipe.name!r} has no setting {name!r}; {closest(name, known)}")
        if recipe.architecture == "gpt2" and name not in GPT2_SETTINGS:
            has = ", ".join(sorted(GPT2_SETTINGS))
            raise UserError(f"recipe 'gpt2' has no setting {name!r}: the model of 2019 and its optimizer have {has}")
        clean[name] = coerce(name, value, known[name].type, **known[name].metadata)
    return dataclasses.replace(recipe, **clean)


def model_config(r: Recipe) -> GPTConfig | GPT2Config:
    """The architecture of a recipe at its depth."""
    width = r.width or -(-r.depth * 64 // r.head_dim) * r.head_dim
    if width % r.head_dim:
        raise UserError(f"width {width} is not a multiple of head_dim {r.head_dim}; change one of them")
    heads = width // r.head_dim
    if r.architecture == "gpt2":
        sizes = dict(n_layer=r.depth, n_head=heads, n_embd=width)
        return GPT2Config(vocab_size=r.vocab_size, sequence_len=r.sequence_len, **sizes)
    short = -(-r.sequence_len // r.short_window_divisor // r.short_window_tile) * r.short_window_tile
    shared = {f.name for f in dataclasses.fields(GPTConfig)} & {f.name for f in dataclasses.fields(Recipe)}
    values = {name: getattr(r, name) for name in shared}
    values |= dict(n_layer=r.depth, n_embd=width, n_head=heads, n_kv_head=r.n_kv_head or heads, short_window=short)
    try:
        return GPTConfig(**values)
    except ValueError as e:
        raise UserError(str(e)) from None


def build(config: GPTConfig | GPT2Config, *dtypes):
    """The model of a configuration on the meta device, without memory."""
    with torch.device("meta"):
        return GPT2(config, *dtypes[:1]) if isinstance(config, GPT2Config) else GPT(config, *dtypes)


def resolve(name: str, /, **changes) -> Plan:
    """The Plan of a recipe by name, with fields of the recipe changed by name: resolve("jan29", depth=24, ratio=8)."""
    if name not in LADDER:
        raise UserError(f"recipe {name!r} does not exist; {closest(name, LADDER)}")
    r = override(LADDER[name], changes)
    config = model_config(r)
    model = build(config)
    params = model.num_params()
    horizon = int(r.ratio * params["scaling"])  # D, the tokens that ratio asks for
    reference = build(model_config(dataclasses.replace(r, depth=12, width=None, head_dim=128, n_kv_head=None)))
    d12 = r.ratio * reference.num_params()["scaling"]  # D at depth 12
    if r.batch_tokens is not None:
        batch = r.batch_tokens
    elif r.batch_rule == "fixed":
        batch = REFERENCE_BATCH
    else:
        batch = 2 ** round(math.log2(REFERENCE_BATCH * (horizon / d12) ** 0.383))
    if batch % r.sequence_len:
        above = -(-batch // r.sequence_len) * r.sequence_len
        raise UserError(f"batch_tokens {batch} is not a multiple of sequence_len {r.sequence_len}, as {above} is")
    steps = r.steps if r.steps is not None else horizon // batch
    if steps < 1:
        what = f"ratio {r.ratio:g} asks for {horizon:,} tokens, less than one batch of {batch:,}"
        raise UserError(f"recipe {name!r}: {what}; set steps, or a smaller batch_tokens")
    width_scale = (config.n_embd / REFERENCE_WIDTH) ** -0.5
    batch_scale = r.tiny_batch_lr if batch <= r.tiny_batch else (batch / REFERENCE_BATCH) ** r.lr_batch_power
    if r.weight_decay_rule == "fixed":
        decay = r.weight_decay
    elif r.weight_decay_rule == "depth":
        decay = r.weight_decay * (12 / r.depth) ** 2
    else:
        decay = r.weight_decay * math.sqrt(batch / REFERENCE_BATCH) * d12 / horizon
    return Plan(
        recipe=r, model=config, params=params, batch_tokens=batch, steps=steps, tokens=batch * steps,
        flops_per_token=model.flops_per_token(), flops_per_token_causal=model.flops_per_token(causal=True),
        flops=model.flops_per_token() * batch * steps, lr_width_scale=width_scale, lr_batch_scale=batch_scale,
        groups=_group_settings(r, width_scale, batch_scale, decay),
    )  # fmt: skip


def _group_settings(r: Recipe, width_scale: float, batch_scale: float, decay: float) -> dict[str, dict]:
    """Peak rate, decay and constants of every optimizer group."""

    def adamw(lr, betas, weight_decay=0.0):
        return dict(kind="adamw", lr=lr, beta1=betas[0], beta2=betas[1], weight_decay=weight_decay, eps=r.eps)

    embed, scalar = width_scale * batch_scale, batch_scale
    if r.architecture == "gpt2":  # one rate for all; biases and LayerNorms do not decay
        lr = r.matrix_adamw_lr * embed
        return {
            "matrices": adamw(lr, r.matrix_betas, decay), "wte": adamw(lr, r.matrix_betas, r.wte_weight_decay),
            "wpe": adamw(lr, r.matrix_betas, r.wte_weight_decay), "scalars": adamw(lr, r.matrix_betas),
        }  # fmt: skip
    groups = {
        "lm_head": adamw(r.head_lr * embed, r.head_betas, r.head_weight_decay),
        "wte": adamw(r.wte_lr * embed, r.embed_betas, r.wte_weight_decay),
        "value_embeds": adamw(r.ve_lr * embed, r.embed_betas, r.ve_weight_decay),
        "resid_lambdas": adamw(0.01 * r.scalar_lr * scalar, (0.8, 0.95), r.resid_weight_decay),
        "x0_lambdas": adamw(r.scalar_lr * scalar, (r.x0_beta1, 0.95)),
        "smear_backout": adamw(r.smear_lr, (0.8, 0.95)),
    }
    if r.matrix_optimizer == "adamw":
        groups["matrices"] = adamw(r.matrix_adamw_lr * embed, r.matrix_betas, decay)
    else:
        groups["matrices"] = dict(
            kind="muon", lr=r.matrix_lr * batch_scale, weight_decay=decay, beta2=r.muon_beta2,
            ns_steps=r.ns_steps, safety=r.muon_safety, row_norm=r.muon_row_norm, renorm=r.muon_renorm,
        )  # fmt: skip
    return groups


def make_model(plan: Plan, device="cpu", compute_dtype=torch.float32, embed_dtype=torch.float32) -> GPT | GPT2:
    """The model of a plan on a device, its weights not yet filled. GPT-2's embedding, tied to its head, is float32."""
    return build(plan.model, compute_dtype, embed_dtype).to_empty(device=device)


def group_of(name: str) -> str:
    """The optimizer group of a parameter, from its name in the model."""
    if name.endswith(".bias") or ".ln_" in f".{name}":
        return "scalars"  # GPT-2 alone has any
    first = name.split(".")[0]
    if first == "blocks":
        return "matrices"
    if first in ("smear_gate", "smear_lambda", "backout_lambda"):
        return "smear_backout"
    return first


def make_optimizer(
    model: GPT | GPT2, plan: Plan, ns_dtype=torch.float32, compile: bool = False, ranks=(0, 1)
) -> MuonAdamW:
    """The optimizer of a plan, every parameter of the model in exactly one group."""
    members = {name: {} for name in plan.groups}
    for name, p in model.named_parameters():
        members[group_of(name)][name] = p
    assert sum(len(m) for m in members.values()) == len(list(model.parameters()))
    groups = [Group(name=g, params=members[g], **settings) for g, settings in plan.groups.items() if members[g]]
    return MuonAdamW(groups, ns_dtype, compile, plan.recipe.grad_clip, ranks)


@dataclass
class Show:
    """Print every resolved number of a recipe at a depth as JSON.

    Example: python -m gpt2course.recipes jan29 --depth 24 --set ratio=12
    """

    recipe: tyro.conf.Positional[str]  # gpt2, modern, muon, windows, lambdas, jan29 or record
    depth: int = 24  # layers; everything else follows from it
    set: tuple[str, ...] = ()  # any other setting, as name=value, for example --set width=192 head_dim=64


def settings_from_text(pairs) -> dict:
    """{"width": "192"} from ("width=192",), for `--set`."""
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--set {pair!r}: write name=value, for example --set width=192")
        if name in settings:
            raise UserError(f"--set gives {name!r} twice; give it once")
        settings[name] = value
    return settings


def main(args: Show) -> None:
    changes = {"depth": args.depth} | settings_from_text(args.set)
    print(json.dumps(resolve(args.recipe, **changes).to_json(), indent=2))


if __name__ == "__main__":
    command(main)
