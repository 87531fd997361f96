"""The 8xh100 profile, rehearsed: the same notebook and the same code with two gloo ranks on a CPU at tiny size, killed at random moments.

papermill, the kernel, the supervisor, torchrun, a rank, or everything at once, as when a node goes. Whatever it was, the same command
goes on, the curve and the weights are those of an undisturbed run to the last bit, and nothing is left running.
GPT2COURSE_REHEARSAL_KILLS is the number of kills; what 30 and 60 gave stands in LOG.md.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_train import curve, same, weights

from gpt2course.ops import jobs, runbook as speedrun
from gpt2course.data import load_corpus
from gpt2course.files import read_json, write_json

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
ROOT = Path(__file__).parent.parent
KILLS = int(os.environ.get("GPT2COURSE_REHEARSAL_KILLS", 12))
STEPS = 100 * KILLS
SIZE = f"depth=2 width=32 head_dim=16 sequence_len=32 vocab_size=300 batch_tokens=512 steps={STEPS} eval_bytes=4000"
PARAMETERS = dict(profile="8xh100", devices=2, settings=SIZE, save_minutes=0.01, price_per_hour=24, max_hours=2, core_bundle="mini", core_examples=2, seed=3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder, text = tmp_path_factory.mktemp("corpus"), load_corpus("embedded")
    for name, documents in (("train", [text.train[i] for i in range(3000)]), ("val", [text.val[i] for i in range(20)])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in documents))
    return str(folder)


def processes(home) -> dict[int, tuple[int, str]]:
    """{pid: (parent, command)} of all living processes that were started for this home."""
    found, mark = {}, f"GPT2COURSE_HOME={home}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (place / "environ").read_bytes().split(b"\0") and jobs.stat(int(place.name))[0] not in "ZX":
                found[int(place.name)] = int(jobs.stat(int(place.name))[1]), (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


class Notebook:
    """`papermill runbooks/speedrun.ipynb` as a person starts it, again and again, always by the same command."""

    def __init__(self, home, name, corpus):
        self.home, self.name, self.child, self.starts, self.hit = home, name, None, 0, False
        kernels = home / "jupyter" / "kernels" / "gpt2course"
        kernels.mkdir(parents=True, exist_ok=True)
        write_json(kernels / "kernel.json", {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "gpt2course", "language": "python"})
        given = PARAMETERS | {"name": name, "corpus": corpus}
        self.argv = [sys.executable, "-m", "papermill", str(ROOT / "runbooks" / "speedrun.ipynb"), str(home / f"{name}.ipynb"), "-k", "gpt2course", "--log-output", "--no-progress-bar"]
        self.argv += [x for key, value in given.items() for x in ("-r", key, str(value))]
        self.env = jobs.environment() | {"JUPYTER_PATH": str(home / "jupyter"), "GPT2COURSE_HOME": str(home), "OMP_NUM_THREADS": "1"}
        self.folder = home / "runs" / name

    def start(self):
        with open(self.home / f"{self.name}.log", "ab") as out:
            self.child = subprocess.Popen(self.argv, env=self.env, cwd=self.home, stdout=out, stderr=out)
        self.starts, self.hit = self.starts + 1, False  # hit: something was killed that ends it

    def text(self):
        return (self.home / f"{self.name}.log").read_text(errors="replace")

    def find(self, kind) -> list[int]:
        """The processes that a kill of this kind is for."""
        there = processes(self.home)
        named = lambda word: [pid for pid, (_, command) in there.items() if word in command]  # noqa: E731
        if kind == "papermill":
            return [self.child.pid] if self.child.poll() is None else []
        if kind == "kernel":
            return named("ipykernel_launcher")
        if kind == "supervisor":
            return named("gpt2course.ops.supervise")
        torchrun = [pid for pid in named("torch.distributed.run") if "gpt2course.train" in there[pid][1]]
        if kind == "torchrun":
            return torchrun
        if kind == "rank":
            ranks = [pid for pid, (parent, _) in there.items() if parent in torchrun]
            return ranks if len(ranks) == 2 else []
        return list(there) if self.child.poll() is None else []

    def stage(self):
        """The first stage that has no result."""
        return next((s for s in speedrun.STAGES if speedrun.stored(self.folder, s) is None), None)


def kills(draw):
    """(when, what) of each kill: before training, in it, after it."""
    early = [("early", kind) for kind in ("kernel", "papermill", "everything")]
    late = [("late", kind) for kind in ("everything", "kernel", "papermill")]
    often = ["rank"] * 4 + ["everything"] * 2 + ["kernel", "papermill", "supervisor", "torchrun"]
    middle = (often * KILLS)[: KILLS - len(early) - len(late)]
    draw.shuffle(middle)
    return early + [("train", kind) for kind in middle] + late


def strike(book, when, kind, draw, before) -> int:
    """Wait for a random moment, kill, and return the step that training had then reached."""
    deadline = time.monotonic() + 240
    wait, ready = draw.random() * (1.5 if when == "train" else 4.0), None
    while True:
        assert time.monotonic() < deadline, f"no moment for {when}, {kind} came; {book.stage()}\n{book.text()[-3000:]}"
        if book.child.poll() is not None:
            assert book.hit, f"it ended by itself with {book.child.returncode}:\n{book.text()[-3000:]}"
            book.start()
        stage, reached = book.stage(), max((int(p.name[5:]) for p in (book.folder / "checkpoints").glob("step_????????")), default=0)
        due = {"early": stage not in (None, "train"), "train": stage == "train" and reached > before, "late": stage not in (*speedrun.STAGES[:5], "report")}[when]
        if due and (found := book.find(kind)):
            ready = ready or time.monotonic()
            if time.monotonic() - ready >= wait:
                break
        time.sleep(0.02)
    for pid in [draw.choice(found)] if kind == "rank" else found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    book.hit = book.hit or kind in ("kernel", "papermill", "supervisor", "everything")  # without its supervisor training ends, and the cell says so
    if kind in ("papermill", "everything"):
        assert book.child.wait(30) == -signal.SIGKILL
    return reached


def test_a_run_that_is_killed_again_and_again_is_the_undisturbed_run(course_home, corpus):
    calm, book = Notebook(course_home, "calm", corpus), Notebook(course_home, "killed", corpus)
    calm.start()
    assert calm.child.wait(600) == 0, calm.text()[-3000:]
    began, draw, struck, before = time.monotonic(), random.Random(8), [], 0
    book.start()
    for when, kind in kills(draw):
        before = strike(book, when, kind, draw, before)
        struck.append((when, kind, before))
    if book.child.wait(600) and book.hit:  # papermill ended; the same command goes on
        book.start()
    book.child.wait(600)
    took = time.monotonic() - began
    assert book.child.returncode == 0, book.text()[-3000:]
    assert len(struck) == KILLS and curve(book.folder) == curve(calm.folder) and same(weights(book.folder), weights(calm.folder))
    deadline = time.monotonic() + 30
    while (left := processes(course_home)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == {} and jobs.family(book.folder) == []
    one, two = (read_json(b.folder / "report" / "summary.json") for b in (calm, book))
    assert one["val_bpb"] == two["val_bpb"] and one["core"] == two["core"] and one["samples"] == two["samples"]
    supervised = read_json(book.folder / "supervisor.json")
    assert supervised["restarts"] >= sum(kind in ("rank", "torchrun") for when, kind, _ in struck) and (book.folder / "report" / "report.html").stat().st_size > 50_000
    checkpoints = [m for m in speedrun.read_metrics(calm.folder) if m["kind"] == "checkpoint"]
    share = sum(m["took"] for m in checkpoints) / one["train"]["seconds"]
    kinds = {f"{when} {kind}": sum((w, k) == (when, kind) for w, k, _ in struck) for when, kind, _ in struck}
    print(f"{KILLS} kills in {took:.0f} s: {kinds}; papermill started {book.starts} times, training restarted by its supervisor {supervised['restarts']} times; "
          f"{len(checkpoints)} checkpoints of the undisturbed run held it up for {share:.2%} of its training time")  # fmt: skip
