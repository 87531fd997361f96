"""The runbook: parameters as papermill passes them, stages that are not repeated, training that outlives its notebook."""

import dataclasses
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import helpers
import psutil
import pytest
from helpers import ROOT, grammar, write_corpus
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2course.course import plots
from gpt2course.files import UserError, read_json, write_json
from gpt2course.ops import children, download
from gpt2course.ops import runbook as rb
from gpt2course.ops.parameters import Params, Run, open_run

BOOK = ROOT / "runbooks" / "speedrun.ipynb"
TOY = "depth=2 width=32 head_dim=16 sequence_len=32 vocab_size=300 batch_tokens=256 steps=60 tiny_batch_lr=0.3 eval_bytes=2000"

# In place of the commands: `python -m act "say:hello" "exit:3" --out FILE` does one thing after another
ACT = '''
import json, os, signal, sys, time
acts = [a for a in sys.argv[1:] if ":" in a]
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
from pathlib import Path
folder = Path(os.environ["ACT_FOLDER"])
with open(folder / "starts", "a") as f:
    f.write("x")
first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
for act in acts:
    what, _, value = act.partition(":")
    if what == "say":
        print(value, flush=True)
    elif what == "sleep":
        time.sleep(float(value))
    elif what == "exit":
        sys.exit(int(value))
    elif what == "fail":
        raise ValueError(value)
    elif what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "die-first" and first:
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "result":
        Path(sys.argv[sys.argv.index("--out") + 1]).write_text(json.dumps({"value": value}))
    elif what == "pid":
        (folder / "rank").write_text(str(os.getpid()))
    elif what == "join":
        from gpt2course import ranks
        ranks.join("cpu")
    elif what == "error":
        (folder / "error.json").write_text(json.dumps({"error": value}))
        print("error: " + value, flush=True)
        sys.exit(2)
    elif what == "term":  # work until SIGTERM, then save
        while not asked:
            time.sleep(0.02)
        print(f"stopped at step {value} by signal SIGTERM; a checkpoint is saved, the same command continues", flush=True)
        sys.exit(0)
    elif what == "done":
        line = dict(step=9, tokens=9, flops=9, seconds=0.5)
        train = dict(loss=1.0, lr=1.0, tok_per_sec=1.0, time={"data": 0.1})
        with open(folder / "metrics.jsonl", "w") as f:
            for kind, more in (("train", train), ("eval", {"val_bpb": 2.0, "took": 0.1}), ("done", {})):
                f.write(json.dumps(dict(kind=kind) | line | more) + "\\n")
'''


@pytest.fixture
def run(course_home, tmp_path, monkeypatch):
    """A run whose commands are `act`; figures are not displayed. run.starts() counts the processes that it started."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "act.py").write_text(ACT)
    folder = course_home / "runs" / "toy"
    (folder / "stages").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "bin"))
    monkeypatch.setenv("ACT_FOLDER", str(folder))
    monkeypatch.setattr(plots, "show", lambda fig, dpi=100: None)
    for figure in ("learning_rates", "throughput"):
        monkeypatch.setattr(plots, figure, lambda metrics: None)
    yield Run(Params(name="toy"), types.SimpleNamespace(devices=1), "toy", folder, "embedded")
    if record := rb.living(folder):
        psutil.Process(record["pid"]).kill()


def starts(run):
    return (run.folder / "starts").stat().st_size if (run.folder / "starts").exists() else 0


def wait_for(what, seconds=60.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


# ---- parameters

papermill_values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30), st.lists(st.integers(), max_size=2),
    st.integers(-2, 200).map(str), st.floats(-1, 1e5).map(str),
    st.sampled_from(["None", "true", "False", "", " 6 ", "04", "1e-4", "1_000", "7", "mini", "record", "core", "../x", "a\x00b", "9" * 5000, "nan"]),
)  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(Params)]), papermill_values, max_size=5))
def test_whatever_papermill_passes_is_coerced_or_refused_in_one_line(values):
    try:
        p = Params.check(**values)
    except UserError as e:
        assert str(e).startswith("parameter ") and "\n" not in str(e) and len(str(e)) < 400
        return
    assert Params.check(**dataclasses.asdict(p)) == p  # what comes out is allowed, and is what it stands for
    assert Params.check(**{f.name: str(getattr(p, f.name)) for f in dataclasses.fields(Params)}) == p  # as papermill's -r
    for f in dataclasses.fields(Params):
        value, kind = getattr(p, f.name), f.type
        assert value is None or type(value) in (kind, *getattr(kind, "__args__", ()))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["laptop", "1gpu", "8xh100"]), st.sampled_from(["gpt2", "jan29", "record"]),
    st.dictionaries(st.sampled_from(["depth", "width", "steps", "ratio", "matrix_lr", "nonsense", "softcap"]),
                    st.one_of(st.integers(-1, 200), st.floats(allow_nan=True).map(str), st.just("x"), st.just("none")), max_size=3),
    st.one_of(st.none(), st.integers(1, 9)), st.one_of(st.none(), st.integers(1, 40)),
    st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=8)),
)  # fmt: skip
def test_a_run_is_derived_or_refused_in_one_line(course_home, profile, recipe, changes, devices, device_batch, name):
    text = " ".join(f"{k}={v}" for k, v in changes.items())
    try:
        run = open_run(Params.check(profile=profile, recipe=recipe, settings=text, devices=devices, device_batch=device_batch, name=name))
    except UserError as e:
        assert "\n" not in str(e)
        return
    rows = run.sizes.plan.batch_tokens // run.sizes.plan.model.sequence_len
    assert run.folder.parent == course_home / "runs" and rows % (run.sizes.devices * run.sizes.device_batch) == 0


@pytest.mark.parametrize(
    "name,text,value",
    [("depth", "6", 6), ("depth", "None", None), ("depth", "04", 4), ("seed", "1_000", 1000), ("seed", str(2**63 - 1), 2**63 - 1), ("price_per_hour", "1e-4", 1e-4),
     ("name", "7", "7"), ("name", "None", None), ("settings", "None", ""), ("smoke", "true", True), ("fp8", "True", True), ("profile", " 1gpu ", "1gpu")],
)  # fmt: skip
def test_what_papermill_makes_of_an_argument(name, text, value):
    from papermill.cli import _resolve_type  # what papermill makes of `-p name text`

    for arrives in (text, _resolve_type(text)):
        got = getattr(Params.check(**{name: arrives}), name)
        assert got == value and type(got) is type(value)


def test_what_people_mistype_gets_a_hint():
    for name, value, text in (
        ("profile", "laptob", "one of laptop, 1gpu, 8xh100"), ("depth", True, "whole number"), ("dept", 4, r"did you mean depth\?.*del dept"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"^parameter {name} .*{text}"):
            Params.check(**{name: value})
    with pytest.raises(UserError, match="gives 'depth' twice"):
        open_run(Params.check(depth=4, settings="depth=6"))


def test_the_namespace_of_a_notebook():
    shell = types.SimpleNamespace(user_ns_hidden={"a_hidden_list": 1, "In": [], "Out": {}})
    ipython = {"In": ["", "x"], "Out": {}, "get_ipython": lambda: shell, "exit": object(), "quit": object(), "open": open, "_i": "x", "__name__": "__main__",
               "a_hidden_list": [1], "rb": rb, "Path": Path, "params": Params(), "PAPERMILL_INPUT_PATH": "a.ipynb", "PAPERMILL_OUTPUT_PATH": "b.ipynb"}  # fmt: skip
    assert Params.from_namespace(ipython | {"depth": "5", "name": None}).depth == 5
    for value in ("x", 3, 0.5, True, None, [1], {"a": 1}):
        with pytest.raises(UserError, match=r"parameter profil does not exist; did you mean profile\?"):
            Params.from_namespace(ipython | {"profil": value})


# ---- the committed notebook


def test_the_notebook_is_what_its_source_makes():
    from papermill import inspect_notebook

    code = [c for c in helpers.committed("speedrun").cells if c.cell_type == "code"]
    tagged = [c for c in code if "parameters" in c.metadata.get("tags", [])]
    names = {}
    exec(tagged[0].source, {}, names)
    assert len(tagged) == 1 and names == {f.name: f.default for f in dataclasses.fields(Params)}
    assert list(inspect_notebook(str(BOOK))) == list(names)  # papermill understands every line, comments too
    assert "Params.from_namespace(globals())" in code[code.index(tagged[0]) + 1].source  # checked before anything else
    assert [m for c in code for m in re.findall(r"^runbook\.(\w+)\(run\);$", c.source, re.M)] == list(rb.STAGES)
    readme = (BOOK.parent / "README.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", readme, re.M)[: len(names)] == list(names)


# ---- stages


def test_a_stage_runs_once_for_the_same_inputs(run, capsys):
    argv = ["act", "say:hello", "result:1"]
    assert rb.stage(run, "data", argv, ["a"]) == {"value": "1"} == rb.stage(run, "data", argv, ["a"])
    out = capsys.readouterr().out
    assert starts(run) == 1 and out.count("hello") == 2 and out.count("from the same inputs") == 1  # shown again, not run again
    kept = rb.stored(run.folder, "data")
    assert kept["seconds"] > 0 and set(kept) == {"inputs", "seconds", "finished", "result"}
    for n, (command, inputs, always) in enumerate(((argv, ["b"], False), (["act", "result:2"], ["b"], False), (["act", "result:2"], ["b"], True)), 2):
        rb.stage(run, "data", command, inputs, always=always)
        assert starts(run) == n
    (run.folder / "stages" / "data.json").write_text('{"inputs": "')  # cut by a crash of the disk
    assert rb.stage(run, "data", ["act", "result:2"], ["b"]) == {"value": "2"} and starts(run) == 5


@pytest.mark.parametrize(
    "acts,message",
    [(["say:a", "exit:3"], "ended with exit code 3;.*\na$"), (["die:"], "ended with exit code -9 .killed: is there enough memory"), (["say:error: the corpus is gone; fetch it", "exit:2"], "^stage data: the corpus is gone; fetch it$"),
     (["fail:odd"], "exit code 1.*\nValueError: odd$"), ([":"], "result of stage data .* does not exist")],
)  # fmt: skip
def test_a_stage_that_fails_is_one_error_and_leaves_no_result(run, acts, message, capsys):
    rb.stage(run, "data", ["act", "result:1"], [])
    with pytest.raises(UserError, match=re.compile(message, re.S)):
        rb.stage(run, "data", ["act", *acts], [])
    assert rb.stored(run.folder, "data") is None
    assert "error:" not in (out := capsys.readouterr().out) and "Traceback" not in out  # errors are raised, not printed
    with pytest.raises(UserError, match="stage train has no result yet; run its cell first"):
        rb.summary(run)


def test_an_interrupted_stage_ends_its_command(run, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    before = psutil.Process().children()
    with monkeypatch.context() as m:
        m.setattr(time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            rb.stage(run, "data", ["act", "sleep:600"], [])
    assert not [c for c in psutil.Process().children() if c not in before and c.status() != psutil.STATUS_ZOMBIE]
    assert rb.stage(run, "data", ["act", "result:2"], []) == {"value": "2"}


@pytest.mark.skipif(sys.platform != "linux", reason="a child that ends with its parent")
def test_a_second_notebook_waits_and_a_killed_one_leaves_no_command(run):
    def start(*acts):
        notebook = multiprocessing.get_context("fork").Process(target=rb.stage, args=(run, "data", ["act", *acts], []), daemon=True)
        notebook.start()
        return notebook

    first, second = start("sleep:1", "result:1"), start("sleep:1", "result:1")
    first.join(60), second.join(60)
    assert first.exitcode == second.exitcode == 0 and starts(run) == 1
    killed = start("pid:", "sleep:600")
    wait_for(lambda: (run.folder / "rank").exists() and (run.folder / "rank").read_text())
    killed.kill()
    killed.join()
    wait_for(lambda: not psutil.pid_exists(int((run.folder / "rank").read_text())), 10)
    assert rb.stage(run, "data", ["act", "result:3"], []) == {"value": "3"}


def test_fingerprint_sees_names_sizes_and_times(tmp_path):
    folder, seen = tmp_path / "a", []
    folder.mkdir()
    f = folder / "x.txt"
    for change in (lambda: f.write_text("1"), lambda: f.write_text("22"), lambda: os.utime(f, (1, 1)), lambda: f.rename(folder / "y.txt")):
        change()
        seen.append(json.dumps(rb.fingerprint(folder)))
    assert len(set(seen)) == 4 and rb.fingerprint("embedded") == [] and rb.fingerprint("climbmix:3") == []


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=8), max_size=6), st.integers(0, 60), st.text("ab", max_size=3))
@settings(max_examples=100, deadline=None)
def test_lines_of_a_growing_log_come_once_and_whole(tmp_path_factory, lines, cut, rest):
    log = tmp_path_factory.getbasetemp() / "log"
    data = "".join(f"{line}\n" for line in lines).encode()
    log.write_bytes(data[:cut])
    first, at = children.read_lines(log)
    log.write_bytes(data + rest.encode())
    second, at = children.read_lines(log, at)
    assert first + second == lines and at == len(data)


# ---- training


linux = pytest.mark.skipif(sys.platform != "linux", reason="ranks that end with torchrun")


@pytest.fixture
def trains(monkeypatch):
    """trains("say:x", ...): what the training does from now on, under the real torchrun."""
    return lambda *acts, key="k": monkeypatch.setattr(rb, "train_command", lambda run: (["act", *acts], key))


def launches(run):
    return len(re.findall("ready", (run.folder / "train.log").read_text()))


def test_a_training_is_attached_to_and_stopped(run, trains, capsys):
    trains("say:ready", "term:7")
    record = rb.start(run)
    assert rb.start(run) == record and f"runs already in process {record['pid']}" in capsys.readouterr().out
    assert os.getpgid(record["pid"]) == record["pid"] != os.getpgid(0) and rb.state(run.folder) == "running"
    trains("say:ready", "term:7", key="other")
    with pytest.raises(UserError, match="is being trained with other settings .*ops.runbook stop toy"):
        rb.start(run)
    trains("say:ready", "term:7")
    wait_for(lambda: starts(run) == 1)
    assert rb.stop("toy", wait=0.01) is False and f"kill -9 {record['pid']}" in capsys.readouterr().out
    assert rb.stop("toy", wait=30) and rb.state(run.folder) == "stopped"
    lines = children.read_lines(run.folder / "train.log", record["log_from"])[0]
    assert re.match("training stopped at step 7 by signal SIGTERM; .*; run this notebook again to resume$", str(children.failure("train", lines, Path())))
    limit = children.failure("train", ["stopped at step 7 by max_hours 1.0; a checkpoint is saved"], Path())
    assert str(limit).endswith("; raise that limit, then run this notebook again to resume")
    assert "Traceback" not in "".join(children.readable(lines))
    trains("say:ready", "done:")
    assert rb.start(run)["log_from"] > record["log_from"]
    wait_for(lambda: rb.state(run.folder) == "finished")


def test_a_training_on_another_machine_is_stopped_there(run):
    write_json(run.folder / "train.pid", {"inputs": "k", "log_from": 0, "pid": 1, "created": 0.0, "node": "gpu-17"})
    (run.folder / "train.log").touch()
    with pytest.raises(UserError, match="run 'toy' was started on machine gpu-17; stop it there"):
        rb.main("stop", "toy")


@pytest.mark.slow
@linux
def test_a_dead_rank_is_restarted_and_a_finished_training_skipped(run, trains, capsys):
    trains("say:ready", "die-first:", "done:")
    result = rb.train(run)
    out = capsys.readouterr().out
    assert result == {"step": 9, "tokens": 9, "seconds": 0.5, "loss": 1.0, "val_bpb": 2.0} and launches(run) == 2
    assert "rank 0 ended with exit code -9" in out and "Traceback" not in out and "[E" not in out
    assert rb.train(run) == result and launches(run) == 2 and "train: done" in capsys.readouterr().out
    (run.folder / "stages" / "train.json").unlink()  # the result lost: ask the training, which knows that it is done
    trains("say:ready", "done:")
    assert rb.train(run) == result and launches(run) == 3
    assert rb.time_of_training(run.folder) == {"data": pytest.approx(0.9), "eval": 0.1}  # nine steps of 0.1 s, an evaluation
    assert rb.stored(run.folder, "train")["seconds"] == 1.0


@pytest.mark.slow
@linux
def test_when_torchrun_is_killed_no_rank_stays_and_the_cell_fails_with_one_error(run, trains):
    """Here while the rank is still importing torch; test_rehearsal.py kills torchrun later."""

    def kill():
        wait_for(lambda: rb.living(run.folder) and (run.folder / "rank").exists() and (run.folder / "rank").read_text())
        os.kill(rb.living(run.folder)["pid"], signal.SIGKILL)

    trains("pid:", "sleep:1", "join:", "sleep:600")
    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(UserError, match="stage train ended without a result; run this notebook again to resume"):
        rb.train(run)
    wait_for(lambda: not psutil.pid_exists(int((run.folder / "rank").read_text())), 20)
    assert rb.state(run.folder) == "stopped"


@pytest.mark.slow
def test_an_error_that_would_come_again_ends_at_once(run, trains):
    (run.folder / "error.json").write_text("{}")  # of an earlier start
    trains("say:ready", "error:the loss is nan at step 7")
    with pytest.raises(UserError, match="^stage train: the loss is nan at step 7$"):
        rb.train(run)
    assert launches(run) < 3  # torchrun would have started it three times
    trains("say:ready", "fail:odd")
    with pytest.raises(UserError, match=re.compile("stage train ended without a result; .*ValueError: odd", re.S)):
        rb.train(run)
    assert "rank 0 ended with exit code 1" in children.readable(children.read_lines(run.folder / "train.log")[0])


def test_a_training_has_its_record_although_its_kernel_was_killed_while_it_started_it(run, monkeypatch):
    """The kernel dies at any moment after the fork: the child itself writes the record, before it becomes torchrun."""
    popen = subprocess.Popen

    def die(*args, **options):
        popen(*args, **options)
        os._exit(9)  # no line of `background` runs any more

    monkeypatch.setattr(subprocess, "Popen", die)
    if (kernel := os.fork()) == 0:
        rb.background(run, "train", ["act", "sleep:600"], "k")
    assert os.waitstatus_to_exitcode(os.waitpid(kernel, 0)[1]) == 9
    assert rb.living(run.folder)["inputs"] == "k" and rb.state(run.folder) == "running"


def test_a_process_is_known_by_its_start_time(run):
    record = rb.background(run, "train", ["act", "sleep:600"], "k")
    assert rb.living(run.folder) == record and rb.living(run.folder, "download") is None
    for wrong in ({"created": psutil.Process().create_time() - 1000}, {"pid": 2**22 + 1}, {"pid": "x"}, {"pid": -1}):
        write_json(run.folder / "train.pid", record | wrong)
        assert rb.living(run.folder) is None
    (run.folder / "train.pid").write_text("{")
    assert rb.living(run.folder) is None
    write_json(run.folder / "train.pid", record)
    psutil.Process(record["pid"]).kill()  # nobody waits for it: a zombie
    wait_for(lambda: rb.living(run.folder) is None, 10)


def test_commands_name_the_runs_that_exist(run, capsys):
    for name, message in (("toyy", "there is no run 'toyy' .*there are toy"), ("../x", "run name '../x' is not allowed")):
        with pytest.raises(UserError, match=message):
            rb.main("stop", name)
    with pytest.raises(SystemExit) as e:
        rb.main("stop", "toy")
    assert e.value.code == 0 and "run toy is new" in capsys.readouterr().out
    with pytest.raises(UserError, match="wait = -1"):
        rb.main("stop", "toy", -1.0)
    with pytest.raises(UserError, match="has no checkpoint; run the training cell first"):
        rb.evaluate(run)


def test_training_waits_for_the_download_and_its_failure_is_one_error(run, monkeypatch, capsys):
    run = dataclasses.replace(run, corpus="climbmix:9")
    progress = {"corpus": "climbmix:9", "done": 0, "total": 10, "first": False, "bytes": 0}
    monkeypatch.setattr(download, "progress", lambda corpus: progress | {"done": 9 if starts(run) > 1 else 0, "first": starts(run) > 0})
    real = rb.launch
    monkeypatch.setattr(rb, "launch", lambda argv, *a, **k: real(["act", *acts], *a, **k))
    acts = ["sleep:0.5", "say:error: no connection", "exit:2"]  # the download in the background
    monkeypatch.setattr(rb, "stage", lambda run, name, argv, inputs: {"stage": name, "argv": argv})
    assert rb.data(run) == {"stage": "data", "argv": ["gpt2course.data", "climbmix:9"]} and starts(run) == 1
    with pytest.raises(UserError, match="^stage download: no connection$"):
        rb.train(run)
    assert "training waits for climbmix:9: 0 of 10 shards" in capsys.readouterr().out
    assert rb.living(run.folder, "download") is None
    rb.data(run)  # starts it again
    wait_for(lambda: starts(run) == 2)


def test_which_bundle_is_taken(run, course_home, monkeypatch):
    at = lambda **params: rb.bundle(Params(**params))  # noqa: E731
    mini = at()
    assert Path(mini, "core.yaml").is_file() and at(profile="1gpu") == mini and at(profile="1gpu", core_bundle="mini") == mini and at(core_bundle="/b") == "/b"
    (course_home / "eval").mkdir()
    (course_home / "eval" / "eval_bundle.zip").write_bytes(b"")
    assert at() == mini and at(profile="1gpu") == str(course_home / "eval" / "eval_bundle.zip")
    fetched = []
    monkeypatch.setattr(download, "get_core", lambda: fetched.append(1))
    monkeypatch.setattr(rb, "stage", lambda run, name, argv, inputs: {})
    for params, times in ((Params(), 0), (Params(profile="8xh100", core_bundle="mini"), 0), (Params(profile="8xh100"), 1)):
        rb.data(dataclasses.replace(run, params=params))
        assert len(fetched) == times


# ---- the whole notebook, through papermill's own command line


def papermill(home, out, *parameters, threads="1"):
    argv, env = helpers.papermill(home, "speedrun", out, *parameters, threads=threads)
    return subprocess.run(argv, env=env, cwd=home, capture_output=True, text=True)


def texts(book):
    return "".join(out.get("text", "") for cell in book.cells for out in cell.get("outputs", ()))


def pictures(book):
    return [m for c in book.cells for o in c.get("outputs", ()) for m in re.findall(r'<img alt="([^"]+)"[^>]*base64', o.get("data", {}).get("text/html", ""))]


@pytest.mark.slow
def test_the_notebook_runs_and_run_again_shows_what_it_has(tmp_path_factory):
    import nbformat

    home = tmp_path_factory.mktemp("a home")  # with a space, and another working directory
    corpus = write_corpus(tmp_path_factory.mktemp("a corpus") / "toy.jsonl", grammar())
    argv = ["-p", "corpus", corpus, "-p", "settings", TOY, "-p", "core_examples", "2", "-p", "price_per_hour", "3.6e3", "-p", "seed", "7", "-p", "name", "None"]
    done = papermill(home, home / "out.ipynb", *argv)
    assert done.returncode == 0, done.stderr[-3000:]
    book, folder = nbformat.read(home / "out.ipynb", 4), home / "runs" / "jan29-d2"
    summary, config = read_json(folder / "summary.json"), read_json(folder / "config.json")
    assert summary["train"]["step"] == 60 and config["seed"] == 7 and config["plan"]["steps"] == 60 and config["corpus"] == corpus
    assert 0 < summary["evaluate"]["val_bpb"] < summary["evaluate"]["xz_bpb"] and summary["evaluate"]["val_bpb"] == pytest.approx(summary["train"]["val_bpb"], rel=1e-6)
    assert summary["core"]["result"]["name"] == "mini-CORE" and len(summary["samples"]["texts"]) == 6 and summary["usd"] == pytest.approx(summary["seconds"])
    assert [stage for stage in rb.STAGES if not rb.stored(folder, stage)] == ["smoke", "summary"]  # skipped on a laptop; no stage of its own
    out = texts(book)
    assert "380 documents" in out and "licence: " in out and f"everything is in {folder}" in out and "at $3600 an hour" in out
    assert len(pictures(book)) == 7 and all(len(alt) > 40 for alt in pictures(book)) and (home / "out.ipynb").stat().st_size < 1_500_000
    assert "[figure: " in done.stderr + done.stdout  # --log-output shows the figures in words

    before = {stage: rb.stored(folder, stage) for stage in rb.STAGES[1:]}
    done = papermill(home, home / "again.ipynb", *argv, "--inject-paths")
    assert done.returncode == 0, done.stderr[-3000:]
    again = nbformat.read(home / "again.ipynb", 4)
    assert {stage: rb.stored(folder, stage) for stage in rb.STAGES[1:]} == before and pictures(again) == pictures(book)
    assert texts(again).count("from the same inputs") == 7 and "380 documents" in texts(again)  # its earlier output, again


@pytest.mark.alone
def test_the_laptop_profile(tmp_path):
    """The promise of the README: on 2 cores, 10 minutes, 25 % fewer bits than xz -9e; run again, it has nothing to do."""
    import nbformat

    began = time.monotonic()
    done = papermill(tmp_path, tmp_path / "out.ipynb", threads="2")
    assert done.returncode == 0, done.stderr[-3000:]
    seconds = time.monotonic() - began
    assert papermill(tmp_path, tmp_path / "again.ipynb", threads="2").returncode == 0
    again = time.monotonic() - began - seconds
    summary, book = read_json(tmp_path / "runs" / "jan29-d4" / "summary.json"), nbformat.read(tmp_path / "out.ipynb", 4)
    fewer = 1 - summary["evaluate"]["val_bpb"] / summary["evaluate"]["xz_bpb"]
    print(f"{seconds:.0f} s, again {again:.0f} s, {fewer:.1%} fewer bits than xz -9e")
    assert fewer >= 0.25 and summary["evaluate"]["val_bytes"] >= 500_000 and seconds < 600 and again < 90 and len(pictures(book)) == 7
