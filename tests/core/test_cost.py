"""The arithmetic of cost against published runs, and the memory estimate against what autograd really keeps."""

import inspect
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._functorch import config as partitioner

from gpt2course.cost import (
    PEAKS,
    SLACK,
    dollars,
    hours,
    memory_estimate,
    mfu,
    must_recompute,
    peak_flops,
    step_sizes,
    suggest_device_batch,
)
from gpt2course.files import UserError
from gpt2course.model import GPT
from gpt2course.recipes import make_optimizer, resolve

H100 = 989e12
RUN1_FLOPS, RUN1_SECONDS = 4.330784e19, 10949.47  # karpathy/nanochat, dev/LEADERBOARD.md


def test_run_1_used_half_of_the_peak():
    tokens = 16704 * 524288
    used = mfu(RUN1_FLOPS / tokens, tokens / RUN1_SECONDS, 8, H100)
    assert round(100 * used, 1) == 50.0
    assert hours(RUN1_FLOPS, 8, H100, used) * 3600 == pytest.approx(RUN1_SECONDS)
    assert round(hours(RUN1_FLOPS, 8, H100, 1.0), 2) == 1.52  # the limit of the hardware


@given(st.floats(1e15, 1e24), st.integers(1, 4096), st.floats(1e12, 1e16), st.floats(0.01, 1.0))
def test_hours_and_mfu_undo_each_other(flops, n, peak, used):
    seconds = 3600 * hours(flops, n, peak, used)
    assert mfu(1.0, flops / seconds, n, peak) == pytest.approx(used)


@pytest.mark.parametrize("name, tflops", [
    ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H100 NVL", 835.5), ("H100", 989), ("h100 sxm", 989),
    ("NVIDIA H200", 989), ("NVIDIA H200 NVL", 835.5), ("NVIDIA GH200 480GB", 989), ("NVIDIA B200", 2250), ("NVIDIA GB200", 2500),
    ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA A100-PCIE-40GB", 312), ("NVIDIA A10", 125), ("NVIDIA L40S", 362), ("NVIDIA L4", 121),
    ("NVIDIA GeForce RTX 4090", 165.2), ("NVIDIA GeForce RTX 3090", 71), ("NVIDIA GeForce RTX 5090", 209.5),
    ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 503.8), ("AMD Instinct MI300X", 1307.4),
])  # fmt: skip
def test_peaks_of_devices_by_the_names_drivers_give(name, tflops):
    assert peak_flops(name) == tflops * 1e12


@pytest.mark.parametrize("name", [
    "", "cpu", "x86_64", "AMD EPYC 9654 96-Core Processor", "Intel(R) Xeon(R) Platinum 8480C", "Apple M1 Max", "mps",
    "NVIDIA A1000", "NVIDIA A10G", "NVIDIA L40", "Tesla V100-SXM2-16GB", "Tesla T4", "NVIDIA H20", "NVIDIA H800",
    "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 3090 Ti", "4090",
    "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
    "NVIDIA RTX 6000 Ada Generation",
])  # fmt: skip
def test_an_unknown_peak_is_none_never_a_guess(name):
    assert peak_flops(name) is None
    assert mfu(1e9, 1e6, 1, peak_flops(name)) is None


def test_every_peak_is_reached_by_its_own_name_and_has_a_source():
    for name, peak, source in PEAKS:
        assert peak_flops(name.upper()) == peak
        assert source.startswith(("NVIDIA ", "AMD "))
        assert 5e13 < peak < 1e16


def test_bad_numbers_are_refused():
    for bad in (dict(n=0), dict(peak=0), dict(mfu=0), dict(mfu=1.01), dict(mfu=50), dict(total_flops=-1), dict(peak=math.nan)):
        with pytest.raises(UserError, match=next(iter(bad))):
            hours(**(dict(total_flops=1e18, n=8, peak=H100, mfu=0.5) | bad))
    with pytest.raises(UserError, match="negative"):
        dollars(-1, 24)


# ---- memory


def small(depth, **changes):
    sizes = dict(width=128, head_dim=64, sequence_len=128, vocab_size=512, batch_tokens=512, steps=1)
    plan = resolve("jan29", depth=depth, **(sizes | changes))
    return plan, GPT(plan.model).init_weights()


def sizes_of(plan):
    return dict(T=plan.model.sequence_len, n_layer=plan.model.n_layer, n_embd=plan.model.n_embd, vocab_size=plan.model.vocab_size)


@pytest.mark.parametrize("depth, B", [(2, 8), (4, 4), (4, 16), (6, 8)])
def test_activations_agree_with_what_autograd_keeps(depth, B):
    plan, model = small(depth)
    kept, weights = {}, {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(t):
        storage = t.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        hidden = model.hidden(torch.randint(0, 512, (B, plan.model.sequence_len)))  # `hidden` keeps the graph alive
    estimate = memory_estimate(plan.params, B=B, compute_bytes=4, embed_bytes=4, **sizes_of(plan)).activations
    assert sum(kept.values()) == pytest.approx(estimate, rel=0.07), hidden.shape


@pytest.mark.parametrize("recipe, kind", [("jan29", "muon"), ("modern", "adamw")])
def test_weights_gradients_and_optimizer_state_agree_with_the_tensors(recipe, kind):
    plan = resolve(recipe, depth=4, width=128, head_dim=64, sequence_len=64, vocab_size=512, batch_tokens=512, steps=1)
    model = GPT(plan.model, embed_dtype=torch.bfloat16).init_weights()
    model(torch.zeros(1, 8, dtype=torch.long), torch.zeros(1, 8, dtype=torch.long)).backward()
    optimizer = make_optimizer(model, plan)
    size = lambda tensors: sum(t.nbytes for t in tensors)  # noqa: E731
    m = memory_estimate(plan.params, B=1, matrix_optimizer=kind, **sizes_of(plan))
    assert m.weights == size(model.parameters())
    assert m.gradients == size(p.grad for p in model.parameters())
    state = size(t for name, t in optimizer.state_dict().items() if name != "steps")
    assert m.optimizer == pytest.approx(state, rel=1e-3)
    assert (m.optimizer == state) == (kind == "adamw")  # Muon's gates are the only matrices with another second moment


def test_published_measurements():
    """34 GB at depth 12 with 32 rows (nanochat, dev/LOG.md), 45.1 GB at depth 8 with 128 rows (autoresearch), both of models a
    little different from ours and in units that may be 2^30; 16 rows fit at depth 24 on 80 GB and 32 do not (dev/LEADERBOARD.md)."""
    for plan, B, measured in ((resolve("jan29", depth=12), 32, 34e9), (resolve("jan29", depth=8, vocab_size=8192), 128, 45.1e9)):
        estimate = memory_estimate(plan.params, B=B, loss_piece=None, compiled=True, **sizes_of(plan))
        assert estimate.total == pytest.approx(measured, rel=0.12)
    d24 = resolve("jan29", depth=24)
    for piece in (None, 512 << 20):
        assert suggest_device_batch(80e9, 32, d24.params, loss_piece=piece, compiled=True, **sizes_of(d24)) == 16


def test_the_recorded_rehearsals():
    """Every rehearsal in results/: the estimate is within 3 % of the peak, and a suggested batch leaves 5 % of the card free."""
    file = Path(__file__).parents[2] / "results/2026-11-29_rehearsal/points.jsonl"
    points = [json.loads(line) for line in file.read_text().splitlines()]
    assert {p["depth"] for p in points} == {4, 6, 8, 12, 16, 20, 24, 28} and len(points) == 120
    for p in points:
        plan = resolve(p["recipe"], depth=p["depth"])
        how = {name: p[name] for name in ("compiled", "fp8", "world", "pieces")} | sizes_of(plan)
        how["recompute"] = p.get("recompute", False)
        peak = p["peak_bytes"]
        off = memory_estimate(plan.params, B=p["B"], **how).total / peak - 1
        assert abs(off) < 0.03, p
        for card in (peak / 0.96, peak / 0.88):
            try:
                suggested = suggest_device_batch(card, p["B"], plan.params, **how)
            except UserError:
                suggested = 0
            assert suggested < p["B"] or peak <= 0.95 * card


def test_a_step_recomputes_only_where_it_must():
    """Depth 24 on eight H100: 16 rows fit as they are, 32 do not, and do with recomputation, in bfloat16 and (record) in fp8."""
    for recipe, fp8, B, wanted in (("jan29", False, 16, False), ("record", True, 16, False), ("jan29", False, 32, True), ("record", True, 32, True)):
        plan = resolve(recipe, depth=24)
        sizes = step_sizes(plan, B=B, world=8, fp8=fp8)
        assert must_recompute(84.9e9, plan, **sizes) == wanted
        assert SLACK * memory_estimate(plan.params, **sizes, recompute=wanted).total < 84.9e9
        assert not must_recompute(1e9, plan, **(sizes | {"compiled": False}))  # only torch.compile can


def test_recomputation_keeps_less_and_changes_no_number():
    """torch.compile's partition of the training step, without its code generator: the same operations, some of them twice."""
    plan = resolve("record", depth=4, width=64, head_dim=16, sequence_len=64, vocab_size=512, batch_tokens=512, steps=1)
    found = {}
    for budget in (1.0, 0.9):
        torch._dynamo.reset()
        model = GPT(plan.model).init_weights(0)
        for p in model.parameters():
            torch.nn.init.normal_(p, 0, 0.1, generator=torch.Generator().manual_seed(p.numel()))
        forward, kept = torch.compile(model, backend="aot_eager_decomp_partition", dynamic=False), {}
        idx = torch.arange(256).reshape(4, 64)
        pack = lambda t: kept.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t  # noqa: B023, E731
        with partitioner.patch(activation_memory_budget=budget), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = forward(idx, idx + 1)
            loss.backward()
        found[budget] = [loss.detach(), *(p.grad for p in model.parameters())], sum(kept.values())
    for a, b in zip(found[1.0][0], found[0.9][0]):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    assert found[0.9][1] < 0.75 * found[1.0][1]


def test_the_optimizer_step_is_the_peak_where_activations_are_few():
    plan = resolve("jan29", depth=24)
    m = memory_estimate(plan.params, B=1, **(sizes_of(plan) | dict(T=2)))
    assert m.total == m.weights + m.gradients + m.optimizer + m.optimizer_scratch


@given(st.integers(0, 6), st.floats(1e9, 4e11))
def test_suggested_batch_divides_fits_and_is_the_largest(power, free):
    rows, params = 3 * 2**power, D12
    size = lambda B: memory_estimate(params.params, B=B, **sizes_of(params)).total  # noqa: E731
    fits = [b for b in range(1, rows + 1) if rows % b == 0 and size(b) <= 0.9 * free]
    if fits:
        assert suggest_device_batch(free, rows, params.params, **sizes_of(params)) == max(fits)
    else:
        with pytest.raises(UserError, match="smaller depth"):
            suggest_device_batch(free, rows, params.params, **sizes_of(params))


D12 = resolve("jan29", depth=12)


def test_a_piece_of_logits_is_what_the_loss_makes():
    """losses.py decides the size of a piece, cost.py counts it."""
    from gpt2course.losses import PIECE_BYTES

    assert inspect.signature(memory_estimate).parameters["loss_piece"].default == PIECE_BYTES["cuda"]
    few = memory_estimate({}, B=1, T=64, n_layer=1, n_embd=64, vocab_size=512)
    assert few.logits == 64 * 512 * 2 + 2 * 64 * 64 * 2  # less than a piece
    plan = resolve("jan29", depth=24)
    run_1 = memory_estimate(plan.params, B=16, **sizes_of(plan))
    assert run_1.logits == 512 * 2**20 + 2 * (16 * 2048 * 1536 * 2) + 50_331_648 * 8 and run_1.weight_copies == 2 * 679_481_856


def test_logits_without_pieces_cost_what_they_weigh():
    m = memory_estimate({}, B=32, T=2048, n_layer=1, n_embd=64, vocab_size=32768, loss_piece=None)
    assert m.logits == 32 * 2048 * 32768 * 6  # 12.9 GB
    few = memory_estimate({}, B=32, T=2048, n_layer=1, n_embd=64, vocab_size=32768, loss_piece=None, compiled=True)
    assert few.logits == m.logits / 3  # torch.compile fuses what is in float32
