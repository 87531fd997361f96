"""What a run costs: hours, dollars and memory, computed before it starts. Lessons 00 and 12.

The arithmetic of this file:

    hours   = FLOPs / (devices * peak FLOP/s * MFU * 3600)
    dollars = hours * price of an hour
    memory  = weights + gradients + optimizer state + what the forward pass keeps for the backward pass

Prices change every week, so a price is always an argument.
"""

import re
from dataclasses import dataclass

from gpt2course.files import UserError
from gpt2course.losses import PIECE_BYTES

# Peak dense bfloat16 FLOP/s of the matrix units, accumulating in float32. One entry a device: words that must all be in
# its name, the peak, the source. The first entry that fits counts, so narrower names come first. Data sheets often
# print the number for 2:4 sparse matrices, which is twice the dense number.
PEAKS = (
    ("gb200", 2.5e15, "NVIDIA GB200 NVL72 data sheet: 5 PFLOP/s sparse for each GPU"),
    ("b200", 2.25e15, "NVIDIA HGX B200 data sheet: 4.5 PFLOP/s sparse for each GPU"),
    ("gh200", 989e12, "NVIDIA GH200 data sheet: 1,979 TFLOP/s sparse"),
    ("h200 nvl", 835.5e12, "NVIDIA H200 data sheet, NVL: 1,671 TFLOP/s sparse"),
    ("h200", 989e12, "NVIDIA H200 data sheet, SXM: 1,979 TFLOP/s sparse"),
    ("h100 nvl", 835.5e12, "NVIDIA H100 NVL product brief: 1,671 TFLOP/s sparse"),
    ("h100 pcie", 756e12, "NVIDIA H100 data sheet, PCIe: 1,513 TFLOP/s sparse"),
    ("h100", 989e12, "NVIDIA H100 data sheet, SXM: 1,979 TFLOP/s sparse; "
                     "the peak behind the published 50.0 % MFU of Run 1"),
    ("a100", 312e12, "NVIDIA A100 data sheet: 312 TFLOP/s"),
    ("l40s", 362e12, "NVIDIA L40S data sheet: 362 TFLOP/s, 733 sparse"),
    ("l4", 121e12, "NVIDIA L4 data sheet: 242 TFLOP/s sparse"),
    ("a10", 125e12, "NVIDIA A10 data sheet: 125 TFLOP/s"),
    ("rtx pro 6000", 503.8e12, "NVIDIA RTX PRO Blackwell specifications, 600 W editions: 503.8 TFLOP/s"),
    ("rtx 5090", 209.5e12, "NVIDIA RTX Blackwell architecture paper: 209.5 TFLOP/s"),
    ("rtx 5080", 112.6e12, "NVIDIA RTX Blackwell architecture paper: 112.6 TFLOP/s"),
    ("rtx 4090", 165.2e12, "NVIDIA Ada architecture paper: 165.2 TFLOP/s"),
    ("rtx 3090", 71e12, "NVIDIA GA102 architecture paper: 71 TFLOP/s"),
    ("mi300x", 1307.4e12, "AMD Instinct MI300X data sheet: 1,307.4 TFLOP/s"),
)  # fmt: skip
# Other chips that share these names: slower laptop, power-limited and export versions, and slices of a GPU.
OTHER_CHIPS = {"laptop", "max", "mig", "ti", "d"}


def peak_flops(device_name: str) -> float | None:
    """Peak dense bfloat16 FLOP/s of one device by the name its driver gives; None where it is unknown, as for CPUs.

    Whole words are compared, so an "NVIDIA A10" is not an A100.
    """
    words = set(re.findall(r"[a-z0-9]+", device_name.lower()))
    if words & OTHER_CHIPS:
        return None
    return next((peak for name, peak, _ in PEAKS if set(name.split()) <= words), None)


def _positive(**values) -> None:
    for name, value in values.items():
        if not value > 0:
            raise UserError(f"{name} = {value!r} is not allowed; it must be greater than 0")


def mfu(flops_per_token: float, tokens_per_second: float, n_devices: int, peak: float | None) -> float | None:
    """Model FLOPs utilisation (PaLM, arXiv 2204.02311): the share of the peak that the model's own arithmetic uses.

    flops_per_token: training FLOPs, forward and backward. tokens_per_second: of all devices. peak: FLOP/s of one
    device; None gives None. Recomputed activations do not count, so this is not the hardware's utilisation.
    """
    if peak is None:
        return None
    return flops_per_token * tokens_per_second / (n_devices * peak)


def hours(total_flops: float, n: int, peak: float, mfu: float) -> float:
    """Hours of training for `total_flops` on n devices of `peak` FLOP/s each, at a utilisation of mfu (0 to 1]."""
    _positive(total_flops=total_flops, n=n, peak=peak, mfu=mfu)
    if mfu > 1:
        raise UserError(f"mfu = {mfu!r} is not allowed; it is a share, greater than 0 and at most 1 (50 % is 0.5)")
    return total_flops / (n * peak * mfu) / 3600


def dollars(hours: float, price_per_hour: float) -> float:
    """The price of `hours` of the whole machine. price_per_hour: devices times the price of one device."""
    if hours < 0 or price_per_hour < 0:
        raise UserError(f"hours = {hours!r} and price_per_hour = {price_per_hour!r}: neither may be negative")
    return hours * price_per_hour


# What the forward pass keeps for the backward pass, in tensors of (B, T, C) in the compute dtype: a layer, and the rest
# of the model. Counted by tools/rehearse.py for jan29 and record at depths 4 to 28 (results/2026-11-29_rehearsal). A
# layer of jan29 keeps: the state before, between and after its parts (3), outputs of the two norms (2), q and k before
# and after the QK-norm (4), v and the attention output (2), 4C values before and after the squaring (8), and a value
# embedding on half of the layers (0.5). torch.compile keeps as many, in record one state less; the numbers are between.
# In fp8 the inputs of products have 8 bits.
SAVED = {  # (compiled, fp8)
    (False, False): (19.55, 2.6),
    (False, True): (18.55, 2.6),
    (True, False): (19.1, 0.0),
    (True, True): (13.85, 0.0),
}
# Where that does not fit, train.py lets the compiled backward pass compute casts, norms, RoPE and relu^2 again. The
# forward pass then keeps the outputs of products and attention, in fp8 too, and no copies of weights.
RECOMPUTED = (10.55, 1.5)
SLACK = 1.1  # memory that the estimate leaves out, mostly the allocator's
SCRATCH_EAGER = 13  # tensors of (B, T, C) that the backward pass adds in its first layer, less those that it has freed


@dataclass(frozen=True)
class Memory:
    """Bytes of one training step on one device, by what they hold."""

    weights: float
    weight_copies: float  # the matrices in the compute dtype, kept for the backward pass
    gradients: float
    optimizer: float
    activations: float
    logits: float
    optimizer_scratch: float  # temporaries of the optimizer step, when activations and logits are freed
    backward_scratch: float = 0.0
    accumulates: bool = True  # whether gradients of an earlier forward pass of the same step exist

    @property
    def total(self) -> float:
        """The peak: around the end of the last forward pass, or in the optimizer step, whichever needs more."""
        forward = self.weight_copies + self.activations + max(self.logits, self.backward_scratch)
        forward += self.gradients if self.accumulates else 0
        return self.weights + self.optimizer + max(forward, self.gradients + self.optimizer_scratch)


def memory_estimate(
    params: dict[str, int], *, B: int, T: int, n_layer: int, n_embd: int, vocab_size: int,
    matrix_optimizer: str = "muon", weight_bytes: int = 4, embed_bytes: int = 2, compute_bytes: int = 2,
    loss_piece: int | None = 512 << 20, compiled: bool = False, fp8: bool = False, world: int = 1, pieces: int = 2,
    recompute: bool = False,
) -> Memory:  # fmt: skip
    """An estimate of the memory of one training step on one device; within 3 % of tools/rehearse.py.

    params: parameters by group, as from `GPT.num_params`. B rows of T tokens at a time. Bytes of a value: weight_bytes
    for matrices, head and scalars, embed_bytes for wte and value embeddings, compute_bytes for activations. loss_piece:
    bytes of logits that exist at a time (losses.PIECE_BYTES), None for all of them. compiled: with torch.compile.
    world: devices that share the optimizer's state. pieces: forward passes of a step. recompute: see RECOMPUTED.

        weights        each parameter once; in fp8 the matrices twice more in 8 bits
        weight copies  matrices in the compute dtype, if that is another one; none in fp8 or with recompute
        gradients      as the weights
        optimizer      two moments for AdamW; for Muon one momentum and one second moment for each row or column
        activations    SAVED or RECOMPUTED, times B * T * C values
        logits         a piece in the compute dtype; the last state and its gradient; the head in the compute dtype,
                       its gradient, a part of that. Without pieces: B * T * V values in the compute dtype, and if
                       not compiled once more in float32

    The optimizer step on one device copies all of Muon's gradients into stacks and makes four tensors as large as the
    largest stack; several devices gather all new weights. Not included: attention masks, the allocator's slack (10 % is
    common), and 0.4 GB for the loss on GPUs without Triton.
    """
    group = {name: params.get(name, 0) for name in ("wte", "wpe", "value_embeds", "lm_head", "matrices", "scalars")}
    embeds, matrices = group["wte"] + group["wpe"] + group["value_embeds"], group["matrices"]
    head = group["lm_head"] or group["wte"]  # GPT-2's is its embedding
    others = group["lm_head"] + group["scalars"]
    gradients = (matrices + others) * weight_bytes + embeds * embed_bytes
    if matrix_optimizer == "muon":
        matrix_state = matrices + matrices / n_embd
        scratch = matrices * weight_bytes + matrices / 3 * (2 * weight_bytes + 4 * compute_bytes)
    else:
        matrix_state = 2 * matrices
        scratch = 2 * 4 * max(group.values())
    state = matrix_state * weight_bytes + 2 * others * weight_bytes + 2 * embeds * embed_bytes
    values = B * T * n_embd * compute_bytes  # bytes of one tensor of (B, T, C)
    if loss_piece is None:
        logits = B * T * vocab_size * (compute_bytes + (0 if compiled else 4))
    else:
        logits = min(loss_piece, B * T * vocab_size * compute_bytes) + 2 * values + head * (4 + 2 * compute_bytes)
    a_layer, rest = RECOMPUTED if recompute else SAVED[compiled, fp8]
    return Memory(
        weights=gradients + (2 * matrices if fp8 else 0),
        weight_copies=matrices * compute_bytes if compute_bytes != weight_bytes and not fp8 and not recompute else 0,
        gradients=gradients,
        optimizer=state / world,
        activations=(a_layer * n_layer + rest) * values,
        logits=logits,
        optimizer_scratch=scratch if world == 1 else gradients + matrices * weight_bytes / world,
        backward_scratch=0 if compiled else SCRATCH_EAGER * values,
        accumulates=pieces > 1,
    )


def step_sizes(plan, on_gpu: bool = True, each: int | None = None, **more) -> dict:
    """The arguments of `memory_estimate` for a recipes.Plan; each: bytes of a value (GPU: 2); more: B, world, fp8."""
    m, each = plan.model, each or (2 if on_gpu else 4)
    if {"B", "world"} <= more.keys():
        more["pieces"] = max(1, plan.batch_tokens // m.sequence_len // more["world"] // more["B"])
    return {
        "n_layer": m.n_layer, "n_embd": m.n_embd, "vocab_size": m.vocab_size, "T": m.sequence_len, "compiled": on_gpu,
        "matrix_optimizer": plan.recipe.matrix_optimizer, "loss_piece": PIECE_BYTES["cuda" if on_gpu else "cpu"],
        "embed_bytes": 4 if plan.recipe.architecture == "gpt2" else each, "compute_bytes": each,
    } | more  # fmt: skip


def must_recompute(device_bytes: float, plan, **sizes) -> bool:
    """Whether a compiled step fits in a device only with `recompute`; sizes as of `step_sizes`."""
    return sizes["compiled"] and SLACK * memory_estimate(plan.params, **sizes).total > device_bytes


def suggest_device_batch(free_bytes: float, rows: int, params: dict[str, int], *, slack: float = 0.1, **sizes) -> int:
    """The largest B that divides `rows`, the rows of one step on one device, and whose estimate fits in free_bytes.

    slack: the share of free_bytes left for what the estimate does not include. sizes: the other arguments of
    `memory_estimate`. A smaller B changes only the number of gradient accumulations, not the batch of a step.
    """
    usable = free_bytes * (1 - slack)
    for B in (b for b in range(rows, 0, -1) if rows % b == 0):
        need = memory_estimate(params, B=B, **sizes).total
        if need <= usable:
            return B
    raise UserError(
        f"one row of {sizes['T']} tokens needs about {need / 1e9:.1f} GB and {usable / 1e9:.1f} GB "
        f"({free_bytes / 1e9:.1f} GB less {slack:.0%}) are there; choose a smaller depth, or a device with more memory"
    )
