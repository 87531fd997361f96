"""Several ranks (processes on the CPU, gloo) against one: the same parameters and state, the same batches, one log, and no hang."""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist
from helpers import curve, on_ranks, write_corpus

from gpt2course import ranks
from gpt2course.files import Busy, UserError, locked
from gpt2course.model import GPT
from gpt2course.recipes import make_optimizer, resolve
from gpt2course.runlog import read_metrics
from gpt2course.train import Train, main, train

STEPS, ROWS, T = 30, 8, 16
# 5 layers of width 24: stacks of 20 and 5 matrices and an odd vocabulary, so that neither 2 nor 4 ranks divide all of it evenly
CLIPPED = (("eps", 1e-6), ("grad_clip", 0.05))
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


def run_of(recipe, dtype, changes, rank, world, steps=range(STEPS), saved=None):
    """Some steps, all by default, from what an earlier call returned."""
    plan, model, optimizer = build(recipe, dtype, (rank, world), **changes)
    if saved:
        model.load_state_dict(saved["weights"])
        optimizer.load_state_dict(saved["state"])
    losses = advance(plan, model, optimizer, steps, rank, world)
    return {"losses": losses, "weights": dict(model.state_dict()), "state": optimizer.state_dict()}


@functools.cache
def alone(recipe, dtype, changes):
    return run_of(recipe, dtype, dict(changes), 0, 1)


@pytest.mark.parametrize("recipe,changes,world", [("jan29", (), 2), ("record", CLIPPED, 4)])
def test_ranks_train_the_same_model(recipe, changes, world, tmp_path):
    """30 steps in float64: the losses agree with one process's to 1e-8, so do weights and state, and all ranks hold the same weights to the bit.

    With the recipe's eps of 1e-10 weights and state agree to 1e-4 only: where a gradient cancels to 1e-17 of rounding, Adam divides that by
    eps, and weights that matter to no loss differ by up to 1e-5.
    """
    one = alone(recipe, torch.float64, changes)
    found = on_ranks(world, tmp_path / "run", functools.partial(run_of, recipe, torch.float64, dict(changes)))
    assert one["losses"][-1] < 0.8 * one["losses"][0]  # it learns, so that there is something to agree on
    for rank in range(world):
        assert all(torch.equal(found[0]["weights"][k], found[rank]["weights"][k]) for k in one["weights"])
        assert found[rank]["losses"] == pytest.approx(one["losses"], abs=1e-8)
        assert rank == 0 or found[rank]["state"] == {}
    for kind in ("weights", "state"):
        assert found[0][kind].keys() == one[kind].keys()
        for name, tensor in one[kind].items():
            close = 1e-8 if changes == CLIPPED else 1e-4
            torch.testing.assert_close(found[0][kind][name], tensor, atol=close, rtol=close)


def test_saved_on_two_ranks_resumed_on_one_and_on_four(tmp_path):
    some_steps = functools.partial(run_of, "record", torch.float64, dict(CLIPPED))
    half = on_ranks(2, tmp_path / "half", functools.partial(some_steps, steps=range(STEPS // 2)))[0]
    rest = functools.partial(some_steps, steps=range(STEPS // 2, STEPS), saved=half)
    four = on_ranks(4, tmp_path / "rest", rest)[0]
    one = alone("record", torch.float64, CLIPPED)
    for found in (rest(0, 1), four):
        for kind in ("weights", "state"):
            for name, tensor in one[kind].items():
                torch.testing.assert_close(found[kind][name], tensor, atol=1e-8, rtol=1e-8)


def slow_tokenizer(rank, world):
    return ranks.Ranks(rank, world).from_first(lambda: time.sleep(5) or "made")


def test_ranks_wait_for_what_rank_0_makes_longer_than_for_an_exchange(tmp_path):
    """As for a tokenizer of 2e9 characters, which takes longer than ten minutes."""
    assert on_ranks(2, tmp_path / "run", slow_tokenizer, seconds=3) == ["made", "made"]


def one_altered(rank, world):
    _, model, _ = build("record", torch.float32, (rank, world))
    half = model.wte.weight.data.bfloat16()
    team, tensors = ranks.Ranks(rank, world), dict(model.named_parameters()) | {"half": half}
    team.check_equal(tensors)
    if rank == 1:
        with torch.no_grad():
            model.blocks[3].mlp.c_fc.weight[1, 2] += 1e-7
    try:
        team.check_equal(tensors)
    except (UserError, SystemExit) as e:
        return f"{type(e).__name__}: {e}"


def test_a_tensor_that_differs_between_ranks_is_found_and_named(tmp_path):
    first, other = on_ranks(2, tmp_path / "run", one_altered)
    assert first.startswith("UserError: parameter blocks.3.mlp.c_fc.weight of rank 1 is not that of rank 0") and other == "SystemExit: 2"


def test_the_gpu_of_a_mac_must_be_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert ranks.pick_device().type == "cpu" and ranks.pick_device("mps").type == "mps"


CUDA = {"is_available": lambda: True, "device_count": lambda: 2}


@pytest.mark.parametrize("name, local, wanted", [("auto", None, 0), ("cuda", None, 0), ("cuda", "1", 1), ("cuda:1", None, 1), ("cuda:2", None, None), ("auto", "2", None)])
def test_a_gpu_has_its_index_and_is_the_current_device(name, local, wanted, monkeypatch):
    """torch.compile compiles twice where a device has no index, and `cuda:1` would use memory of GPU 0."""
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    current = []
    for function, value in (CUDA | {"set_device": current.append}).items():
        monkeypatch.setattr(torch.cuda, function, value)
    if local:
        monkeypatch.setenv("LOCAL_RANK", local)
    if wanted is None:
        with pytest.raises(UserError, match="there is no GPU 2, only 2; use a lower --device or --nproc_per_node=2"):
            ranks.pick_device(name)
        return
    assert ranks.pick_device(name) == torch.device("cuda", wanted) and current == [wanted]
    assert os.environ.pop("PYTORCH_ALLOC_CONF") == "expandable_segments:True"
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")  # a person's own setting stays
    ranks.pick_device(name)
    assert os.environ["PYTORCH_ALLOC_CONF"] == "max_split_size_mb:64"


def test_a_state_of_another_model_is_refused():
    _, _, optimizer = build("jan29", torch.float32, (0, 1))
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match="momentum.blocks.0.attn.c_q.weight"):
        optimizer.load_state_dict({k: v for k, v in state.items() if k != "momentum.blocks.0.attn.c_q.weight"})


# ---- the training command under torchrun


SETTINGS = ("depth=2", "width=32", "head_dim=16", "sequence_len=32", "vocab_size=280", "batch_tokens=256", "steps=24", "ve_gate_channels=8", "eps=1e-6")
HANGS = """
import os, time
from gpt2course import train
from gpt2course.optim import MuonAdamW
step, calls = MuonAdamW.step, []
def hang(self, *args):
    calls.append(1)
    if len(calls) == 6 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        time.sleep(120)
    return step(self, *args)
MuonAdamW.step = hang
train.command(train.main)
"""


LOSES = """
import os
from gpt2course import train
from gpt2course.optim import MuonAdamW
step = MuonAdamW.step
def loses(self, *args):
    p = next(g.params["blocks.1.mlp.c_proj.weight"] for g in self.groups if "blocks.1.mlp.c_proj.weight" in g.params)
    before = p.detach().clone()
    step(self, *args)
    if os.environ["RANK"] == "1":
        p.data.copy_(before)
MuonAdamW.step = loses
train.command(train.main)
"""


def start(world, home, corpus, *more, name="run", restarts=0, program=("-m", "gpt2course.train"), **env):
    """`python -m gpt2course.train` under torchrun with `world` ranks."""
    launch = ["torch.distributed.run", "--standalone", f"--nproc_per_node={world}", f"--max-restarts={restarts}", "--monitor-interval=0.1"]
    size = () if "--set" in more else ("--set", *SETTINGS)
    argv = [*launch, *program, "jan29", "--name", name, "--corpus", str(corpus), "--device", "cpu", "--log-seconds", "0", "--eval-every", "8", *size, *more]
    env = os.environ | {"GPT2COURSE_HOME": str(home), "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"} | env
    return subprocess.Popen([sys.executable, "-m", *argv], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def torchrun(*args, **kw):
    """(exit code, output)."""
    process = start(*args, **kw)
    out, _ = process.communicate(timeout=240)
    return process.returncode, out


def until(process, condition, seconds=120):
    began = time.time()
    while not condition():
        assert process.poll() is None and time.time() - began < seconds
        time.sleep(0.01)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    words = ["tree", "stone", "river", "cloud", "bird"]
    return write_corpus(tmp_path_factory.mktemp("corpus") / "toy.jsonl", [" ".join(words[(i * k) % 5] for k in range(1, 8 + i % 30)) for i in range(400)])


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory, corpus):
    """A home with the run "two" of two ranks, which nothing disturbed."""
    home = tmp_path_factory.mktemp("home")
    code, out = torchrun(2, home, corpus, name="two")
    assert code == 0 and "on each of 2 ranks" in out, out
    return home


def losses(run):
    return {m["step"]: m["loss"] for m in read_metrics(run) if m["kind"] == "train"}


@pytest.mark.slow
def test_what_two_ranks_saved_one_and_four_continue(one_and_two, tmp_path, corpus):
    """The next loss agrees to rounding (float32), so the batches are the same."""
    code, out = torchrun(2, tmp_path, corpus, "--stop-after", "12", name="half")
    assert code == 0 and out.count("stopped at step 12 by stop_after 12") == 1, out
    for world in (1, 4):
        shutil.copytree(tmp_path / "runs" / "half", tmp_path / "runs" / f"from{world}")
        code, out = torchrun(world, tmp_path, corpus, name=f"from{world}")
        assert code == 0 and "resumed from step_00000012" in out, out
    runs = [one_and_two / "runs" / "two", tmp_path / "runs" / "from1", tmp_path / "runs" / "from4"]
    two, *continued = (losses(run) for run in runs)
    assert set(two) == set(range(1, 25)) and [found[13] for found in continued] == pytest.approx([two[13]] * 2, rel=1e-4)
    evals = [[m for m in read_metrics(run) if m["kind"] == "eval"][-1] for run in runs]
    assert len({e["val_bytes"] for e in evals}) == 1
    assert max(e["val_bpb"] for e in evals) - min(e["val_bpb"] for e in evals) < 0.1  # rounding grows; the spread of seeds is larger


@pytest.mark.slow
def test_a_rank_that_hangs_is_ended_and_started_again(one_and_two, tmp_path, corpus):
    """Rank 1 sleeps in its sixth step; both ranks show where they wait, end, and the next start resumes: --fresh holds for the first start only."""
    (tmp_path / "hangs.py").write_text(HANGS)
    code, out = torchrun(2, tmp_path, corpus, "--save-every", "2", "--stall-seconds", "3", "--fresh", name="two", restarts=1, program=(str(tmp_path / "hangs.py"),))
    assert code == 0 and "no progress for 3 seconds" in out and "in hang" in out and "resumed from step_00000004" in out, out
    assert curve(tmp_path / "runs" / "two") == curve(one_and_two / "runs" / "two")


@pytest.mark.slow
def test_a_lost_exchange_stops_the_run_after_its_first_step(tmp_path, corpus):
    """Rank 1 misses what rank 0 sends of one matrix."""
    program = tmp_path / "loses.py"
    program.write_text(LOSES)
    code, out = torchrun(2, tmp_path, corpus, program=(str(program),))
    assert code != 0 and out.count("error: parameter blocks.1.mlp.c_proj.weight of rank 1 is not that of rank 0") == 1, out
    assert "step 1/24" not in out


@pytest.mark.slow
def test_an_error_that_would_come_again_ends_soon_with_one_message(tmp_path, corpus):
    """torchrun starts the ranks again; they end at once with the same message, without training."""
    code, out = torchrun(2, tmp_path, corpus, "--set", *SETTINGS, "matrix_lr=1e30", restarts=1)
    errors = [line for line in out.splitlines() if line.startswith("error: ")]
    assert code != 0 and len(errors) == 2 and len(set(errors)) == 1 and errors[0].startswith("error: the loss of step 2 is nan; the last"), out
    assert out.count("step 1/24") == 1  # it trained once
    assert f"error: {json.loads((tmp_path / 'runs' / 'run' / 'error.json').read_text())['error']}" == errors[0]


def test_an_error_is_remembered_within_one_torchrun_only(tmp_path, corpus, monkeypatch):
    monkeypatch.setenv("GPT2COURSE_HOME", str(tmp_path))
    marker, good = tmp_path / "runs" / "a" / "error.json", Train("jan29", name="a", corpus=str(corpus), set=SETTINGS, stop_after=1, device="cpu")

    def started(torchrun, restarts):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", torchrun)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)

    monkeypatch.setattr(ranks, "end_with_parent", lambda: None)
    started("first", "0")
    with pytest.raises(UserError, match="profile 'x' does not exist"):
        train(Train("jan29", name="a", profile="x"))
    started("first", "1")
    with pytest.raises(UserError, match="profile 'x' does not exist"):
        train(good)
    started("second", "1")  # another torchrun, whose first start ended for another reason
    train(good)
    assert marker.exists()
    started("first", "0")  # started by a person
    train(good)
    assert not marker.exists()


def test_a_second_start_leaves_no_error_for_the_first(tmp_path, monkeypatch):
    """The notebook that follows a training kills it for an error that is kept."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "second")
    with pytest.raises(Busy), ranks.lasting_errors(tmp_path / "error.json", ranks.Ranks()), locked(tmp_path / "lock", "run 'a' is being trained"):
        with locked(tmp_path / "lock", "run 'a' is being trained"):
            pass
    assert not (tmp_path / "error.json").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_running_out_of_gpu_memory_is_remembered_by_any_rank(tmp_path, monkeypatch, rank):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "this")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setattr(ranks.Ranks, "from_first", lambda self, make: make())
    for _ in range(2):  # the second start ends before it trains
        with pytest.raises(UserError, match="ran out of memory; use a lower --device-batch"), ranks.lasting_errors(tmp_path / "error.json", ranks.Ranks(rank, 2)):
            assert not (tmp_path / "error.json").exists()
            raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.slow
def test_sigterm_to_torchrun_saves_on_all_ranks(one_and_two, tmp_path, corpus):
    process = start(2, tmp_path, corpus, name="two", TORCH_ELASTIC_SHUTDOWN_TIMEOUT="120")
    run = tmp_path / "runs" / "two"
    until(process, lambda: len(losses(run)) >= 3)
    process.terminate()  # torchrun passes it on to its processes
    out, _ = process.communicate(timeout=60)
    assert out.count("by signal SIGTERM; a checkpoint is saved") == 1, out
    code, out = torchrun(2, tmp_path, corpus, name="two")
    assert code == 0 and "resumed from step_" in out and losses(run) == losses(one_and_two / "runs" / "two"), out


@pytest.mark.slow
def test_ranks_share_an_evaluation(one_and_two, monkeypatch):
    monkeypatch.setenv("GPT2COURSE_HOME", str(one_and_two))
    found = []
    for launch in ([], ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]):
        argv = [sys.executable, "-m", *launch, "gpt2course.evaluate", "two", "--device", "cpu", "--out", str(one_and_two / "e.json")]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and done.stdout.count("bits per byte") == 1, done.stderr
        found.append(json.loads((one_and_two / "e.json").read_text()))
    assert found[0].pop("val_bpb") == pytest.approx(found[1].pop("val_bpb"), rel=1e-6) and found[0] == found[1]


@pytest.mark.parametrize("mistake", [None, UserError("a mistake")])
def test_the_group_is_left_before_the_process_ends(monkeypatch, tmp_path, mistake):
    """Otherwise its threads abort the process now and then, and torchrun calls the run failed."""

    def train(args):
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
        if mistake:
            raise mistake

    monkeypatch.setattr("gpt2course.train.train", train)
    with pytest.raises(UserError, match="a mistake") if mistake else contextlib.nullcontext():
        main(Train())
    assert not dist.is_initialized()
