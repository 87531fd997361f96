"""Several ranks (processes on the CPU, gloo) against one: the same parameters and state, the same batches, one log, and no hang."""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist

from gpt2course import ranks
from gpt2course.files import UserError
from gpt2course.model import GPT
from gpt2course.recipes import make_optimizer, resolve
from gpt2course.train import Train, main, read_metrics

STEPS, ROWS, T = 50, 8, 16
# 5 layers of width 24: stacks of 20 and 5 matrices and an odd vocabulary, so that neither 2 nor 4 ranks divide all of it evenly
EPS = ("eps", 1e-6)
SIZE = dict(depth=5, width=24, head_dim=12, sequence_len=T, vocab_size=301, batch_tokens=ROWS * T, steps=STEPS, short_window_tile=1, ve_gate_channels=6)


def build(recipe, dtype, pair, **changes):
    plan = resolve(recipe, **(SIZE | changes))
    model = GPT(plan.model, compute_dtype=dtype).init_weights(3).to(dtype)
    return plan, model, make_optimizer(model, plan, ns_dtype=dtype, ranks=pair)


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


# ---- the training command under torchrun


SETTINGS = ("depth=2", "width=32", "head_dim=16", "sequence_len=32", "vocab_size=280", "batch_tokens=256", "steps=24", "ve_gate_channels=8", "eps=1e-6")


def torchrun(world, home, corpus, *more, wait=True, name="run"):
    """`python -m gpt2course.train` on `world` ranks, or without torchrun on one."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}", "-m"] if world > 1 else [sys.executable, "-m"]
    command = [*launch, "gpt2course.train", "jan29", "--name", name, "--corpus", str(corpus), "--device", "cpu", *(() if "--set" in more else ("--set", *SETTINGS)), "--log-seconds", "0", "--eval-every", "8", *more]
    environment = os.environ | {"GPT2COURSE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    if not wait:
        return process
    out, _ = process.communicate(timeout=300)
    return process.returncode, out


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "toy.jsonl"
    words = ["tree", "stone", "river", "cloud", "bird"]
    path.write_text("".join(json.dumps({"text": " ".join(words[(i * k) % 5] for k in range(1, 8 + i % 30))}) + "\n" for i in range(400)))
    return path


def losses(home, name="run"):
    return {m["step"]: m["loss"] for m in read_metrics(home / "runs" / name) if m["kind"] == "train"}


@pytest.mark.slow
def test_torchrun_trains_what_one_process_trains(tmp_path, corpus):
    """The first losses agree to rounding (float32), so the batches are the same; evaluation, checkpoint and log are one; what two ranks saved, one and four go on with."""
    code, out = torchrun(1, tmp_path, corpus, name="one")
    assert code == 0, out
    code, out = torchrun(2, tmp_path, corpus, "--stop-after", "12", name="two")
    assert code == 0 and out.count("stopped at step 12 by stop_after 12") == 1 and "on each of 2 ranks" in out, out
    one, two = losses(tmp_path, "one"), losses(tmp_path, "two")
    assert set(two) == set(range(1, 13)) and [two[s] for s in (1, 2, 3)] == pytest.approx([one[s] for s in (1, 2, 3)], rel=1e-4)
    for world in (1, 4):
        shutil.copytree(tmp_path / "runs" / "two", tmp_path / "runs" / f"from{world}")
        code, out = torchrun(world, tmp_path, corpus, name=f"from{world}")
        assert code == 0 and "resumed from step_00000012" in out, out
        rest = losses(tmp_path, f"from{world}")
        assert set(rest) == set(range(1, 25)) and {s: rest[s] for s in two} == two
    resumed = losses(tmp_path, "from1"), losses(tmp_path, "from4")
    assert resumed[0][13] == pytest.approx(resumed[1][13], rel=1e-4)
    ends = [[m for m in read_metrics(tmp_path / "runs" / n) if m["kind"] in ("eval", "done")][-2:] for n in ("one", "from1", "from4")]
    assert len({e[0]["val_bytes"] for e in ends}) == 1 and len({e[1]["epochs"] for e in ends}) == 1
    assert max(e[0]["val_bpb"] for e in ends) - min(e[0]["val_bpb"] for e in ends) < 0.1  # rounding grows; the spread of seeds is larger


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_run_soon(tmp_path, corpus):
    """kill -9 of one rank: the whole job ends within a minute, and the same command goes on."""
    process = torchrun(2, tmp_path, corpus, "--save-every", "5", wait=False)
    began = time.time()
    while not list((tmp_path / "runs" / "run" / "checkpoints").glob("step_*")) and time.time() - began < 120 and process.poll() is None:
        time.sleep(0.05)
    workers = [int(p) for p in subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()]
    assert len(workers) == 2
    os.kill(max(workers), signal.SIGKILL)
    killed = time.time()
    out, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and time.time() - killed < 60
    code, out = torchrun(2, tmp_path, corpus)
    assert code == 0 and "resumed from step_" in out, out
    assert set(losses(tmp_path)) == set(range(1, 25))


@pytest.mark.slow
def test_one_line_for_a_mistake_on_any_rank(tmp_path, corpus):
    """A bad setting, ranks that cannot share, a checkpoint folder that cannot be written: said once, by rank 0, and no rank waits."""
    for more, world, message in (
        (("--profile", "9gpu"), 2, "profile '9gpu' does not exist"),
        ((), 3, "3 ranks cannot share the 8 rows of a batch equally; the number of processes can be: 1, 2, 4, 8"),
        (("--streams", "5"), 2, "does not divide 5 streams"),
    ):
        began = time.time()
        code, out = torchrun(world, tmp_path, corpus, *more)
        assert code != 0 and message in out and time.time() - began < 60, out
        assert out.count(message) <= (1 if "streams" not in message else world)


def test_ranks_without_torchrun_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="WORLD_SIZE is 2 but RANK is not set; start several processes with: torchrun --standalone --nproc_per_node=2"):
        ranks.join("cpu")
    monkeypatch.delenv("WORLD_SIZE")
    alone = ranks.join("cpu")
    assert alone == ranks.Ranks() and alone.reduce(1.5, 2) == [1.5, 2] and alone.all("x") == ["x"] and alone.from_first(lambda: 7) == 7


@pytest.mark.slow
def test_sigterm_saves_on_all_ranks_and_a_diverged_run_is_told_once(tmp_path, corpus):
    process = torchrun(2, tmp_path, corpus, wait=False)
    began, log = time.time(), tmp_path / "runs" / "run" / "metrics.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= 3) and time.time() - began < 120 and process.poll() is None:
        time.sleep(0.01)
    process.terminate()  # torchrun passes it on to its processes
    out, _ = process.communicate(timeout=60)
    assert out.count("by signal SIGTERM; a checkpoint is saved") == 1, out
    code, out = torchrun(2, tmp_path, corpus)
    assert code == 0 and "resumed from step_" in out and set(losses(tmp_path)) == set(range(1, 25)), out

    code, out = torchrun(2, tmp_path, corpus, "--set", *SETTINGS, "wte_lr=1e38", name="wild")
    told = [line for line in out.splitlines() if "not finite" in line or "the loss is nan" in line]
    assert code != 0 and len(told) == 1 and told[0].startswith("error: ") and "the training documents in question are" in told[0], out
    (written,) = (tmp_path / "runs" / "wild").glob("non_finite_step_*.json")
    assert len(json.loads(written.read_text())["row_losses"]) == 8  # of all ranks


@pytest.mark.parametrize("mistake", [None, UserError("a mistake")])
def test_the_group_is_left_before_the_process_ends(monkeypatch, tmp_path, mistake):
    """With its threads at work when Python ends, a process aborts now and then, and torchrun calls the run failed."""

    def train(args):
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
        if mistake:
            raise mistake

    monkeypatch.setattr("gpt2course.train.train", train)
    with pytest.raises(UserError, match="a mistake") if mistake else contextlib.nullcontext():
        main(Train())
    assert not dist.is_initialized()
