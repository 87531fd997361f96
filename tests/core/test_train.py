"""Training end to end at toy size: it learns, it resumes bit for bit, it refuses what would ruin a run."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import SIZE, curve, grammar, same, weights, write_corpus

from gpt2course import checkpoint, load
from gpt2course import train as train_module
from gpt2course.evaluate import bits_per_byte
from gpt2course.files import UserError, locked
from gpt2course.load import load_model
from gpt2course.model import GPT
from gpt2course.optim import MuonAdamW
from gpt2course.recipes import resolve
from gpt2course.runlog import Log, read_metrics
from gpt2course.train import Train, train


def sized(*changes):
    """SIZE with some settings changed."""
    return tuple(f"{k}={v}" for k, v in {k: v for pair in (*SIZE, *changes) for k, v in [pair.split("=")]}.items())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "toy.jsonl", grammar())


def settings(corpus, **changes):
    fixed = dict(recipe="jan29", set=SIZE, corpus=corpus, device="cpu", log_seconds=1e9, save_minutes=1e9, device_batch=4)
    return Train(**(fixed | changes))


def kinds(run, kind, key="step"):
    return [line[key] for line in read_metrics(run) if line["kind"] == kind]


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """(curve, weights) of a run that nothing disturbed, evaluated every 8 steps."""
    with pytest.MonkeyPatch.context() as m:
        m.setenv("GPT2COURSE_HOME", str(tmp_path_factory.mktemp("whole")))
        run = train(settings(corpus, name="whole", eval_every=8))
        return curve(run), weights(run)


def is_whole(run, whole):
    return curve(run) == whole[0] and same(weights(run), whole[1])


def test_it_learns_and_leaves_a_complete_run(course_home, corpus):
    run = train(settings(corpus, name="a", set=sized("steps=60", "tiny_batch_lr=0.3")))
    lines = read_metrics(run)
    losses, bpb = kinds(run, "train", "loss"), kinds(run, "eval", "val_bpb")
    assert len(losses) == 60 and losses[0] == pytest.approx(5.7, abs=0.05) and losses[-1] < 3.2
    assert bpb[-1] < bpb[0] < 8 and lines[-1]["kind"] == "done" and lines[-1]["step"] == 60
    assert all({"step", "tokens", "flops", "seconds", "kind"} <= x.keys() for x in lines)
    order = [x["kind"] for x in lines]
    assert order.index("checkpoint") < len(order) - 1 - order[::-1].index("eval")  # saved before the last evaluation
    config = json.loads((run / "config.json").read_text())
    assert config["plan"]["steps"] == 60 and config["machine"]["torch"] == torch.__version__ and config["val_sha256"]
    model, tokenizer, plan = load_model("a", "cpu")
    assert plan.steps == 60 and tokenizer.sha256 == config["tokenizer_sha256"] and not model.training


def test_the_last_evaluation_reads_no_more_than_final_eval_bytes(course_home, corpus, capsys):
    args = dict(set=sized("steps=2", "eval_bytes=500"))
    few, all = (kinds(train(settings(corpus, name=f"r{n}", final_eval_bytes=n, **args)), "eval", "val_bytes")[-1] for n in (1000, 10**9))
    assert 1000 <= few < 1500 < all and capsys.readouterr().out.count("(all of it)") == 1


def test_another_seed_gives_other_numbers(course_home, corpus, whole):
    assert curve(train(settings(corpus, name="a", seed=2, eval_every=8))) != whole[0]


def test_micro_batches_do_not_change_the_loss(course_home, corpus):
    """8 rows at once or one at a time: equal to rounding for the first steps."""
    gentle = sized("tiny_batch_lr=0.05")  # large rates amplify rounding from step to step
    a, b = (kinds(train(settings(corpus, name=f"b{n}", device_batch=n, stop_after=3, set=gentle)), "train", "loss") for n in (8, 1))
    assert len(a) == 3 and a == pytest.approx(b, abs=2e-4)


def test_resume_is_bit_identical(course_home, corpus, whole):
    for stop in (1, 8, 23):
        run = train(settings(corpus, name=f"cut{stop}", eval_every=8, stop_after=stop))
        assert not kinds(run, "done")
        assert is_whole(train(settings(corpus, name=f"cut{stop}", eval_every=8)), whole)


def test_random_numbers_are_part_of_the_run(course_home, corpus, monkeypatch):
    """No recipe draws any, so a step that draws is put in: as with dropout, the numbers follow the seed and continue after a resume."""
    drawn, step = [], MuonAdamW.step
    monkeypatch.setattr(MuonAdamW, "step", lambda self, *args: (drawn.append(torch.rand(2).tolist()), step(self, *args)))
    outside = torch.get_rng_state()
    train(settings(corpus, name="whole"))
    undisturbed, drawn[:] = list(drawn), []
    torch.rand(5)
    train(settings(corpus, name="cut", stop_after=9))
    torch.rand(3)
    train(settings(corpus, name="cut"))
    assert drawn == undisturbed and len({tuple(x) for x in drawn}) == 24
    torch.set_rng_state(outside)
    before = torch.rand(3)
    torch.set_rng_state(outside)
    train(settings(corpus, name="other", stop_after=2))
    assert torch.equal(torch.rand(3), before)  # the caller's own numbers are not touched


def test_resume_inside_a_row_group_and_across_epochs(course_home, corpus, tmp_path):
    """70 documents in row groups of 9, so that the run reads them several times and every stop falls inside a group."""
    documents = [json.loads(line)["text"] for line in open(corpus)]
    folder = tmp_path / "shards"
    folder.mkdir()
    pq.write_table(pa.table({"text": documents[:70]}), folder / "a.parquet", row_group_size=9)
    pq.write_table(pa.table({"text": documents[70:90]}), folder / "b.parquet", row_group_size=9)
    undisturbed = train(settings(str(folder), name="whole"))
    assert read_metrics(undisturbed)[-1]["epochs"] > 2
    for stop in (3, 11, 20):
        train(settings(str(folder), name="cut", stop_after=stop))
    assert is_whole(train(settings(str(folder), name="cut")), (curve(undisturbed), weights(undisturbed)))


def test_a_line_of_several_steps_does_not_depend_on_where_a_run_was_resumed(course_home, corpus):
    """Long runs log the mean loss of several steps; a run that stops between two lines continues with the mean."""
    long = dict(set=sized("steps=1500", "batch_tokens=64", "depth=1"), eval_every=10_000, device_batch=2, stop_after=60)
    undisturbed = train(settings(corpus, name="whole", **long))
    assert kinds(undisturbed, "train")[:3] == [3, 6, 9]
    run = train(settings(corpus, name="cut", **long | dict(stop_after=20)))
    assert curve(train(settings(corpus, name="cut", **long))) == curve(undisturbed) and kinds(run, "train")[-1] == 60


# ---- stops


def command(name, corpus, *more):
    size = ("--corpus", corpus, "--device", "cpu", "--device-batch", "4", "--log-seconds", "0")
    return [sys.executable, "-m", "gpt2course.train", "jan29", "--name", name, *size, *more]


def test_sigterm_saves_and_exits_0(course_home, corpus):
    argv = command("t", corpus, "--set", *sized("steps=2000"))
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("step 3"):
            break
    process.terminate()
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "by signal SIGTERM; a checkpoint is saved, the same command continues" in rest
    assert checkpoint.newest(course_home / "runs" / "t")[1]["step"] >= 3


def test_a_signal_in_an_evaluation_stops_after_the_next_step_and_loses_nothing(course_home, corpus, whole, monkeypatch, capsys):
    def interrupted(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return bits_per_byte(*args)

    monkeypatch.setattr("gpt2course.train.bits_per_byte", interrupted)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run = train(settings(corpus, name="cut", eval_every=8))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert "stopped at step 9 by signal SIGTERM" in capsys.readouterr().out and checkpoint.newest(run)[1]["step"] == 9
    assert not kinds(run, "done")
    monkeypatch.undo()
    monkeypatch.setenv("GPT2COURSE_HOME", str(course_home))
    assert is_whole(train(settings(corpus, name="cut", eval_every=8)), whole)


def test_ctrl_c_twice_stops_at_once(course_home, corpus, monkeypatch):
    def interrupted(*_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("gpt2course.train.bits_per_byte", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(settings(corpus, name="cut", eval_every=8))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and not [t for t in threading.enumerate() if t.name == "prefetch"]


@pytest.mark.parametrize("gigabytes, B, budget", [(84.9, 16, 1.0), (84.9, 32, 0.9), (141.0, 32, 1.0)])
def test_activations_are_computed_again_only_where_memory_is_tight(gigabytes, B, budget, monkeypatch):
    """jan29 at depth 24, on the meta device and with GPUs of some memory. The log says so."""
    plan, said = resolve("jan29", depth=24), []
    model, device = torch.nn.Linear(1, 1), torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=1e9 * gigabytes))
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda _: None)
    for name in ("choose", "choose_loss"):
        monkeypatch.setattr(f"gpt2course.train.kernels.{name}", lambda *_: ("fa3", "a test"))
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: model)
    team = SimpleNamespace(world=8, first=True, from_first=lambda make: make())
    args = SimpleNamespace(attention="auto", fp8=False)
    run = SimpleNamespace(args=args, model=model, device=device, plan=plan, team=team, log=SimpleNamespace(say=said.append), config={"device_batch": B})
    with train_module.partitioner.patch(activation_memory_budget=0.7):
        train_module.prepare_kernels(run, torch.bfloat16, True)
        assert train_module.partitioner.activation_memory_budget == budget
    assert any("computes cheap activations again" in line for line in said) == (budget < 1)


def test_a_limit_on_the_cost_stops_with_a_checkpoint(course_home, corpus):
    run = train(settings(corpus, name="cost", max_cost_usd=1e-9, price_per_hour=24.0))
    assert checkpoint.newest(run)[1]["step"] == 1 and read_metrics(run)[0]["usd"] > 0


@pytest.mark.slow
def test_the_watch_ends_with_the_run(course_home, corpus):
    """A caller that does something else for longer than stall_seconds afterwards is not ended."""
    code = "import sys, time; from gpt2course import train; a = train.tyro.cli(train.Train); train.train(a); time.sleep(1.5); print('still here')"
    argv = [sys.executable, "-c", code, *command("w", corpus, "--set", *sized("steps=2"), "--stall-seconds", "1")[3:]]
    assert "still here" in subprocess.run(argv, capture_output=True, text=True, timeout=50).stdout


# ---- numbers that are not finite


def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights_change(course_home, corpus, whole, monkeypatch):
    forward, bad = GPT.forward, []

    def broken(self, *args, **kw):
        loss = forward(self, *args, **kw)
        return loss * torch.nan if bad and len(args) == 2 and self.training else loss

    monkeypatch.setattr(GPT, "forward", broken)
    run = train(settings(corpus, name="a", eval_every=8, stop_after=6))
    bad.append(True)
    with pytest.raises(UserError, match=r"the loss of step 7 is nan; the last good checkpoint is step_00000006\. "):
        train(settings(corpus, name="a", eval_every=8))
    bad.clear()
    train(settings(corpus, name="a", eval_every=8))
    assert is_whole(run, whole)


@pytest.mark.parametrize("every", [1, None])
def test_weights_that_are_not_finite_never_become_a_checkpoint(course_home, corpus, monkeypatch, every):
    """A step ruins one weight: a save notices it, or the next loss."""
    step = MuonAdamW.step
    monkeypatch.setattr(MuonAdamW, "step", lambda self, *args: (step(self, *args), self.groups[0].params["lm_head.weight"].data[0].fill_(torch.nan)))
    with pytest.raises(UserError, match=r"parameter lm_head.weight is not finite after step 1; the last good checkpoint is none"):
        train(settings(corpus, name="a", save_every=every))
    assert checkpoint.all_checkpoints(course_home / "runs" / "a") == []


# ---- runs that must not be mixed


def test_a_run_is_not_mixed_with_another(course_home, corpus):
    train(settings(corpus, name="a", stop_after=2))
    with pytest.raises(UserError, match=r"started with other settings \(seed\)"):
        train(settings(corpus, name="a", seed=3))
    with pytest.raises(UserError, match=r"started with other settings \(plan\)"):
        train(settings(corpus, name="a", set=sized("steps=9")))
    run = train(settings(corpus, name="a", seed=3, fresh=True, stop_after=2))
    assert (course_home / "runs" / "a.old1" / "config.json").exists() and json.loads((run / "config.json").read_text())["seed"] == 3


def test_a_finished_run_is_left_alone(course_home, corpus, capsys):
    args = settings(corpus, name="a", set=sized("steps=3"))
    run = train(args)
    before = (run / "metrics.jsonl").read_bytes()
    train(args)
    assert (run / "metrics.jsonl").read_bytes() == before and "finished already" in capsys.readouterr().out


def test_two_processes_do_not_train_one_run(course_home, corpus):
    run = train(settings(corpus, name="a", stop_after=2))
    with locked(run / "lock"):
        for changes in ({}, {"fresh": True}):
            with pytest.raises(UserError, match=rf"run 'a' is being trained by process {os.getpid()}"):
                train(settings(corpus, name="a", **changes))
    train(settings(corpus, name="a", stop_after=3))
    assert checkpoint.newest(run)[1]["step"] == 3


@pytest.mark.parametrize("changes,text", [
    (dict(device_batch=0), "must divide the 8 rows"),
    (dict(device="tpu"), "device 'tpu' is not available"), (dict(dtype="float8"), "dtype 'float8' is not allowed"), (dict(save_minutes=float("nan")), "save_minutes = nan is not allowed; it must be a number from 0 on"),
    (dict(keep=0), "keep = 0 is not allowed; it must be a whole number from 1 on"), (dict(streams=0), "streams = 0 is not allowed"), (dict(attention="fa9"), "attention = 'fa9'")])  # fmt: skip
def test_bad_arguments(course_home, corpus, changes, text):
    with pytest.raises(UserError, match=re.escape(text)):
        train(settings(corpus, **dict(name="x") | changes))


# ---- checkpoints


def test_the_newest_checkpoints_are_kept(course_home, corpus):
    for keep in (2, 1):
        run = train(settings(corpus, name=f"k{keep}", save_every=3, keep=keep))
        assert [p.name for p in checkpoint.all_checkpoints(run)] == ["step_00000021", "step_00000024"][-keep:]


def test_a_smaller_device_batch_continues_a_run(course_home, corpus):
    """As after running out of memory."""
    train(settings(corpus, name="a", device_batch=8, stop_after=5))
    run = train(settings(corpus, name="a", device_batch=2))
    assert kinds(run, "done") == [24] and kinds(run, "train") == list(range(1, 25))


def test_a_limit_that_is_reached_already_trains_no_further(course_home, corpus, capsys):
    for args in (dict(stop_after=3), dict(max_hours=1e-9), dict(stop_after=5)):
        run = train(settings(corpus, name="a", **args))
    assert kinds(run, "train") == [1, 2, 3, 4, 5]
    assert capsys.readouterr().out.count("stopped at step 3 by") == 2


def test_checkpoints_by_the_clock(course_home, corpus):
    run = train(settings(corpus, name="c", save_minutes=0.0, set=sized("steps=6")))  # no step twice
    assert kinds(run, "checkpoint") == [1, 2, 3, 4, 5, 6]


def hurt(file, change):
    file.write_bytes(change(bytearray(file.read_bytes())))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(course_home, corpus, whole, capsys):
    run = train(settings(corpus, name="hurt", save_every=6, eval_every=8, stop_after=14))
    hurt(run / "checkpoints" / "step_00000014" / "model.safetensors", lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:])
    (run / "checkpoints" / ".step_00000014.xyz.tmp").mkdir()  # a kill in a save leaves this
    (run / ".metrics.jsonl.abc.tmp").write_text("half")
    train(settings(corpus, name="hurt", save_every=6, eval_every=8))
    out = capsys.readouterr().out
    assert "model.safetensors is missing or damaged" in out and "resumed from step_00000012" in out
    assert is_whole(run, whole)
    assert "step_00000014.damaged" in os.listdir(run / "checkpoints") and not list(run.glob("**/.*.tmp"))


@pytest.mark.parametrize("name,change,word", [
    ("state.json", lambda b: b.replace(b'"clock": ', b'"clock": 1'), "damaged"), ("state.json", lambda b: b[: len(b) // 2], "not valid JSON"),
    ("state.json", lambda b: b"[]", "damaged"), ("optimizer.safetensors", lambda b: b"", "damaged"), ("optimizer.safetensors", None, "missing")])  # fmt: skip
def test_every_damage_is_noticed(course_home, corpus, name, change, word):
    run = train(settings(corpus, name="a", save_every=2, stop_after=6, eval_every=9))
    file = checkpoint.all_checkpoints(run)[-1] / name
    file.unlink() if change is None else hurt(file, change)
    lines = []
    folder, state = checkpoint.newest(run, lines.append)
    assert folder.name == "step_00000004" and state["step"] == 4 and len(lines) == 1 and word in lines[0] and name in lines[0]
    hurt(checkpoint.all_checkpoints(run)[0] / "model.safetensors", lambda b: b[:-1])
    with pytest.raises(UserError, match=r"every checkpoint of run a is damaged \(step_00000004, step_00000006\); .* --fresh"):
        train(settings(corpus, name="a"))


def test_a_line_of_nuls_in_the_metrics_stops_nothing(course_home, corpus, whole, capsys):
    """An unclean shutdown can leave such a line."""
    run = train(settings(corpus, name="a", eval_every=8, stop_after=11))
    lines = (run / "metrics.jsonl").read_bytes().split(b"\n")
    (run / "metrics.jsonl").write_bytes(b"\n".join([*lines[:4], b"\0" * 80, b'{"kind": "tr', b"[]", *lines[4:]]))
    train(settings(corpus, name="a", eval_every=8))
    assert is_whole(run, whole) and capsys.readouterr().err.count("3 of 16 lines cannot be read") == 1


def test_a_run_in_float32_on_a_gpu_is_loaded_in_float32(course_home, corpus, monkeypatch):
    run, asked = train(settings(corpus, name="a", stop_after=1)), []
    config = json.loads((run / "config.json").read_text())

    def dtypes(device, name):
        asked.append(name)
        raise UserError("far enough")

    monkeypatch.setattr(load, "pick_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(load, "compute_dtypes", dtypes)
    for trained_on, dtype in (("cuda", "float32"), ("cuda", "bfloat16"), ("cpu", "float32")):
        (run / "config.json").write_text(json.dumps(config | {"dtype": dtype, "machine": config["machine"] | {"type": trained_on}}))
        with pytest.raises(UserError, match="far enough"):
            load_model("a")
    assert asked == ["float32", "auto", "auto"]


# ---- a full disk


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """A file system of 6 MB as home; needs the right to mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    monkeypatch.setenv("GPT2COURSE_HOME", str(folder))
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


def test_a_full_disk_under_what_is_printed_stops_nothing(tmp_path, monkeypatch):
    """The runbook sends what training prints to a file on the same disk."""
    full = open("/dev/full", "w")
    with monkeypatch.context() as m:
        m.setattr(sys, "stdout", full)
        Log(tmp_path, True).say("step 1")
    assert (tmp_path / "log.txt").read_text().endswith("step 1\n")
    with contextlib.suppress(OSError):
        full.close()


def test_a_really_full_disk_stops_nothing(small_disk, corpus, whole, monkeypatch, capsys):
    """Room vanishes after step 9, and metrics and checkpoints are refused; it comes back after step 13, when the run saves again."""
    step = MuonAdamW.step

    def watched(self, *args):
        if self.steps == 9:
            fill(small_disk)
        if self.steps == 13:
            (small_disk / "filler").unlink()
        return step(self, *args)

    monkeypatch.setattr(MuonAdamW, "step", watched)
    run = train(settings(corpus, name="full", eval_every=8, save_every=2))
    out = capsys.readouterr().out
    assert re.findall(r"checkpoint of step (\d+) could not be saved", out) == ["10", "12"]
    assert re.search(r"warning: the checkpoint of step 10 .*No space left on device.*the last good one is step_00000008. Make room in", out)
    found, expected = curve(run), whole[0]
    assert out.count("metrics.jsonl cannot be written") == 1 and all(line in expected for line in found)
    assert len(expected) - 5 <= len(found) and found[-1] == expected[-1]  # lines of the time without room are missing
    assert same(weights(run), whole[1]) and not list(run.glob("checkpoints/.*"))


def test_a_full_disk_at_the_end_stops_cleanly(course_home, corpus, whole, monkeypatch):
    """Every write of a checkpoint is refused; the old checkpoint stays, and nothing half-written."""
    run = train(settings(corpus, name="full", eval_every=8, stop_after=5))
    before = sorted(p.name for p in (run / "checkpoints").iterdir())

    def no_space(*_args, **_kw):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(checkpoint, "save_file", no_space)
        with pytest.raises(UserError, match=r"checkpoint of step 24 could not be saved \(.*No space left.*\); the last good one is step_00000005. Make room in .* continues from there"):
            train(settings(corpus, name="full", eval_every=8))
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == before
    assert is_whole(train(settings(corpus, name="full", eval_every=8)), whole)


# ---- loading


def test_a_run_is_found_by_name_by_path_and_by_checkpoint(course_home, corpus):
    run = train(settings(corpus, name="a", stop_after=1))
    folder = checkpoint.all_checkpoints(run)[0]
    states = [dict(load_model(str(where), "cpu")[0].state_dict()) for where in ("a", run, folder)]
    assert same(states[0], states[1]) and same(states[0], states[2])
    with pytest.raises(UserError, match=r"there is no run 'aa'; in \S+: did you mean a\?"):
        load_model("aa")
    (course_home / "empty").mkdir()
    with pytest.raises(UserError, match=r"folder \S+empty has no config.json"):
        load_model(str(course_home / "empty"))
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"has no checkpoint yet; python -m gpt2course.train --name a continues it"):
        load_model("a")
