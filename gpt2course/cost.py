"""What a run costs: FLOPs, hours, dollars and memory, before it is started. Lessons 00, 04, 12.

Three lines of arithmetic carry the whole file:

    hours   = FLOPs / (devices * peak FLOP/s * MFU * 3600)
    dollars = hours * price of an hour
    memory  = weights + gradients + optimizer state + what the forward pass keeps for the backward pass

Prices change by the week, so a price is always an argument and never stands in the code.
"""

import re
from dataclasses import dataclass

from gpt2course.files import UserError, command

# Peak dense bfloat16 FLOP/s of the matrix units, accumulating in float32, one entry a device: the words that must all
# stand in the device's name, the peak, the source. The first entry that fits counts, so narrow names stand first.
# Data sheets often print the figure for 2:4 sparse matrices, which is twice the dense one given here.
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


def chip(device_name: str) -> tuple[str, float, str] | None:
    """The entry of PEAKS that a device's name fits, None where there is none (every CPU).

    Whole words are compared, so "NVIDIA A10" is not an A100; versions with another peak under the same name are
    unknown.
    """
    words = set(re.findall(r"[a-z0-9]+", device_name.lower()))
    if words & OTHER_CHIPS:
        return None
    return next((entry for entry in PEAKS if set(entry[0].split()) <= words), None)


def peak_flops(device_name: str) -> float | None:
    """Peak dense bfloat16 FLOP/s of one device by the name its driver gives, None where it is unknown."""
    found = chip(device_name)
    return None if found is None else found[1]


def _positive(**values) -> None:
    for name, value in values.items():
        if not value > 0:
            raise UserError(f"{name} = {value!r} is not allowed; it must be greater than 0")


def mfu(flops_per_token: float, tokens_per_second: float, n_devices: int, peak: float | None) -> float | None:
    """Model FLOPs utilisation (PaLM, arXiv 2204.02311): the share of the peak that the model's own arithmetic uses.

    flops_per_token: training FLOPs, forward and backward; tokens_per_second over all devices; peak: FLOP/s of one
    device. None where the peak is unknown. Recomputed activations do not count as useful, so this is not hardware
    utilisation.
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
    """What `hours` cost at the price of one hour of the whole machine (devices times the price of one)."""
    if hours < 0 or price_per_hour < 0:
        raise UserError(f"hours = {hours!r} and price_per_hour = {price_per_hour!r}: neither may be negative")
    return hours * price_per_hour


# Tensors of (B, T, C) that one layer keeps for the backward pass. Counted by hand in model.py, and by autograd's own
# hooks in the tests: the residual, the inputs and outputs of the two norms (4), q and k before the QK-norm (2), q, k
# and v after it (3), the attention output (1), 4C values before and after the squaring (8), a value embedding on half
# of the layers.
SAVED_EAGER = 19.5
# torch.compile recomputes cheap ones instead of keeping them. This number is fitted to two published measurements,
# 34 GB for depth 12 with 32 rows (nanochat, dev/LOG.md, 12 January 2026) and 45.1 GB for depth 8 with 128 rows
# (karpathy/autoresearch).
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
    optimizer_scratch: float  # temporaries of the largest stack in Muon's step, when activations and logits are gone

    @property
    def total(self) -> float:
        """The peak: either the end of the forward pass or the optimizer step, whichever needs more."""
        lasting = self.weights + self.gradients + self.optimizer
        return lasting + max(self.weight_copies + self.activations + self.logits, self.optimizer_scratch)


def memory_estimate(
    params: dict[str, int], *, B: int, T: int, n_layer: int, n_embd: int, vocab_size: int,
    matrix_optimizer: str = "muon", weight_bytes: int = 4, embed_bytes: int = 2, compute_bytes: int = 2,
    loss_piece: int | None = 512 << 20, compiled: bool = False,
) -> Memory:  # fmt: skip
    """An estimate of the memory of one training step on one device, without sharding, from plain numbers.

    params: parameters by group, as `GPT.num_params` gives them (wte, wpe, value_embeds, lm_head, matrices, scalars;
    others are ignored). B rows of T tokens at a time. Bytes of a value: weight_bytes for matrices, head and scalars,
    embed_bytes for wte and value embeddings, compute_bytes for activations. loss_piece: bytes of logits that exist at a
    time (losses.PIECE_BYTES), None for all of them. compiled: with torch.compile, which keeps fewer activations.

        weights        each parameter once
        weight copies  matrices and head once more in the compute dtype, if that is not theirs
        gradients      as the weights
        optimizer      two moments for AdamW; for Muon one momentum and one second moment for each row or column
        activations    (19.5 a layer, 15 compiled, and 2) * B * T * C values
        logits         a piece in the compute dtype; the gradients by the hidden states and by the head. Without pieces:
                       B * T * V values in float32 and in the compute dtype

    The optimizer step itself needs scratch for its largest stack, a third of the matrices, about six times over.
    Attention masks, the allocator's slack (10 % is common), the buffers of communication, and on GPUs without Triton up
    to 0.4 GB of scratch for the loss are not in it.
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

    slack: the share of free_bytes kept for what the estimate leaves out. sizes: the other arguments of
    `memory_estimate`. Smaller B only means more accumulation of gradients: the batch of the step, and so its loss,
    stays the same.
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


@dataclass
class Cost:
    """Hours and dollars of a training run.

    The 3.04-hour run of nanochat, at 3 dollars for an hour of one GPU:

    python -m gpt2course.cost --flops 4.330784e19 --gpus 8 --gpu H100 --mfu 0.5 --price 3

    `python -m gpt2course.recipes jan29 --depth 24` prints the FLOPs of any run as "flops".
    """

    flops: float  # training FLOPs of the whole run
    gpus: int = 8  # number of devices
    gpu: str | None = None  # name of the device, for example H100, "H100 PCIe", A100, "RTX 4090"; or give --peak
    # peak FLOP/s of one device in the dtype of training, for example 989e12; goes before --gpu
    peak: float | None = None
    mfu: float = 0.5  # share of the peak that the run reaches; 0.5 is what Run 1 of nanochat measured on 8 H100
    price: float | None = None  # dollars for one hour of ONE device; without it only the hours are printed
    overhead_hours: float = 0.0  # paid hours besides training: set-up, download, tokenizer, compilation, evaluation


def main(args: Cost) -> None:
    peak = args.peak
    if peak is None:
        if args.gpu is None:
            raise UserError("neither --gpu nor --peak is given; give one, for example --gpu H100 or --peak 989e12")
        peak = peak_flops(args.gpu)
        if peak is None:
            known = ", ".join(name.upper() for name, _, _ in PEAKS)
            raise UserError(
                f"the peak of gpu {args.gpu!r} is unknown; known are {known}; or give --peak, such as --peak 989e12"
            )
    if args.overhead_hours < 0:
        raise UserError(f"overhead_hours = {args.overhead_hours!r} is not allowed; it must not be negative")
    train = hours(args.flops, args.gpus, peak, args.mfu)
    print(f"{args.flops:.4g} FLOPs on {args.gpus} x {peak / 1e12:g} TFLOP/s at {args.mfu:.1%} MFU")
    limit = f"at 100 % MFU, the limit of the hardware, {train * args.mfu:.2f} h"
    print(f"training   {train:.2f} h ({train * 3600:,.0f} s); {limit}")
    paid = train + args.overhead_hours
    if args.overhead_hours:
        print(f"paid       {paid:.2f} h, with {args.overhead_hours:g} h of overhead")
    if args.price is None:
        print("dollars    give --price, the dollars for one hour of one device")
    else:
        price = args.gpus * args.price
        print(f"dollars    {dollars(paid, price):,.2f} at {price:g} an hour for the machine")


if __name__ == "__main__":
    command(main)
