"""The optimizer on several ranks (processes on the CPU, gloo) against one: the same parameters, the same state, whatever does not divide."""

import functools

import pytest
import torch
import torch.distributed as dist

from gpt2course.model import GPT
from gpt2course.recipes import make_optimizer, resolve

STEPS, ROWS, T = 50, 8, 16
# 5 layers of width 24: stacks of 20 and 5 matrices and an odd vocabulary, so that neither 2 nor 4 ranks divide all of it evenly
EPS = ("eps", 1e-6)
SIZE = dict(depth=5, width=24, head_dim=12, sequence_len=T, vocab_size=301, batch_tokens=ROWS * T, steps=STEPS, short_window_tile=1, ve_gate_channels=6)


def build(recipe, dtype, ranks, **changes):
    plan = resolve(recipe, **(SIZE | changes))
    model = GPT(plan.model, compute_dtype=dtype).init_weights(3).to(dtype)
    return plan, model, make_optimizer(model, plan, ns_dtype=dtype, ranks=ranks)


def batches():
    """Text with something to learn: each token follows from the one before it, most of the time."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(301, (STEPS, ROWS, T + 1), generator=generator)
    for t in range(1, T + 1):
        follows = torch.rand(STEPS, ROWS, generator=generator) < 0.8
        rows[:, :, t] = torch.where(follows, (rows[:, :, t - 1] * 7 + 1) % 301, rows[:, :, t])
    return rows


def advance(plan, model, optimizer, steps, rank, world):
    """Some steps on this rank's rows of the global batches; returns the loss of each."""
    losses = []
    for step in steps:
        rows = batches()[step][rank::world]
        loss = model(rows[:, :-1].contiguous(), rows[:, 1:].contiguous()) / world
        loss.backward()
        total = loss.detach().clone()
        if world > 1:
            dist.all_reduce(total)
        losses.append(total.item())
        optimizer.step(plan.lr(step), plan.muon_momentum(step), plan.weight_decay(step))
        optimizer.zero_grad()
    return losses


def worker(rank, world, where, job):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{where}/rendezvous", rank=rank, world_size=world)
    found = job(rank, world)
    torch.save(found, f"{where}/{rank}.pt")  # a test's own file, read below with weights_only
    dist.destroy_process_group()


def on_ranks(world, where, job):
    """What job(rank, world) returns on each of `world` ranks."""
    where.mkdir()
    torch.multiprocessing.spawn(worker, (world, str(where), job), world)
    return [torch.load(where / f"{rank}.pt", weights_only=True) for rank in range(world)]


def whole_run(recipe, dtype, changes, rank, world):
    plan, model, optimizer = build(recipe, dtype, (rank, world), **changes)
    losses = advance(plan, model, optimizer, range(STEPS), rank, world)
    return {"losses": losses, "weights": dict(model.state_dict()), "state": optimizer.state_dict()}


@functools.cache
def alone(recipe, dtype, changes):
    return whole_run(recipe, dtype, dict(changes), 0, 1)


@pytest.mark.parametrize("recipe,changes", [("jan29", ()), ("record", (EPS,)), ("modern", (EPS, ("grad_clip", 0.05)))])
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_train_the_same_model(recipe, changes, world, tmp_path):
    """50 steps in float64: the losses agree with one process's to 1e-8, so do weights and state, and all ranks hold the same weights to the bit.

    With the recipe's eps of 1e-10 the weights of embeddings are left out: where a gradient cancels to 1e-17 of rounding, Adam divides that by
    eps, and weights that matter to no loss differ by up to 1e-5.
    """
    one = alone(recipe, torch.float64, changes)
    found = on_ranks(world, tmp_path / "run", functools.partial(whole_run, recipe, torch.float64, dict(changes)))
    assert one["losses"][-1] < 0.8 * one["losses"][0]  # it learns, so that there is something to agree on
    for rank in range(world):
        assert all(torch.equal(found[0]["weights"][k], found[rank]["weights"][k]) for k in one["weights"])
        assert found[rank]["losses"] == pytest.approx(one["losses"], abs=1e-8)
        assert rank == 0 or found[rank]["state"] == {}
    for kind in ("weights", "state"):
        assert found[0][kind].keys() == one[kind].keys()
        for name, tensor in one[kind].items():
            close = 1e-8 if EPS in changes else 1e-4
            torch.testing.assert_close(found[0][kind][name], tensor, atol=close, rtol=close)


def test_one_step_in_float32_agrees_to_rounding(tmp_path):
    plan, model, optimizer = build("jan29", torch.float32, (0, 1), eps=EPS[1])
    start = {k: v.clone() for k, v in model.state_dict().items()}
    advance(plan, model, optimizer, range(1), 0, 1)
    found = on_ranks(2, tmp_path / "run", one_step)[0]
    for name, tensor in model.state_dict().items():
        if name in ("resid_lambdas", "x0_lambdas"):
            continue  # at the start they only scale what a norm follows: their gradient is nothing but rounding, and so is their step
        moved = (tensor - start[name]).abs().max().item()
        torch.testing.assert_close(found[name], tensor, atol=1e-4 * moved + 1e-7, rtol=1e-6)


def one_step(rank, world):
    plan, model, optimizer = build("jan29", torch.float32, (rank, world), eps=EPS[1])
    advance(plan, model, optimizer, range(1), rank, world)
    return dict(model.state_dict())


def second_half(weights, state, rank, world):
    plan, model, optimizer = build("record", torch.float64, (rank, world), eps=EPS[1])
    model.load_state_dict(weights)
    optimizer.load_state_dict(state)
    advance(plan, model, optimizer, range(STEPS // 2, STEPS), rank, world)
    return {"weights": dict(model.state_dict()), "state": optimizer.state_dict()}


def first_half(rank, world):
    plan, model, optimizer = build("record", torch.float64, (rank, world), eps=EPS[1])
    advance(plan, model, optimizer, range(STEPS // 2), rank, world)
    return {"weights": dict(model.state_dict()), "state": optimizer.state_dict()}


def test_saved_on_two_ranks_resumed_on_one_and_on_four(tmp_path):
    half = on_ranks(2, tmp_path / "half", first_half)[0]
    one = alone("record", torch.float64, (EPS,))
    four = on_ranks(4, tmp_path / "rest", functools.partial(second_half, half["weights"], half["state"]))[0]
    for found in (second_half(half["weights"], half["state"], 0, 1), four):
        for kind in ("weights", "state"):
            for name, tensor in one[kind].items():
                torch.testing.assert_close(found[kind][name], tensor, atol=1e-8, rtol=1e-8)


def test_a_state_of_another_model_is_refused():
    _, _, optimizer = build("jan29", torch.float32, (0, 1))
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match="momentum.blocks.0.attn.c_q.weight"):
        optimizer.load_state_dict({k: v for k, v in state.items() if k != "momentum.blocks.0.attn.c_q.weight"})
