"""The supervisor, with a stand-in for training that dies, hangs, refuses and obeys as it is told; the real one is in test_rehearsal.py."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from gpt2course.ops import jobs
from gpt2course.files import read_json, write_json

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

FAKE = '''#!{python}
"""In the place of Python: what `-m gpt2course.train` does is the next line of the script."""
import json, os, signal, subprocess, sys, time
folder = {folder!r}
with open(folder + "/starts", "a") as f:
    f.write("x")
n = os.path.getsize(folder + "/starts")
script = json.load(open(folder + "/script.json"))
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
def save(step):
    os.makedirs(f"{{folder}}/checkpoints/step_{{step:08d}}", exist_ok=True)
    open(f"{{folder}}/checkpoints/step_{{step:08d}}/state.json", "w").write("{{}}")
for act, _, value in (line.partition(":") for line in script[min(n, len(script)) - 1]):
    if act == "beat":
        open(os.environ["GPT2COURSE_HEARTBEAT"], "w").write(value)
    elif act == "save":
        save(int(value))
    elif act == "say":
        print(value, flush=True)
    elif act == "exit":
        sys.exit(int(value))
    elif act == "die":
        os.kill(os.getpid(), getattr(signal, value or "SIGKILL"))
    elif act == "sleep":
        time.sleep(float(value))
    elif act == "orphan":
        subprocess.Popen(["sleep", "600"], start_new_session=True)
    elif act == "term":  # work until a signal comes, then save
        while not told:
            time.sleep(0.01)
        save(int(value))
        print(f"stopped at step {{value}} by signal SIGTERM; a checkpoint is saved, the same command goes on", flush=True)
        sys.exit(0)
    elif act == "done":
        open(folder + "/metrics.jsonl", "a").write(json.dumps(dict(kind="done", step=100)) + "\\n")
'''


class Case:
    def __init__(self, home, script):
        self.folder = home / "runs" / "t"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "script.json", script)
        write_json(self.folder / "config.json", {"plan": {"steps": 100}})
        self.fake = home / "fake"
        self.fake.write_text(FAKE.format(python=sys.executable, folder=str(self.folder)))
        self.fake.chmod(self.fake.stat().st_mode | stat.S_IXUSR)
        self.log = jobs.paths(self.folder, "train")[0]

    def start(self, **args):
        code = f"import sys; sys.executable = {str(self.fake)!r}; from gpt2course import supervise as s; s.LOOK = 0.02; s.main(s.Supervise(name='t', train='[]', **{args!r}))"
        env = jobs.environment() | {jobs.JOB: f"{self.folder.absolute()}:train"}
        with open(self.log, "ab") as out:
            return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env=env)

    def run(self, **args):
        """(exit code, last line)"""
        code = self.start(**args).wait(60)
        assert jobs.family(self.folder) == []
        return code, self.text().splitlines()[-1]

    def text(self):
        return self.log.read_text()

    @property
    def starts(self):
        with contextlib.suppress(OSError):
            return (self.folder / "starts").stat().st_size
        return 0

    def wait_for(self, what, seconds=30):
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, self.text()
            time.sleep(0.02)


@pytest.fixture
def case(tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2COURSE_HOME", str(tmp_path))
    return lambda *script: Case(tmp_path, script)


def test_a_training_that_dies_is_started_again_from_its_checkpoint(case):
    c = case(["save:5", "die"], ["say:ValueError: something odd", "save:9", "exit:1"], ["done"])
    code, last = c.run()
    assert code == 0 and c.starts == 3 and last.startswith("finished: step 100, ") and last.endswith("2 restarts") and read_json(c.folder / "supervisor.json")["restarts"] == 2
    assert "restart from the checkpoint of step 5, failure 1 of at most 5 without coming further: training was killed by SIGKILL" in c.text()
    assert "restart from the checkpoint of step 9, failure 1 of at most 5 without coming further: training ended with exit code 1: ValueError: something odd" in c.text()
    assert "restart from the checkpoint of step 9" in (c.folder / "log.txt").read_text()


def test_it_gives_up_after_so_many_failures_without_a_new_checkpoint(case):
    c = case(["die:SIGSEGV"])
    code, last = c.run(tries=2)
    assert code == 2 and c.starts == 2 and last == "error: training failed 2 times without coming further than step 0: training was killed by SIGSEGV"
    assert "restart from the beginning, failure 1 of at most 2" in c.text()


def test_a_new_checkpoint_counts_from_the_beginning(case):
    c = case(*([f"save:{n}", "die"] for n in range(1, 6)), ["done"])
    assert c.run(tries=2)[0] == 0 and c.starts == 6  # five failures, none of them twice at the same step


def test_a_training_without_a_sign_of_life_is_ended_and_started_again(case):
    c = case(["beat:step", "sleep:600"], ["done"])
    began = time.monotonic()
    assert c.run(stall_minutes=0.02)[0] == 0 and 1.2 < time.monotonic() - began < 20 and c.starts == 2
    assert "no sign of life for 1." in c.text() and "the last was: step" in c.text()


@pytest.mark.parametrize("doing,patience", [("start", 6), ("first step", 6), ("checkpoint", 3), ("evaluation", 1)])
def test_what_takes_long_is_given_longer(case, doing, patience):
    c = case([f"beat:{doing}", "sleep:600"], ["done"])
    began = time.monotonic()
    assert c.run(stall_minutes=0.01)[0] == 0
    assert 0.6 * patience < time.monotonic() - began < 0.6 * patience + 8


def test_a_life_with_signs_is_left_alone(case):
    c = case([*["beat:step", "sleep:0.3"] * 8, "done"])
    assert c.run(stall_minutes=0.015)[0] == 0 and c.starts == 1


def test_an_error_that_comes_again_is_not_repeated(case):
    c = case(["say:error: the corpus is gone; mend it", "exit:2"])
    assert c.run() == (2, "error: the corpus is gone; mend it") and c.starts == 2  # once more, since a disk or a network may have been slow
    for text in ("the loss is nan at step 7, from 1 of the batch's 8 rows; ...", "parameter x is not finite after step 3; ..."):
        c = case([f"say:error: {text}", "exit:2"])
        (c.folder / "starts").unlink()
        assert c.run() == (2, f"error: {text}") and c.starts == 1  # the same batch would give it again


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_saves_and_ends_and_the_next_start_goes_on(case, number):
    c = case(["beat:step", "term:7"], ["done"])
    child = c.start(price_per_hour=3600.0)
    c.wait_for(lambda: c.starts == 1)
    time.sleep(0.5)
    child.send_signal(getattr(signal, number))
    assert child.wait(30) == 0 and jobs.family(c.folder) == []
    last = c.text().splitlines()[-1]
    assert last.startswith(f"stopped at step 7 of 100 by signal {number} (") and last.endswith("; the same command goes on from there") and "since the first start, $" in last
    assert c.run()[0] == 0 and c.starts == 2


def test_limits_count_all_starts_together(case):
    c = case(["beat:step", "term:7"])
    code, last = c.run(max_hours=2 / 3600)
    assert code == 0 and last.startswith("stopped at step 7 of 100 by max_hours 0.000555556 (2.")
    seconds = read_json(c.folder / "supervisor.json")["seconds"]
    assert 2 <= seconds < 10
    assert c.run(max_hours=2 / 3600)[0] == 0 and c.starts == 1  # used up: nothing is started
    code, last = c.run(max_hours=(seconds + 3) / 3600)
    assert c.starts == 2 and "by max_hours" in last and read_json(c.folder / "supervisor.json")["seconds"] >= seconds + 3
    code, last = c.run(max_cost_usd=1000.0, price_per_hour=3600.0 * 1000.0)
    assert code == 0 and "by max_cost_usd 1000" in last and c.starts == 2


def test_a_training_that_stops_by_a_limit_of_its_own_is_stopped(case):
    c = case(["save:3", "say:stopped at step 3 by stop_after 3; a checkpoint is saved, the same command goes on", "exit:0"])
    code, last = c.run()
    assert code == 0 and last.startswith("stopped at step 3 of 100 by stop_after 3 (") and c.starts == 1


def test_nothing_outlives_a_killed_supervisor(case):
    c = case(["beat:step", "orphan", "sleep:600"], ["done"])
    child = c.start()
    c.wait_for(lambda: c.starts == 1 and len(jobs.family(c.folder)) == 3)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    c.wait_for(lambda: len(jobs.family(c.folder)) == 1)  # the kernel ends training; the sleep it left behind is the next start's to end
    assert c.run()[0] == 0 and c.starts == 2


def test_what_a_training_leaves_behind_is_ended(case):
    c = case(["orphan", "exit:1"], ["done"])
    assert c.run()[0] == 0 and "; 1 processes that were left were killed" in c.text()


@pytest.mark.parametrize("text", ["{", "[]", '{"seconds": "x"}', "null"])
def test_a_damaged_clock_begins_again(case, text):
    c = case(["done"])
    (c.folder / "supervisor.json").write_text(text)
    assert c.run()[0] == 0 and 0 < read_json(c.folder / "supervisor.json")["seconds"] < 30


def test_a_stop_does_not_wait_for_the_next_try(case):
    c = case(["die"])
    child = c.start(tries=5)
    c.wait_for(lambda: "failure 3 of at most 5" in c.text(), 60)  # now it waits for 40 seconds
    began = time.monotonic()
    child.terminate()
    assert child.wait(10) == 0 and time.monotonic() - began < 5 and c.text().splitlines()[-1].startswith("stopped before the first checkpoint by signal SIGTERM")


def test_it_is_not_for_typing(tmp_path):
    done = subprocess.run([sys.executable, "-m", "gpt2course.ops.supervise", "x", "--train", "[]"], capture_output=True, text=True, env=jobs.environment() | {"GPT2COURSE_HOME": str(tmp_path)})
    assert done.returncode == 2 and "supervise is not for typing" in done.stderr


def test_a_family_is_its_own(tmp_path):
    """Processes are found in any session, by their run and stage, and those of a run whose name begins alike are left alone."""
    env = lambda run, stage: os.environ | {jobs.JOB: f"{(tmp_path / run).absolute()}:{stage}"}  # noqa: E731
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    mine, other, longer = (subprocess.Popen(sleep, env=env(*key), start_new_session=True) for key in (("a", "train"), ("a", "train2"), ("a2", "train")))
    try:
        assert jobs.family(tmp_path / "a", "train") == [mine.pid] and sorted(jobs.family(tmp_path / "a")) == sorted([mine.pid, other.pid])
        assert jobs.end_all(tmp_path / "a", "train") == [mine.pid] and mine.wait(5) == -signal.SIGKILL
        assert other.poll() is None and longer.poll() is None
    finally:
        for p in (mine, other, longer):
            p.kill()
            p.wait()


def test_beats_cost_nothing_where_nobody_watches(tmp_path, monkeypatch):
    from gpt2course.ops import supervise

    monkeypatch.delenv(supervise.HEARTBEAT, raising=False)
    supervise.beat("step")
    monkeypatch.setenv(supervise.HEARTBEAT, str(tmp_path / "beat"))
    supervise.beat("step")
    first = (tmp_path / "beat").stat().st_mtime_ns
    for _ in range(100):
        supervise.beat("step")
    assert (tmp_path / "beat").stat().st_mtime_ns == first  # once a second
    supervise.beat("checkpoint")
    assert (tmp_path / "beat").read_text() == "checkpoint"
    monkeypatch.setenv("RANK", "1")
    supervise.beat("evaluation")
    assert (tmp_path / "beat").read_text() == "checkpoint"  # rank 0's word alone
    json.dumps(supervise.PATIENCE)
