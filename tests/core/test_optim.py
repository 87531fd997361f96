"""The optimizer against torch's AdamW and against the Muon update written again in float64, a matrix and a number at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course.optim import POLAR_EXPRESS, Group, MuonAdamW, adamw_update, polar_express
from gpt2course.recipes import LADDER, make_model, make_optimizer, resolve


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_optimizer_computes_adamw_update_and_that_is_torchs(dtype):
    """What the lesson shows is what the optimizer does, up to the rounding of the dtype; odd lengths, and a parameter of one number."""
    for shape in ((7, 5), (1,), (1, 1031)):
        theirs = torch.nn.Parameter(random(*shape).to(dtype))
        reference = torch.optim.AdamW([theirs], lr=0.03, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.1)
        p, m, v = random(*shape).to(dtype), torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
        ours = torch.nn.Parameter(p.clone())
        optimizer = MuonAdamW([Group("g", "adamw", {"p": ours}, lr=0.03, weight_decay=0.1, beta1=0.8, beta2=0.95, eps=1e-10)])
        for step in range(1, 12):
            ours.grad = (random(*shape, seed=step) * 3.0 ** (step % 5 - 2)).to(dtype)
            adamw_update(p, ours.grad, m, v, float(step), 0.03 / step, 0.8, 0.95, 1e-10, 0.1)
            optimizer.step(lr=1 / step)
            theirs.grad, reference.param_groups[0]["lr"] = ours.grad.clone(), 0.03 / step
            reference.step()
        close = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.06}[dtype]
        torch.testing.assert_close(ours.data, p, atol=close, rtol=close)
        torch.testing.assert_close(ours, theirs, atol=close, rtol=close)
        torch.testing.assert_close(optimizer.parts[0].state["v"], v, atol=close, rtol=close)


def test_stacks_on_a_gpu_and_single_matrices_on_a_cpu_make_the_same_step(monkeypatch):
    """The whole optimizer both ways, also after its state went from one to the other."""
    plan = resolve("record", depth=3, width=32, head_dim=16, sequence_len=32, vocab_size=300, batch_tokens=64, steps=10, ve_gate_channels=8, short_window_tile=1)
    ends = []
    for order in ((False, False), (True, True), (True, False), (False, True)):
        model, state = make_model(plan).init_weights(1), None
        for step, stacked in enumerate(order):
            monkeypatch.setattr("gpt2course.optim.stacks", lambda device, stacked=stacked: stacked)
            optimizer = make_optimizer(model, plan)
            assert any(len(part.names) > 1 for part in optimizer.parts) == stacked
            if state:
                optimizer.load_state_dict(state)
            for i, p in enumerate(model.parameters()):
                p.grad = random(*p.shape, seed=100 * step + i)
            optimizer.step(1.0, 0.9, 1.0)
            state = {name: tensor.clone() for name, tensor in optimizer.state_dict().items()}
        ends.append({"model." + n: p.detach() for n, p in model.named_parameters()} | state)
    for end in ends[1:]:
        for name, tensor in end.items():
            torch.testing.assert_close(tensor, ends[0][name], atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("recipe", ["gpt2", "muon"])
@pytest.mark.parametrize("size", [0.01, 100.0])
def test_long_gradients_are_scaled_down_together(recipe, size):
    """With grad_clip the step equals that of gradients scaled to this common norm. Shorter gradients, or grad_clip 0, change nothing."""
    changes = {} if recipe == "gpt2" else {"grad_clip": 0.0}
    plan = resolve(recipe, depth=1, width=32, head_dim=16, sequence_len=16, vocab_size=300, batch_tokens=64, steps=5, **changes)
    assert resolve(recipe, depth=1, steps=5).recipe.grad_clip == (1.0 if recipe == "gpt2" else 0.0)

    def stepped(clip, shrink):
        model = make_model(plan).init_weights(1)
        optimizer = make_optimizer(model, plan)
        optimizer.grad_clip = plan.recipe.grad_clip if clip is None else clip
        for i, p in enumerate(model.parameters()):
            p.grad = random(*p.shape, seed=i) * size
        if shrink:
            norm = sum(p.grad.double().square().sum() for p in model.parameters()).sqrt()
            for p in model.parameters():
                p.grad *= min(1.0, 1.0 / norm.item())
        optimizer.step()
        return [part.state["m"] for part in optimizer.parts if part.group.kind == "adamw"]  # the step itself hardly depends on the size of a first gradient

    for got, wanted in zip(stepped(None, False), stepped(0.0, recipe == "gpt2")):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-9)


def muon_in_float64(p, grads, *, lr, momenta, decays, beta2, safety, row_norm, renorm):
    """The same steps as one reads them in the papers, on one matrix, with numpy."""
    p = p.double().numpy().copy()
    m, n = p.shape
    buffer, second = np.zeros((m, n)), np.zeros(max(m, n))
    for grad, momentum, decay in zip(grads, momenta, decays):
        g = grad.double().numpy()
        buffer = momentum * buffer + (1 - momentum) * g
        x = (1 - momentum) * g + momentum * buffer  # Nesterov: look ahead once more
        if row_norm:
            norms = np.sqrt((x**2).sum(axis=1))
            x = x / norms[:, None] * np.sqrt((x**2).sum() / m)
        x = x / (np.sqrt((x**2).sum()) * safety + 1e-6)
        for a, b, c in POLAR_EXPRESS:
            gram = x @ x.T
            x = a * x + b * gram @ x + c * gram @ gram @ x
        if renorm:
            x = x * np.sqrt(min(m, n)) / np.sqrt((x**2).sum())
        square = (x**2).mean(axis=1) if m >= n else (x**2).mean(axis=0)
        second = beta2 * second + (1 - beta2) * square
        scaled = x / np.sqrt(second)[:, None] if m >= n else x / np.sqrt(second)[None, :]
        x = scaled * np.sqrt((x**2).sum() / (scaled**2).sum())
        rate = lr * np.sqrt(max(1, m / n))
        cautious = (x * p >= 0).astype(float)
        p = p - rate * x - rate * decay * p * cautious
    return torch.from_numpy(p)


@pytest.mark.parametrize("shape", [(6, 6), (12, 5), (5, 12)])
@pytest.mark.parametrize("row_norm,renorm,safety,beta2", [(False, False, 1.02, 0.95), (True, True, 1.01, 0.9)])
def test_muon_equals_the_papers_in_float64(shape, row_norm, renorm, safety, beta2):
    params = {f"p{i}": torch.nn.Parameter(random(*shape, seed=i).double()) for i in range(3)}
    start = {k: p.detach().clone() for k, p in params.items()}
    group = Group("m", "muon", params, lr=0.02, weight_decay=0.3, beta2=beta2, safety=safety, row_norm=row_norm, renorm=renorm)
    optimizer = MuonAdamW([group], ns_dtype=torch.float64)
    momenta, factors = [0.85 + 0.01 * t for t in range(8)], [1 - t / 8 for t in range(8)]
    grads = {k: [random(*shape, seed=100 * t + j).double() for t in range(8)] for j, k in enumerate(params)}
    for t in range(8):
        for k, p in params.items():
            p.grad = grads[k][t].clone()
        optimizer.step(lr=1.0, momentum=momenta[t], weight_decay=factors[t])
    for k, p in params.items():
        want = muon_in_float64(start[k], grads[k], lr=0.02, momenta=momenta, decays=[0.3 * f for f in factors], beta2=beta2,
                               safety=safety, row_norm=row_norm, renorm=renorm)  # fmt: skip
        # the package measures norms in float32 even here
        torch.testing.assert_close(p.detach(), want, atol=2e-6, rtol=1e-5)
        assert (p.detach() - start[k]).abs().max() > 0.01


BAND = 0.14113  # arXiv 2505.16932, theorem 4.1: singular values from [l, 1] end in [1 - e, 1 + e], here l = 0.001 and five iterations


def test_polar_express_is_the_papers_minimax_polynomial():
    """Each iteration maps the interval of the singular values, at first [0.001, 1], onto one that reaches as far below 1 as
    above: that is what optimality means there (equioscillation). The last interval is the band."""
    x = np.linspace(1e-3, 1, 200_001)
    for i, (a, b, c) in enumerate(POLAR_EXPRESS):
        x = a * x + b * x**3 + c * x**5
        # the first four were made a little flatter by the authors, so that the smallest singular value cannot lag behind
        assert 1 - x.min() == pytest.approx(x.max() - 1, abs=0.01 if i < 4 else 1e-6)
    assert x.max() - 1 == pytest.approx(BAND, abs=1e-5)


@pytest.mark.parametrize("shape", [(64, 64), (96, 32), (32, 96)])
@pytest.mark.parametrize("dtype,slack", [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_polar_express_lifts_singular_values_into_the_band(shape, dtype, slack):
    """Whatever the spectrum, as long as no singular value is below a thousandth of the Frobenius norm; the vectors stay."""
    m, n = shape
    k = min(shape)
    u, v = (torch.linalg.qr(random(size, k, seed=i).double())[0] for i, size in enumerate((m, n)))
    for s in (torch.ones(k), torch.logspace(0, -2, k), torch.linspace(1, 0.01, k), torch.tensor([1.0] + [0.002] * (k - 1))):
        assert s.min() / s.norm() / 1.02 > 1e-3
        x = polar_express(((u * s.double()) @ v.T * 7).to(dtype)).double()
        inside = u.T @ x @ v
        values = inside.diag()
        assert (torch.linalg.svdvals(x) - 1).abs().max() < BAND + slack
        if dtype == torch.bfloat16:  # its rounding alone mixes the small singular vectors
            continue
        assert torch.allclose(inside, torch.diag(values), atol=slack + 1e-6) and torch.allclose(u @ inside @ v.T, x, atol=slack + 1e-6)


@pytest.mark.parametrize("recipe", list(LADDER))
def test_every_parameter_is_in_exactly_one_group(recipe):
    plan = resolve(recipe, depth=4, width=64, head_dim=16, sequence_len=32, vocab_size=512, batch_tokens=320, steps=10)
    model = make_model(plan).init_weights()
    optimizer = make_optimizer(model, plan)
    seen = [name for group in optimizer.groups for name in group.params]
    assert sorted(seen) == sorted(name for name, _ in model.named_parameters())
    muon = {name for group in optimizer.groups if group.kind == "muon" for name in group.params}
    matrices = {name for name, p in model.named_parameters() if name.startswith("blocks.")}
    assert muon == (set() if recipe in ("gpt2", "modern") else matrices)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 7), st.sampled_from([(4, 4), (6, 3), (3, 6)]), st.integers(1, 3000), st.integers(0, 9))
def test_any_number_of_ranks_shares_a_state(world, K, shape, numel, seed):
    """Every rank loads its rows of one whole state. All ranks together have the whole state, each row once, and zeros as padding."""
    groups = lambda: [  # noqa: E731
        Group("m", "muon", {f"m{i}": torch.nn.Parameter(torch.zeros(shape)) for i in range(K)}, lr=0.1),
        Group("a", "adamw", {"a": torch.nn.Parameter(torch.zeros(numel, 2))}, lr=0.1),
    ]
    whole = {name: torch.randn_like(tensor.float()) + 3 for name, tensor in MuonAdamW(groups()).state_dict().items()} | {"steps": torch.tensor(seed)}
    ranks = [MuonAdamW(groups(), ranks=(r, world)) for r in range(world)]
    for optimizer in ranks:
        optimizer.load_state_dict(whole.keys(), whole.__getitem__)
        assert optimizer.steps == seed
    for parts in zip(*(optimizer.parts for optimizer in ranks)):
        for kind in parts[0].state:
            rows = torch.cat([part.state[kind] for part in parts]) if parts[0].divided else parts[-1].state[kind]
            for name, tensor in zip(parts[0].names, parts[0].split(rows), strict=True):
                assert torch.equal(tensor, whole[f"{kind}.{name}"])
            used = sum(whole[f"{kind}.{name}"].numel() for name in parts[0].names)
            assert rows.numel() >= used and not rows.flatten()[used:].any()
