"""What a run costs: hours, dollars and memory, computed before it starts. Lessons 00, 03, 04 and 12.

The arithmetic of this file:

    hours   = FLOPs / (devices * peak FLOP/s * MFU * 3600)
    dollars = hours * price of an hour
    memory  = weights + gradients + optimizer state + what the forward pass keeps for the backward pass

Prices change every week, so a price is always an argument.
"""

import re
from dataclasses import dataclass

from gpt2course.files import UserError

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
    _positive(n_devices=n_devices, peak=peak)
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


# Tensors of (B, T, C) that one layer keeps for the backward pass, counted in model.py and by autograd's hooks in the
# tests: the residual, inputs and outputs of the two norms (4), q and k before the QK-norm (2), q, k and v after it (3),
# the attention output (1), 4C values before and after the squaring (8), a value embedding on half of the layers.
SAVED_EAGER = 19.5
# torch.compile recomputes the cheap ones. Fitted to two published measurements: 34 GB for depth 12 with 32 rows
# (nanochat, dev/LOG.md, 12 January 2026) and 45.1 GB for depth 8 with 128 rows (karpathy/autoresearch).
SAVED_COMPILED = 15.0


@dataclass(frozen=True)
class Memory:
    """Bytes of one training step on one device, by what they hold."""

    weights: float
    weight_copies: float  # the matrices and the head in the compute dtype, kept for the backward pass
    gradients: float
    optimizer: float
    activations: float
    logits: float
    optimizer_scratch: float  # temporaries of the optimizer step, when activations and logits are freed

    @property
    def total(self) -> float:
        """The peak: the end of the forward pass or the optimizer step, whichever needs more."""
        lasting = self.weights + self.gradients + self.optimizer
        return lasting + max(self.weight_copies + self.activations + self.logits, self.optimizer_scratch)


def memory_estimate(
    params: dict[str, int], *, B: int, T: int, n_layer: int, n_embd: int, vocab_size: int,
    matrix_optimizer: str = "muon", weight_bytes: int = 4, embed_bytes: int = 2, compute_bytes: int = 2,
    loss_piece: int | None = 512 << 20, compiled: bool = False, world: int = 1, pieces: int = 2, fp8: bool = False,
) -> Memory:  # fmt: skip
    """An estimate of the memory of one training step on one device, without sharding.

    params: parameters by group, as from `GPT.num_params`. B rows of T tokens at a time. Bytes of a value: weight_bytes
    for matrices, head and scalars, embed_bytes for wte and value embeddings, compute_bytes for activations. loss_piece:
    bytes of logits that exist at a time (losses.PIECE_BYTES), None for all of them. compiled: with torch.compile.

        weights        each parameter once
        weight copies  matrices and head in the compute dtype, if that is another one
        gradients      as the weights
        optimizer      two moments for AdamW; for Muon one momentum and one second moment for each row or column
        activations    (19.5 a layer, 15 compiled, and 2) * B * T * C values
        logits         a piece in the compute dtype; the gradients by the hidden states and by the head. Without pieces:
                       B * T * V values in float32 and in the compute dtype

    The optimizer step needs about six times its largest stack, a third of the matrices. Not included: attention masks,
    the allocator's slack (10 % is common), communication buffers, and 0.4 GB for the loss on GPUs without Triton.
    """
    _positive(B=B, T=T, n_layer=n_layer, n_embd=n_embd, vocab_size=vocab_size)
    if matrix_optimizer not in ("muon", "adamw"):
        raise UserError(f"matrix_optimizer = {matrix_optimizer!r} is not allowed; muon or adamw")
    group = {name: params.get(name, 0) for name in ("wte", "wpe", "value_embeds", "lm_head", "matrices", "scalars")}
    embeds, matrices = group["wte"] + group["wpe"] + group["value_embeds"], group["matrices"]
    head = group["lm_head"] or group["wte"]  # GPT-2's is its embedding
    others = group["lm_head"] + group["scalars"]
    weights = (matrices + others) * weight_bytes + embeds * embed_bytes
    if matrix_optimizer == "muon":
        matrix_state = matrices + matrices / n_embd
        scratch = matrices / 3 * (2 * weight_bytes + 4 * compute_bytes)
    else:
        matrix_state = 2 * matrices
        scratch = 2 * 4 * max(group.values())
    values = B * T * n_embd
    if loss_piece is None:
        logits = B * T * vocab_size * (4 + compute_bytes)
    else:
        logits = min(loss_piece, B * T * vocab_size * compute_bytes) + values * compute_bytes + head * 4
    return Memory(
        weights=weights,
        weight_copies=(matrices + head) * compute_bytes if compute_bytes != weight_bytes else 0,
        gradients=weights,
        optimizer=matrix_state * weight_bytes + 2 * others * weight_bytes + 2 * embeds * embed_bytes,
        activations=((SAVED_COMPILED if compiled else SAVED_EAGER) * n_layer + 2) * values * compute_bytes,
        logits=logits,
        optimizer_scratch=scratch,
    )


def suggest_device_batch(free_bytes: float, rows: int, params: dict[str, int], *, slack: float = 0.1, **sizes) -> int:
    """The largest B that divides `rows`, the rows of one step on one device, and whose estimate fits in free_bytes.

    slack: the share of free_bytes left for what the estimate does not include. sizes: the other arguments of
    `memory_estimate`. A smaller B changes only the number of gradient accumulations, not the batch of a step.
    """
    _positive(free_bytes=free_bytes, rows=rows)
    usable = free_bytes * (1 - slack)
    for B in (b for b in range(rows, 0, -1) if rows % b == 0):
        need = memory_estimate(params, B=B, **sizes).total
        if need <= usable:
            return B
    raise UserError(
        f"one row of {sizes['T']} tokens needs about {need / 1e9:.1f} GB and {usable / 1e9:.1f} GB "
        f"({free_bytes / 1e9:.1f} GB less {slack:.0%}) are there; choose a smaller depth, or a device with more memory"
    )
