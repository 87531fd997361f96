"""The process that keeps a training at work: restarts one that dies or hangs, ends one that has cost enough. Lesson 14.

    kernel . . . supervisor ---- torchrun ---- a rank for each device        (with one device: supervisor ---- training)

jobs.launch starts the supervisor, in a session of its own, so that it outlives the kernel. It starts `gpt2course.train`
in another session, so that a signal to its own group reaches itself alone: it passes the signal on to the ranks, which
save a checkpoint. Where a link in this chain is killed, the kernel of Linux kills what hangs on it; whatever is left
anyhow, the next start ends. What is said goes to the run's one log, and its last line says how it ended. Nothing here
loads torch.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from gpt2course.ops import jobs
from gpt2course.files import UserError, command, read_json, run_folder, write_json
from gpt2course.files import duration

HEARTBEAT = "GPT2COURSE_HEARTBEAT"  # environment variable: the file in which rank 0 says what it is doing
# How many times stall_minutes each may take without a word: loading, and the first step, which torch.compile prepares;
# a checkpoint is some 10 GB
PATIENCE = {"start": 6, "first step": 6, "checkpoint": 3}
LOOK = 0.2  # seconds between two looks at the training
ALONE = 20.0  # seconds that the other ranks get to end by themselves when one has died
NON_FINITE = r"is not finite after step|^the loss is (nan|-?inf)"  # Trainer.diverged: the same batch gives it again


@dataclass
class Supervise:
    """What the runbook starts to train a run; not for typing."""

    name: tyro.conf.Positional[str]  # of the run
    train: str  # arguments of gpt2course.train, a JSON list
    devices: int = 1  # ranks; with more than one torchrun starts them
    corpus: str = ""  # a corpus in shards goes on downloading meanwhile
    stall_minutes: float = 5.0  # without a sign of life, before it is killed and started again
    tries: int = 5  # failures in a row without a new checkpoint
    price_per_hour: float | None = None
    max_hours: float | None = None  # at work, of all starts together, whatever was done in them
    max_cost_usd: float | None = None


# ---- what training says


_said = ["", 0.0]


def beat(doing: str) -> None:
    """A sign of life of training: what it does from now on. Costs nothing where nobody watches, or within a second."""
    path, now = os.environ.get(HEARTBEAT), time.monotonic()
    if path and os.environ.get("RANK", "0") == "0" and (doing != _said[0] or now - _said[1] >= 1):
        with contextlib.suppress(OSError):  # a full disk is noticed elsewhere
            Path(path).write_text(doing)
        _said[:] = doing, now


# ---- the supervisor


class Supervisor:
    """One run's: what it has cost so far, and whether somebody wants it to end."""

    def __init__(self, args: Supervise):
        self.args, self.folder = args, run_folder(args.name)
        self.log, self.heartbeat = jobs.paths(self.folder, "train")[0], self.folder / "heartbeat"
        self.file = self.folder / "supervisor.json"
        self.before, self.restarts = 0.0, 0  # seconds at work of earlier starts, and restarts so far
        with contextlib.suppress(UserError, TypeError, KeyError):
            old = read_json(self.file)
            self.before, self.restarts = old["seconds"], old["restarts"]
        self.began = self.kept = time.monotonic()
        self.reason = None  # why training is to end
        self.downloaded = -1  # bytes of the corpus when training was last found silent

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.began

    def say(self, line: str) -> None:
        print(line, flush=True)
        with contextlib.suppress(OSError), open(self.folder / "log.txt", "a", encoding="utf-8") as f:
            f.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")

    def keep(self) -> None:
        self.kept = time.monotonic()
        with contextlib.suppress(OSError):
            write_json(self.file, {"seconds": round(self.seconds, 2), "restarts": self.restarts})

    def must_end(self) -> str | None:
        """Why training is to end: a signal, or a limit that is reached."""
        if time.monotonic() - self.kept >= 10:
            self.keep()
        hours, a = self.seconds / 3600, self.args
        if self.reason is None and a.max_hours is not None and hours >= a.max_hours:
            self.reason = f"max_hours {a.max_hours:g}"
        if self.reason is None and a.max_cost_usd is not None and hours * a.price_per_hour >= a.max_cost_usd:
            self.reason = f"max_cost_usd {a.max_cost_usd:g}"
        return self.reason

    def checkpoint(self) -> int:
        """The step of the newest checkpoint, -1 where there is none."""
        found = self.folder.glob("checkpoints/step_????????/state.json")
        return max((int(p.parent.name[5:]) for p in found), default=-1)

    def downloading(self) -> bool:
        """Whether training waits for its text: more of it has come since this was last asked."""
        from gpt2course.ops import shards

        if self.args.corpus.partition(":")[0] not in shards.SHARD_CORPORA:
            return False
        p, before = shards.progress(self.args.corpus), self.downloaded
        self.downloaded = p["bytes_done"]
        return p["state"] == "downloading" and p["bytes_done"] > before

    def silent(self) -> str | None:
        """What to say of a training that has shown no sign of life for too long."""
        try:
            doing, since = self.heartbeat.read_text(), time.time() - self.heartbeat.stat().st_mtime
        except OSError:
            return None
        most = 60 * self.args.stall_minutes * PATIENCE.get(doing, 1)
        if since < most:
            return None
        if self.downloading():
            self.heartbeat.touch()
            return None
        return f"no sign of life for {duration(since)}, the last was: {doing or 'nothing'}"

    def ranks(self, child: int) -> list[int]:
        """The processes that train: the child itself, or those that torchrun has started."""
        if self.args.devices == 1:
            return [child]
        if sys.platform != "linux":
            pids = subprocess.run(["pgrep", "-P", str(child)], capture_output=True, text=True).stdout
        else:
            try:
                pids = " ".join(file.read_text() for file in Path(f"/proc/{child}/task").glob("*/children"))
            except OSError:  # just ended
                return []
        return [int(pid) for pid in pids.split()]

    def attempt(self) -> str | None:
        """Start training and stay with it until nothing of it is left; returns what went wrong, None if nothing did."""
        a = self.args
        jobs.end_all(self.folder, "train")
        self.heartbeat.write_text("start")
        size = self.log.stat().st_size if self.log.exists() else 0
        env = os.environ | {HEARTBEAT: str(self.heartbeat)}
        env["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = "600"  # a SIGTERM to all processes leaves them time to save
        if a.devices > 1:
            env.setdefault("OMP_NUM_THREADS", "1")  # as torchrun would, with a page of explanation
        argv = [sys.executable, "-m", *jobs.on_devices(a.devices), "gpt2course.train", *json.loads(a.train)]
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, env=env, start_new_session=True, preexec_fn=jobs.end_with_parent
        )
        wrong = self.watch(child)
        left = jobs.end_all(self.folder, "train")
        code = child.wait()
        lines = jobs.whole_lines(self.log, size)[0]
        if wrong is None and code:
            wrong = self.why_it_ended(code, lines)
        elif wrong is None and self.reason is None:  # it may have had a signal, or a limit of its own
            said = (re.match(r"stopped .* by (.+); a checkpoint", line) for line in reversed(lines))
            self.reason = next((m[1] for m in said if m), None)
        return f"{wrong}; {len(left)} processes that were left were killed" if wrong and left else wrong

    def watch(self, child: subprocess.Popen) -> str | None:
        """Until training ends, or must be ended: returns why. Once it is to stop, each rank is told so."""
        n, told, complete, incomplete_since = self.args.devices, set(), False, None
        while child.poll() is None:
            time.sleep(LOOK)
            if self.must_end() or n > 1:
                ranks = self.ranks(child.pid)
                for pid in set(ranks) - told if self.must_end() else ():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
                    told.add(pid)
                complete = complete or len(ranks) == n
                if not complete or len(ranks) == n:
                    incomplete_since = None
                elif incomplete_since is None:
                    incomplete_since = time.monotonic()
                elif time.monotonic() - incomplete_since > ALONE:
                    return f"{n - len(ranks)} of {n} ranks ended and the others did not"
            if wrong := self.silent():
                return wrong
        return None

    def why_it_ended(self, code: int, lines: list[str]) -> str:
        """What to say of a training that ended with this exit code, from the lines that it wrote."""
        if said := jobs.last_error(lines):
            return said
        raised = r"(\[rank\d+\]: ?)?[\w.]+(Error|Exception)\b"
        errors = [line for line in lines if re.match(raised, line) and "ChildFailedError" not in line]
        by = re.findall(
            r"Signal \d+ \((SIG\w+)\)", "\n".join(lines)
        )  # torchrun's words, which ends the others by SIGTERM
        by.sort(key="SIGTERM".__eq__)
        how = f"was killed by {by[0]}" if by and code > 0 else jobs.ended(code)
        return f"{'a rank' if self.args.devices > 1 else 'training'} {how}{f': {errors[-1][:300]}' if errors else ''}"

    def run(self) -> int:
        """Keep training at work to its end; returns the exit code: 0 finished or stopped, 2 given up."""
        failures, before = (
            0,
            None,
        )  # in a row without a new checkpoint; the last one's (step of the checkpoint, what was wrong)
        while True:
            wrong = None
            if not self.must_end():
                self.download()
                wrong = self.attempt()
            last = {m["kind"]: m for m in jobs.read_metrics(self.folder)}
            if "done" in last:
                spent = f"{duration(self.seconds)} at work since the first start, {self.restarts} restarts"
                self.say(f"finished: step {last['done']['step']:,}, {spent}")
                return 0
            reached = self.checkpoint()
            if wrong and wrong.startswith("error: "):
                again = re.search(NON_FINITE, wrong[7:]) or before == (reached, wrong)
                if again or self.must_end():
                    print(wrong, flush=True)  # whoever follows shows it; log.txt tells what came before
                    return 2
            if self.must_end() or not wrong:
                self.say(self.stopped())
                return 0
            failures = 1 if before is None or reached > before[0] else failures + 1
            before = reached, wrong
            if failures >= self.args.tries:
                where = f"step {max(0, reached):,}: {wrong.removeprefix('error: ')}"
                self.say(f"error: training failed {failures} times without coming further than {where}")
                return 2
            self.restarts += 1
            self.keep()
            where = f"from the checkpoint of step {reached:,}" if reached >= 0 else "from the beginning"
            which = f"failure {failures} of at most {self.args.tries} without coming further"
            self.say(f"restart {where}, {which}: {wrong}")
            until = time.monotonic() + (min(60, 5 * 2**failures) if failures > 1 else 0)
            while time.monotonic() < until and not self.must_end():
                time.sleep(LOOK)

    def stopped(self) -> str:
        """The last line of a run that stopped before its end."""
        step, of = self.checkpoint(), 0
        with contextlib.suppress(UserError):
            of = read_json(self.folder / "config.json")["plan"]["steps"]
        spent, price = f"{duration(self.seconds)} at work since the first start", self.args.price_per_hour
        cost = f", ${self.seconds / 3600 * price:.2f}" if price is not None else ""
        where = f"at step {step:,} of {of:,}" if step >= 0 else "before the first checkpoint"
        return f"stopped {where} by {self.reason or 'itself'} ({spent}{cost}); the same command goes on from there"

    def download(self) -> None:
        """See to it that what is missing of the corpus is being fetched: that may have ended with the training."""
        from gpt2course.ops import shards

        if self.args.corpus.partition(":")[0] in shards.SHARD_CORPORA:
            try:
                shards.ensure(self.args.corpus)
            except UserError as e:
                self.say(f"warning: {e}")


def main(args: Supervise) -> None:
    if jobs.JOB not in os.environ:
        by_hand = "to train by hand: python -m gpt2course.train --help"
        raise UserError(f"supervise is not for typing: the runbook starts it; {by_hand}")
    supervisor = Supervisor(args)

    def on_signal(number, _frame):
        supervisor.reason = supervisor.reason or f"signal {signal.Signals(number).name}"

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    code = 2
    try:
        code = supervisor.run()
    finally:
        supervisor.keep()
        jobs.end_all(supervisor.folder, "train")
    sys.exit(code)


if __name__ == "__main__":
    command(main)
