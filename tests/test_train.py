"""Training end to end at toy size: it learns, it resumes bit for bit, it refuses what would ruin a run."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from gpt2course import checkpoint
from gpt2course.files import UserError
from gpt2course.train import Train, read_metrics, train

SIZE = ("depth=2", "width=32", "head_dim=16", "sequence_len=32", "vocab_size=300", "batch_tokens=256", "steps=24", "eval_bytes=2000")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Sentences with structure to learn: 400 documents of a small grammar."""
    draw = random.Random(0)
    subjects, verbs, objects = (["the cat", "a dog", "the old man", "my friend"], ["sees", "likes", "paints"], ["the sea", "a house", "some bread"])
    path = tmp_path_factory.mktemp("corpus") / "toy.jsonl"
    with open(path, "w") as f:
        for _ in range(400):
            text = ". ".join(f"{draw.choice(subjects)} {draw.choice(verbs)} {draw.choice(objects)}" for _ in range(draw.randint(1, 9)))
            f.write(json.dumps({"text": text}) + "\n")
    return str(path)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2COURSE_HOME", str(tmp_path))
    torch.set_num_threads(1)
    return tmp_path


def settings(corpus, **changes):
    return Train(**(dict(recipe="jan29", set=SIZE, corpus=corpus, device="cpu", log_seconds=1e9, save_minutes=1e9, device_batch=4) | changes))


def curve(run):
    """What must not depend on interruptions: every line but its timings."""
    timing = {"seconds", "tok_per_sec", "eta_seconds", "time", "took", "leaderboard_seconds", "mfu", "usd"}
    return [{k: v for k, v in line.items() if k not in timing} for line in read_metrics(run) if line["kind"] != "checkpoint"]


def weights(run):
    from safetensors.torch import load_file

    return load_file(checkpoint.newest(run)[0] / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_it_learns_and_leaves_a_complete_run(home, corpus):
    run = train(settings(corpus, name="a", set=(*SIZE, "steps=60", "tiny_batch_lr=0.3")))
    lines = read_metrics(run)
    losses = [x["loss"] for x in lines if x["kind"] == "train"]
    assert len(losses) == 60 and losses[0] == pytest.approx(5.7, abs=0.05) and losses[-1] < 3.2
    bpb = [x["val_bpb"] for x in lines if x["kind"] == "eval"]
    assert bpb[-1] < bpb[0] < 8 and lines[-1]["kind"] == "done" and lines[-1]["step"] == 60
    assert all({"step", "tokens", "flops", "seconds", "kind"} <= x.keys() for x in lines)
    kinds = [x["kind"] for x in lines]
    assert kinds.index("checkpoint") < len(kinds) - 1 - kinds[::-1].index("eval")  # saved before the last evaluation
    config = json.loads((run / "config.json").read_text())
    assert config["plan"]["steps"] == 60 and config["machine"]["torch"] == torch.__version__ and config["val_sha256"]
    model, tokenizer, plan = checkpoint.load_model("a", "cpu")
    assert plan.steps == 60 and tokenizer.sha256 == config["tokenizer_sha256"] and not model.training


def test_same_seed_same_numbers_other_seed_other_numbers(home, corpus):
    a, b, c = (train(settings(corpus, name=n, seed=s)) for n, s in (("a", 1), ("b", 1), ("c", 2)))
    assert curve(a) == curve(b) and same(weights(a), weights(b)) and curve(a) != curve(c)


def test_micro_batches_do_not_change_the_loss(home, corpus):
    """8 rows at once or one at a time: equal to rounding for the first steps."""
    gentle = (*SIZE, "tiny_batch_lr=0.05")  # large rates amplify rounding from step to step
    a, b = (train(settings(corpus, name=f"b{n}", device_batch=n, stop_after=3, set=gentle)) for n in (8, 1))
    la, lb = ([x["loss"] for x in read_metrics(r) if x["kind"] == "train"] for r in (a, b))
    assert len(la) == 3 and la == pytest.approx(lb, abs=2e-4)


def test_resume_is_bit_identical(home, corpus):
    whole = train(settings(corpus, name="whole", eval_every=5))
    for stop in (1, 7, 10, 23):
        args = settings(corpus, name=f"cut{stop}", eval_every=5)
        cut = train(settings(corpus, name=f"cut{stop}", eval_every=5, stop_after=stop))
        assert not any(x["kind"] == "done" for x in read_metrics(cut))
        train(args)
        assert curve(cut) == curve(whole) and same(weights(cut), weights(whole))


def test_a_killed_run_goes_on_and_ends_the_same(home, corpus):
    """kill -9 at three moments of a run that saves every 4 steps; the command is simply given again."""
    arguments = ["--corpus", corpus, "--set", *SIZE, "steps=60", "--save-every", "4", "--device", "cpu", "--device-batch", "4", "--log-seconds", "0"]
    whole = train(settings(corpus, name="whole", set=(*SIZE, "steps=60"), save_every=4))
    draw = random.Random(1)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-m", "gpt2course.train", "jan29", "--name", "killed", *arguments], stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
        for line in process.stdout:
            if line.startswith("step "):
                break
        time.sleep(draw.random() * 0.7)
        process.send_signal(signal.SIGKILL)
        process.wait()
    run = train(settings(corpus, name="killed", set=(*SIZE, "steps=60"), save_every=4))
    assert curve(run) == curve(whole) and same(weights(run), weights(whole))


def test_sigterm_saves_and_exits_0(home, corpus):
    command = [sys.executable, "-m", "gpt2course.train", "jan29", "--name", "t", "--corpus", corpus, "--set", *SIZE, "steps=2000", "--device", "cpu", "--log-seconds", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("step 3"):
            break
    process.terminate()
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "a checkpoint is saved, the same command goes on" in rest
    assert checkpoint.newest(home / "runs" / "t")[1]["step"] >= 3


def test_a_damaged_checkpoint_falls_back_to_the_one_before(home, corpus, capsys):
    whole = train(settings(corpus, name="whole", save_every=6))
    run = train(settings(corpus, name="hurt", save_every=6, stop_after=14))
    newest = checkpoint.all_checkpoints(run)[-1]
    assert newest.name == "step_00000014"
    data = bytearray((newest / "model.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (newest / "model.safetensors").write_bytes(bytes(data))
    train(settings(corpus, name="hurt", save_every=6))
    out = capsys.readouterr().out
    assert "model.safetensors is damaged" in out and "resumed from step_00000012" in out
    assert curve(run) == curve(whole) and same(weights(run), weights(whole))


def test_a_run_is_not_mixed_with_another(home, corpus):
    train(settings(corpus, name="a", stop_after=2))
    with pytest.raises(UserError, match=r"begun with other settings \(seed\)"):
        train(settings(corpus, name="a", seed=3))
    with pytest.raises(UserError, match=r"begun with other settings \(plan\)"):
        train(settings(corpus, name="a", set=(*SIZE, "steps=9")))
    run = train(settings(corpus, name="a", seed=3, fresh=True, stop_after=2))
    assert (home / "runs" / "a.old1" / "config.json").exists() and json.loads((run / "config.json").read_text())["seed"] == 3


def test_a_finished_run_is_left_alone(home, corpus, capsys):
    run = train(settings(corpus, name="a"))
    before = (run / "metrics.jsonl").read_bytes()
    train(settings(corpus, name="a"))
    assert (run / "metrics.jsonl").read_bytes() == before and "finished already" in capsys.readouterr().out


def test_limits_stop_with_a_checkpoint(home, corpus):
    run = train(settings(corpus, name="hours", max_hours=1e-9))
    assert checkpoint.newest(run)[1]["step"] == 1
    run = train(settings(corpus, name="cost", max_cost_usd=1e-9, price_per_hour=24.0))
    assert checkpoint.newest(run)[1]["step"] == 1 and read_metrics(run)[0]["usd"] > 0


def test_a_loss_that_is_not_finite_stops_the_run(home, corpus):
    with pytest.raises(UserError, match="the loss is nan at step"):
        train(settings(corpus, name="nan", set=(*SIZE, "scalar_lr=1e38", "matrix_lr=1e38")))


@pytest.mark.parametrize("changes,text", [
    (dict(profile="phone"), "profile 'phone' does not exist"), (dict(recipe="gpt9"), "recipe 'gpt9' does not exist"), (dict(device_batch=3), "must divide the 8 rows"),
    (dict(device_batch=0), "must divide the 8 rows"), (dict(max_cost_usd=5.0), "needs --price-per-hour"), (dict(set=("depth",)), "write name=value"),
    (dict(device="tpu"), "device 'tpu' is not available"), (dict(dtype="float8"), "dtype 'float8' is not allowed")])  # fmt: skip
def test_bad_arguments(home, corpus, changes, text):
    with pytest.raises(UserError, match=text):
        train(settings(corpus, name="x", **changes))


def test_only_the_newest_checkpoints_are_kept(home, corpus):
    run = train(settings(corpus, name="k", save_every=3, keep=2))
    assert [p.name for p in checkpoint.all_checkpoints(run)] == ["step_00000021", "step_00000024"]


def test_a_failed_save_leaves_the_old_checkpoint_and_no_litter(home, corpus, monkeypatch):
    run = train(settings(corpus, name="full", stop_after=5))
    before = sorted(p.name for p in (run / "checkpoints").iterdir())

    def no_space(*_args, **_kw):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", no_space)
    with pytest.raises((OSError, UserError), match="No space left"):
        train(settings(corpus, name="full"))
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == before
