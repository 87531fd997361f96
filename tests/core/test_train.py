"""Training end to end at toy size: it learns, it resumes bit for bit, it refuses what would ruin a run."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gpt2course import checkpoint
from gpt2course.batches import Batches, Prefetch
from gpt2course.checkpoint import best_step
from gpt2course.data import load_corpus
from gpt2course.evaluate import bits_per_byte
from gpt2course.files import UserError
from gpt2course.model import GPT
from gpt2course.optim import MuonAdamW
from gpt2course.tokenizer import Tokenizer
from gpt2course.train import Train, only_process, read_metrics, train

SIZE = ("depth=2", "width=32", "head_dim=16", "sequence_len=32", "vocab_size=300", "batch_tokens=256", "steps=24", "eval_bytes=2000")


def sized(*changes):
    """SIZE with some settings changed."""
    return tuple(f"{k}={v}" for k, v in {k: v for pair in (*SIZE, *changes) for k, v in [pair.split("=")]}.items())


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
    timing = {"seconds", "tok_per_sec", "eta_seconds", "time", "took", "leaderboard_seconds", "mfu", "usd", "rank_seconds", "power_w"}
    return [{k: v for k, v in line.items() if k not in timing} for line in read_metrics(run) if line["kind"] != "checkpoint"]


def weights(run):
    from safetensors.torch import load_file

    return load_file(checkpoint.newest(run)[0] / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_it_learns_and_leaves_a_complete_run(home, corpus):
    run = train(settings(corpus, name="a", set=sized("steps=60", "tiny_batch_lr=0.3")))
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


def test_the_last_evaluation_reads_no_more_than_it_is_told(home, corpus, capsys):
    first, last = ([m for m in read_metrics(train(settings(corpus, name=f"r{n}", set=sized("steps=2", "eval_bytes=500"), final_eval_bytes=n))) if m["kind"] == "eval"][-1]
                   for n in (1000, 10**9))  # fmt: skip
    assert first["final"] and 1000 <= first["val_bytes"] < 1500 < last["val_bytes"] and capsys.readouterr().out.count("(all of it)") == 1


def test_same_seed_same_numbers_other_seed_other_numbers(home, corpus):
    a, b, c = (train(settings(corpus, name=n, seed=s)) for n, s in (("a", 1), ("b", 1), ("c", 2)))
    assert curve(a) == curve(b) and same(weights(a), weights(b)) and curve(a) != curve(c)


def test_micro_batches_do_not_change_the_loss(home, corpus):
    """8 rows at once or one at a time: equal to rounding for the first steps."""
    gentle = sized("tiny_batch_lr=0.05")  # large rates amplify rounding from step to step
    a, b = (train(settings(corpus, name=f"b{n}", device_batch=n, stop_after=3, set=gentle)) for n in (8, 1))
    la, lb = ([x["loss"] for x in read_metrics(r) if x["kind"] == "train"] for r in (a, b))
    assert len(la) == 3 and la == pytest.approx(lb, abs=2e-4)


@pytest.mark.parametrize("recipe", ["gpt2", "modern", "record"])
def test_every_kind_of_recipe_learns_and_resumes(home, corpus, recipe):
    whole = train(settings(corpus, recipe=recipe, name="whole"))
    losses = [x["loss"] for x in read_metrics(whole) if x["kind"] == "train"]
    assert losses[-1] < losses[0] - 0.5
    train(settings(corpus, recipe=recipe, name="cut", stop_after=10))
    cut = train(settings(corpus, recipe=recipe, name="cut"))
    assert curve(cut) == curve(whole) and same(weights(cut), weights(whole))
    loaded, _, plan = checkpoint.load_model("cut", "cpu")
    assert plan.recipe.name == recipe and same(dict(loaded.state_dict()), weights(whole))


def test_resume_is_bit_identical(home, corpus):
    whole = train(settings(corpus, name="whole", eval_every=5))
    for stop in (1, 7, 10, 23):
        args = settings(corpus, name=f"cut{stop}", eval_every=5)
        cut = train(settings(corpus, name=f"cut{stop}", eval_every=5, stop_after=stop))
        assert not any(x["kind"] == "done" for x in read_metrics(cut))
        train(args)
        assert curve(cut) == curve(whole) and same(weights(cut), weights(whole))


def test_random_numbers_are_part_of_the_run(home, corpus, monkeypatch):
    """No recipe draws any, so a step that does is put in: as with dropout, the numbers follow the seed and go on after a resume."""
    drawn, step = [], MuonAdamW.step
    monkeypatch.setattr(MuonAdamW, "step", lambda self, *args: (drawn.append(torch.rand(2).tolist()), step(self, *args)))
    outside = torch.get_rng_state()
    train(settings(corpus, name="whole"))
    whole, drawn[:] = list(drawn), []
    torch.rand(5)
    train(settings(corpus, name="cut", stop_after=9))
    torch.rand(3)
    train(settings(corpus, name="cut"))
    assert drawn == whole and len({tuple(x) for x in drawn}) == 24
    torch.set_rng_state(outside)
    before = torch.rand(3)
    torch.set_rng_state(outside)
    train(settings(corpus, name="other", stop_after=2))
    assert torch.equal(torch.rand(3), before)  # the caller's own numbers are not touched


def test_resume_inside_a_row_group_and_across_epochs(home, corpus, tmp_path):
    """70 documents in row groups of 9, so that the run reads them several times and every stop falls inside a group."""
    documents = [json.loads(line)["text"] for line in open(corpus)]
    folder = tmp_path / "shards"
    folder.mkdir()
    pq.write_table(pa.table({"text": documents[:70]}), folder / "a.parquet", row_group_size=9)
    pq.write_table(pa.table({"text": documents[70:90]}), folder / "b.parquet", row_group_size=9)
    whole = train(settings(str(folder), name="whole"))
    assert read_metrics(whole)[-1]["epochs"] > 2
    for stop in (3, 11, 20):
        train(settings(str(folder), name="cut", stop_after=stop))
    cut = train(settings(str(folder), name="cut"))
    assert curve(cut) == curve(whole) and same(weights(cut), weights(whole))


def test_a_killed_run_goes_on_and_ends_the_same(home, corpus):
    """kill -9 at three moments of a run that saves every 4 steps; the command is simply given again."""
    arguments = ["--corpus", corpus, "--set", *sized("steps=60"), "--save-every", "4", "--device", "cpu", "--device-batch", "4", "--log-seconds", "0"]
    whole = train(settings(corpus, name="whole", set=sized("steps=60"), save_every=4))
    draw = random.Random(1)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-m", "gpt2course.train", "jan29", "--name", "killed", *arguments], stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
        for line in process.stdout:
            if line.startswith("step "):
                break
        time.sleep(draw.random() * 0.7)
        process.send_signal(signal.SIGKILL)
        process.wait()
    run = train(settings(corpus, name="killed", set=sized("steps=60"), save_every=4))
    assert curve(run) == curve(whole) and same(weights(run), weights(whole))


def test_sigterm_saves_and_exits_0(home, corpus):
    command = [sys.executable, "-m", "gpt2course.train", "jan29", "--name", "t", "--corpus", corpus, "--set", *sized("steps=2000"), "--device", "cpu", "--log-seconds", "0"]
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
        train(settings(corpus, name="a", set=sized("steps=9")))
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
    """Weights that a step has ruined: the documents named are those of that step, not of the one that noticed."""
    with pytest.raises(UserError, match=r"parameter \S+ is not finite after step 1; .* in question are [\d, ]+ and \d+ more") as error:
        train(settings(corpus, name="nan", set=sized("scalar_lr=1e38", "matrix_lr=1e38")))
    report = json.loads((home / "runs" / "nan" / "non_finite_step_00000002.json").read_text())
    loader = Batches(load_corpus(corpus).train, Tokenizer.load(home / "runs" / "nan" / "tokenizer"), 32)
    loader.next_rows(8)
    first = sorted({i for row in loader.last_documents for i in row})
    assert [x["document"] for x in report["suspects"]] == first and len(first) > 8 and str(first[0]) in str(error.value)


def test_the_documents_of_a_loss_that_is_not_finite_are_named(home, corpus, monkeypatch):
    """Sound weights, one document that gives NaN: the run stops before the weights take it in and names the document."""
    texts = load_corpus(corpus).train
    forward = GPT.forward
    poison = []

    def broken(self, idx, targets=None, reduction="mean"):
        loss = forward(self, idx, targets, reduction)
        if targets is None or not poison:
            return loss
        width = len(poison)
        hit = (idx.unfold(1, width, 1) == torch.tensor(poison)).all(-1).any(-1)  # (B,) rows that hold the document
        return torch.where(hit[:, None], torch.nan, loss) if reduction == "none" else loss * torch.nan if hit.any() else loss

    monkeypatch.setattr(GPT, "forward", broken)
    run = train(settings(corpus, name="a", stop_after=6))
    tokenizer = Tokenizer.load(run / "tokenizer")
    loader = Batches(texts, tokenizer, 32)
    loader.load_state_dict(checkpoint.newest(run)[1]["loader"])
    for _ in range(3):
        loader.next_rows(8)
    row = next(r for r in loader.last_documents if len(r) > 1 and len(tokenizer.encode(texts[r[0]])) > 5)
    poison += tokenizer.encode(texts[row[0]], bos=True)[:30]
    with pytest.raises(UserError, match=r"the loss is nan at step \d, from \d of the batch's 8 rows.*last good checkpoint is step_00000006") as error:
        train(settings(corpus, name="a"))
    report = json.loads(next(run.glob("non_finite_step_*.json")).read_text())
    assert texts[row[0]][:200] in [x["begins"] for x in report["suspects"]] and len(report["row_documents"]) == 8
    assert report["row_losses"].count("nan") == int(re.search(r"from (\d)", str(error.value))[1]) < 8
    poison.clear()
    train(settings(corpus, name="a"))
    assert same(weights(run), weights(train(settings(corpus, name="whole"))))  # nothing of it went into the weights


def test_weights_that_are_not_finite_never_become_a_checkpoint(home, corpus):
    with pytest.raises(UserError, match="is not finite after step 1; .* The last good checkpoint is none"):
        train(settings(corpus, name="nan", save_every=1, set=sized("scalar_lr=1e38", "matrix_lr=1e38")))
    assert checkpoint.all_checkpoints(home / "runs" / "nan") == []


@pytest.mark.parametrize("changes,text", [
    (dict(profile="phone"), "profile 'phone' does not exist"), (dict(recipe="gpt9"), "recipe 'gpt9' does not exist"), (dict(device_batch=3), "must divide the 8 rows of a batch: 1, 2, 4, 8"),
    (dict(device_batch=0), "must divide the 8 rows"), (dict(max_cost_usd=5.0), "needs --price-per-hour"), (dict(set=("depth",)), "write name=value"),
    (dict(device="tpu"), "device 'tpu' is not available"), (dict(dtype="float8"), "dtype 'float8' is not allowed")])  # fmt: skip
def test_bad_arguments(home, corpus, changes, text):
    with pytest.raises(UserError, match=text):
        train(settings(corpus, name="x", **changes))


def test_the_newest_and_the_best_checkpoints_are_kept(home, corpus, monkeypatch):
    scores = iter([3.0, 2.0, 2.5, 2.6, 2.7, 2.8, 2.9, 2.9])
    monkeypatch.setattr("gpt2course.train.bits_per_byte", lambda *_: (next(scores), 1999))
    run = train(settings(corpus, name="k", save_every=3, eval_every=4, keep=2))
    assert [p.name for p in checkpoint.all_checkpoints(run)] == ["step_00000008", "step_00000021", "step_00000024"]
    assert best_step(run) == 8
    scores = iter([3.0, 2.0, 2.5, 2.6, 2.7, 2.8, 2.9, 2.9])
    run = train(settings(corpus, name="l", save_every=3, eval_every=4, keep=1, keep_best=False))
    assert [p.name for p in checkpoint.all_checkpoints(run)] == ["step_00000024"]


def test_checkpoints_by_the_clock(home, corpus):
    run = train(settings(corpus, name="c", save_minutes=1e-9))  # and before each evaluation, but no step twice
    assert [x["step"] for x in read_metrics(run) if x["kind"] == "checkpoint"] == list(range(1, 25))


@pytest.mark.parametrize("number", [1, 4])
def test_a_signal_in_an_evaluation_stops_at_once_and_loses_nothing(home, corpus, monkeypatch, capsys, number):
    """Number 1 is in the middle of the run, number 4 is the last evaluation."""
    whole = train(settings(corpus, name="whole", eval_every=8))
    calls = []

    def interrupted(model, documents, tokenizer, T, batch, progress, team):
        calls.append(len(documents))
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return bits_per_byte(model, documents, tokenizer, T, batch, progress, team)

    monkeypatch.setattr("gpt2course.train.bits_per_byte", interrupted)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run = train(settings(corpus, name="cut", eval_every=8, keep_best=number == 4))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    step = {1: 8, 4: 24}[number]
    assert f"stopped at step {step} by signal SIGTERM" in capsys.readouterr().out and checkpoint.newest(run)[1]["step"] == step
    assert not any(x["kind"] == "done" for x in read_metrics(run))
    train(settings(corpus, name="cut", eval_every=8))
    assert curve(run) == curve(whole) and same(weights(run), weights(whole))


def test_ctrl_c_twice_stops_at_once(home, corpus, monkeypatch):
    def interrupted(*_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("gpt2course.train.bits_per_byte", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(settings(corpus, name="cut", eval_every=8))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and not [t for t in threading.enumerate() if t.name == "prefetch"]


def test_two_processes_do_not_train_one_run(home, corpus):
    run = train(settings(corpus, name="a", stop_after=2))
    with only_process(run):
        for changes in ({}, {"fresh": True}):
            with pytest.raises(UserError, match=rf"run 'a' is being trained by process {os.getpid()}"):
                train(settings(corpus, name="a", **changes))
    train(settings(corpus, name="a", stop_after=3))
    assert checkpoint.newest(run)[1]["step"] == 3


def hurt(file, change):
    file.write_bytes(change(bytearray(file.read_bytes())))


@pytest.mark.parametrize("name,change,word", [
    ("state.json", lambda b: b.replace(b'"clock": ', b'"clock": 1'), "damaged"), ("state.json", lambda b: b[: len(b) // 2], "not valid JSON"),
    ("state.json", lambda b: b"[]", "damaged"), ("model.safetensors", lambda b: b[:-1], "damaged"), ("optimizer.safetensors", lambda b: b"", "damaged"),
    ("optimizer.safetensors", None, "missing")])  # fmt: skip
def test_every_damage_is_noticed(home, corpus, name, change, word):
    run = train(settings(corpus, name="a", stop_after=4, eval_every=9))
    train(settings(corpus, name="a", stop_after=6, eval_every=9))
    file = checkpoint.all_checkpoints(run)[-1] / name
    file.unlink() if change is None else hurt(file, change)
    said = []
    folder, state = checkpoint.newest(run, said.append)
    assert folder.name == "step_00000004" and state["step"] == 4 and len(said) == 1 and word in said[0] and name in said[0]
    hurt(checkpoint.all_checkpoints(run)[0] / "model.safetensors", lambda b: b[:-1])
    with pytest.raises(UserError, match=r"every checkpoint of run a is damaged \(step_00000004, step_00000006\); `--fresh`"):
        train(settings(corpus, name="a"))
    train(settings(corpus, name="a", fresh=True, stop_after=1))
    assert (home / "runs" / "a.old1" / "checkpoints" / "step_00000006").is_dir()


def test_a_damaged_checkpoint_does_not_crowd_out_good_ones(home, corpus):
    run = train(settings(corpus, name="a", stop_after=4, eval_every=24))
    run = train(settings(corpus, name="a", stop_after=12, eval_every=24))
    hurt(run / "checkpoints" / "step_00000012" / "model.safetensors", lambda b: b[:-1])
    (run / "checkpoints" / ".step_00000012.xyz.tmp").mkdir()  # what a kill in a save leaves
    (run / ".metrics.jsonl.abc.tmp").write_text("half")
    train(settings(corpus, name="a", stop_after=6, eval_every=24, keep=1))
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step_00000006", "step_00000012.damaged"]
    assert not list(run.glob(".*.tmp"))


# ---- a full disk


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """A file system of 6 MB as home; needs the right to mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    monkeypatch.setenv("GPT2COURSE_HOME", str(folder))
    torch.set_num_threads(1)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk):
    """Take all the room there is."""
    with open(disk / "filler", "wb", buffering=0) as f:
        while True:
            try:
                f.write(b"x" * 512)
            except OSError:
                return


def test_a_really_full_disk_costs_nothing_but_time(small_disk, corpus, monkeypatch, capsys):
    """Room vanishes after step 9, and metrics and checkpoints are refused; it comes back after step 13, when the run saves again."""
    reference = train(settings(corpus, name="whole", eval_every=4))
    expected, tensors = curve(reference), weights(reference)
    shutil.rmtree(reference)
    step = MuonAdamW.step

    def watched(self, *args):
        if self.steps == 9:
            fill(small_disk)
        if self.steps == 13:
            (small_disk / "filler").unlink()
        return step(self, *args)

    monkeypatch.setattr(MuonAdamW, "step", watched)
    run = train(settings(corpus, name="full", eval_every=4, save_every=2))
    out = capsys.readouterr().out
    assert re.findall(r"checkpoint of step (\d+) could not be saved", out) == ["10", "12"]
    assert out.count("metrics.jsonl cannot be written (No space left on device)") == 1
    assert re.search(r"warning: the checkpoint of step 10 .*No space left on device.*the last good one is .*step_00000008. Make room in", out)
    assert curve(run) == expected and same(weights(run), tensors) and not list(run.glob("checkpoints/.*"))


def test_a_full_disk_at_the_end_stops_cleanly(small_disk, corpus, monkeypatch):
    reference = train(settings(corpus, name="whole", eval_every=4))
    expected, tensors = curve(reference), weights(reference)
    shutil.rmtree(reference)
    step = MuonAdamW.step
    monkeypatch.setattr(MuonAdamW, "step", lambda self, *args: (fill(small_disk) if self.steps == 18 else None, step(self, *args)))
    with pytest.raises(UserError, match=r"the checkpoint of step 24 could not be saved \(.*No space left.*\); the last good one is .*step_00000016. Make room in .* goes on from there"):
        train(settings(corpus, name="full", eval_every=4))
    monkeypatch.undo()
    monkeypatch.setenv("GPT2COURSE_HOME", str(small_disk))
    (small_disk / "filler").unlink()
    run = train(settings(corpus, name="full", eval_every=4))
    assert curve(run) == expected and same(weights(run), tensors)


def test_a_failed_save_leaves_the_old_checkpoint_and_no_litter(home, corpus, monkeypatch):
    """The same without a real disk: every write of a checkpoint is refused."""
    run = train(settings(corpus, name="full", stop_after=5))
    before = sorted(p.name for p in (run / "checkpoints").iterdir())

    def no_space(*_args, **_kw):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", no_space)
    with pytest.raises(UserError, match="checkpoint of step 24 could not be saved .*No space left"):
        train(settings(corpus, name="full"))
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == before


def test_a_checkpoint_is_written_beside_the_next_steps(home, corpus, monkeypatch, capsys):
    """A slow disk holds training up only where the next save comes before the last one is written; what is written is what was there when it was taken."""
    whole = train(settings(corpus, name="whole", keep=30))
    real, at = checkpoint.write, []

    def slow(run, taken):
        before = len([m for m in read_metrics(run) if m["kind"] == "train"])
        time.sleep(0.4)
        at.append((taken["state.json"]["step"], len([m for m in read_metrics(run) if m["kind"] == "train"]) - before))
        return real(run, taken)

    monkeypatch.setattr(checkpoint, "write", slow)
    run = train(settings(corpus, name="slow", save_every=8, keep=30, keep_best=False))
    assert [step for step, _ in at] == [8, 16, 24] and all(steps >= 2 for step, steps in at if step < 24)  # steps went on meanwhile
    told = {m["step"]: m for m in read_metrics(run) if m["kind"] == "checkpoint"}
    assert sorted(told) == [8, 16, 24] and told[8]["took"] < 0.3 and all(m["written"] > 0.01 for m in told.values())
    monkeypatch.setattr(checkpoint, "write", real)
    for step in (8, 16):  # the checkpoint of a step holds nothing of later ones: the run that goes on from it is the same
        aside = home / "runs" / f"from{step}"
        shutil.copytree(run, aside)
        for later in (p for p in checkpoint.all_checkpoints(aside) if p.name > f"step_{step:08d}"):
            shutil.rmtree(later)
        (aside / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in read_metrics(run) if m["kind"] != "done"))
        again = train(settings(corpus, name=aside.name, keep_best=False))
        assert f"resumed from step_{step:08d}" in capsys.readouterr().out
        assert curve(again) == curve(whole) and same(weights(again), weights(whole))


def test_a_checkpoint_that_fails_beside_the_steps_is_told_and_tried_again(home, corpus, monkeypatch, capsys):
    real, fail = checkpoint.write, [8, 10]

    def write(run, taken):
        if taken["state.json"]["step"] in fail:
            raise OSError(28, "No space left on device")
        return real(run, taken)

    monkeypatch.setattr(checkpoint, "write", write)
    run = train(settings(corpus, name="t", save_every=2, keep_best=False))
    out = capsys.readouterr().out
    assert re.findall(r"checkpoint of step (\d+) could not be saved .*?last good one is \S*(step_\d+)", out) == [("8", "step_00000006"), ("10", "step_00000006")]
    assert [m["step"] for m in read_metrics(run) if m["kind"] == "checkpoint"] == [2, 4, 6, 12, 14, 16, 18, 20, 22, 24]


def test_a_signal_ends_training_that_waits_for_its_text(home, corpus, monkeypatch, capsys):
    """The next rows do not come, as from a shard that is still on its way: SIGTERM saves where training is, and it goes on from there."""
    whole, real, come = train(settings(corpus, name="whole")), Batches.next_rows, threading.Event()

    def next_rows(self, n):
        if len(made) == 8 * 9:
            threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
            come.wait(30)
        made.append(n)
        return real(self, n)

    made, began = [], time.monotonic()
    monkeypatch.setattr(Batches, "next_rows", next_rows)
    monkeypatch.setattr(Prefetch, "close", lambda self, close=Prefetch.close: (come.set(), close(self)))
    run = train(settings(corpus, name="cut"))
    assert time.monotonic() - began < 15 and checkpoint.newest(run)[1]["step"] == 9
    assert "stopped at step 9 by signal SIGTERM; a checkpoint is saved, the same command goes on" in capsys.readouterr().out
    monkeypatch.setattr(Batches, "next_rows", real)
    assert curve(train(settings(corpus, name="cut"))) == curve(whole) and same(weights(run), weights(whole))


def test_a_line_of_several_steps_does_not_depend_on_where_a_run_was_resumed(home, corpus):
    """Long runs log every few steps the mean of their losses; one that stops between two lines goes on with the mean."""
    long = dict(set=sized("steps=1500", "batch_tokens=64", "depth=1"), eval_every=10_000, device_batch=2)
    whole = train(settings(corpus, name="whole", **long))
    assert [m["step"] for m in read_metrics(whole) if m["kind"] == "train"][:3] == [3, 6, 9]
    for stop in (100, 701):
        run = train(settings(corpus, name="cut", stop_after=stop, **long))
    run = train(settings(corpus, name="cut", **long))
    assert curve(run) == curve(whole)
