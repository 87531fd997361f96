"""The runbook: parameters as papermill passes them, stages that skip themselves, training that outlives its notebook."""

import ast
import dataclasses
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course.ops import jobs, params, preflight, runbook as speedrun, work
from gpt2course.files import UserError, read_json, write_json
from gpt2course.ops.runbook import Params

BOOK = Path(__file__).parent.parent / "runbooks" / "speedrun.ipynb"
TOY = "depth=2 width=32 head_dim=16 sequence_len=32 vocab_size=300 batch_tokens=256 steps=60 tiny_batch_lr=0.3 eval_bytes=2000"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """400 documents of a small grammar."""
    draw = random.Random(0)
    subjects, verbs, objects = (["the cat", "a dog", "the old man", "my friend"], ["sees", "likes", "paints"], ["the sea", "a house", "some bread"])
    path = tmp_path_factory.mktemp("corpus") / "toy.jsonl"
    with open(path, "w") as f:
        for _ in range(400):
            text = ". ".join(f"{draw.choice(subjects)} {draw.choice(verbs)} {draw.choice(objects)}" for _ in range(draw.randint(1, 9)))
            f.write(json.dumps({"text": text}) + "\n")
    return str(path)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Questions for a child are answered in this process, which has torch; figures are drawn and kept, not displayed."""
    from gpt2course.course import plots

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(params, "ask", lambda what, request: json.loads(json.dumps(work.STAGES[what](request))))
    monkeypatch.setattr(plots, "show", lambda fig, dpi=100: None)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2COURSE_HOME", str(tmp_path))
    return tmp_path


def toy(corpus, **changes):
    return speedrun.open_run(Params.check(**(dict(name="toy", corpus=corpus, settings=TOY, core_examples=2) | changes)))


def launches(folder, stage="train"):
    log = jobs.paths(folder, stage)[0]
    return len(re.findall(r"(?m)^--- .*python -m", log.read_text())) if log.exists() else 0


# ---- parameters


ACCEPTED = [  # papermill -p NAME TEXT -> value
    ("depth", "6", 6), ("depth", "6.0", 6), ("depth", "None", None), ("depth", "none", None), ("depth", "null", None), ("depth", "", None), ("depth", " 6 ", 6), ("depth", "04", 4), ("depth", "٤", 4), ("seed", "9007199254740993", 2**53 + 1), ("force_stage", " core ", "core"),
    ("seed", "1_000", 1000), ("seed", "0", 0), ("seed", str(2**63 - 1), 2**63 - 1), ("seed", "1e3", 1000), ("price_per_hour", "24", 24.0), ("price_per_hour", "1e-4", 1e-4),
    ("price_per_hour", "0", 0.0), ("max_hours", ".5", 0.5), ("name", "7", "7"), ("name", "try_2.a", "try_2.a"), ("name", "None", None), ("name", " x ", "x"),
    ("core_examples", "500", 500), ("settings", "steps=100  matrix_lr=3e-2", "steps=100 matrix_lr=3e-2"), ("settings", "resid_lambda=[1.0,0.9]", "resid_lambda=[1.0,0.9]"),
    ("settings", "", ""), ("settings", "None", ""), ("corpus", "embedded", "embedded"), ("corpus", "None", None), ("force_stage", "core", "core"), ("force_stage", "", None),
    ("core_bundle", "mini", "mini"), ("recipe", "record", "record"), ("profile", "1gpu", "1gpu"),
    ("smoke", "true", True), ("smoke", "False", False), ("fp8", "True", True), ("smoke", "None", None), ("devices", "1", 1), ("device_batch", "2", 2), ("save_minutes", "0.5", 0.5)]  # fmt: skip


@pytest.mark.parametrize("name,text,value", ACCEPTED)
def test_what_papermill_passes_is_coerced(name, text, value):
    from papermill.cli import _resolve_type  # what papermill makes of `-p name text`

    got = getattr(Params.check(**{name: _resolve_type(text)}), name)
    assert got == value and type(got) is type(value)
    assert getattr(Params.check(**{name: text}), name) == value  # `-r name text`, and YAML, where 1e-4 is text


REFUSED = [  # value as it arrives, and what the error must say
    ("profile", "laptob", r"profile = 'laptob' is not allowed; it must be one of laptop, 1gpu, 8xh100; did you mean laptop\?"), ("profile", True, "must be text"),
    ("profile", ["laptop"], "must be text"), ("recipe", "jan30", r"recipe 'jan30' does not exist; the ladder is .*jan29"), ("recipe", "true", "recipe 'true' does not exist"),
    ("depth", "true", "a whole number from 1 to 128"), ("depth", True, "depth = True is not allowed"), ("depth", False, "depth = False is not allowed"),
    ("depth", "[1,2]", "whole number"), ("depth", [1, 2], "whole number"), ("depth", 0, "from 1 to 128"), ("depth", -4, "from 1 to 128"), ("depth", 129, "from 1 to 128"),
    ("depth", 10**400, "from 1 to 128"), ("depth", "9" * 5000, "from 1 to 128"), ("depth", 4.5, "whole number"), ("depth", "4.5", "whole number"), ("depth", math.nan, "whole number"), ("depth", {"a": 1}, "whole number"),
    ("seed", -1, "from 0 to"), ("seed", 2**63, "from 0 to"), ("seed", "1e-4", "whole number"), ("seed", "forty-two", "whole number"),
    ("price_per_hour", -0.01, "a number from 0 to 100000"), ("price_per_hour", "true", "a number from 0"), ("price_per_hour", math.inf, "a number from 0"),
    ("price_per_hour", "nan", "a number from 0"), ("price_per_hour", "$24", "a number from 0"), ("max_hours", 0, "a number from"), ("max_hours", 1e9, "a number from"),
    ("max_cost_usd", 5, "needs price_per_hour"), ("name", "../x", "letters, digits"), ("name", "a b", "letters, digits"), ("name", ".hidden", "letters, digits"), ("name", True, "letters, digits"),
    ("name", "x" * 101, "at most 100"), ("corpus", 3.5, "embedded, climbmix, fineweb-edu, or the path"), ("corpus", "a\nb", "embedded, climbmix, fineweb-edu, or the path"), ("settings", "steps", "name=value"), ("settings", ["steps=1"], "name=value"),
    ("settings", "steps = 1", "name=value"), ("settings", "steps=1 steps=2", "each name once"), ("settings", "step=1", r"no setting 'step'; did you mean steps"),
    ("settings", "steps=true", "setting steps = 'true' is not allowed; it must be a whole number, or none"), ("settings", "width=100", "width 100 is not a multiple of head_dim"), ("settings", "corpus=x", "no setting 'corpus'"), ("core_examples", 0, "from 1 to"),
    ("core_examples", "all", "whole number"), ("force_stage", "training", "one of preflight, data"), ("force_stage", True, "one of preflight"), ("dept", 4, "parameter dept does not exist; did you mean depth"),
    ("fp8", 1, "true or false"), ("smoke", "yes", "true or false"), ("devices", 0, "from 1 to"), ("devices", 3, "can be shared by 1, 2, 4, 8"), ("device_batch", 7, "it must divide the 8 rows"),
    ("stall_minutes", 0, "a number from"), ("save_minutes", "nan", "a number from"), ("max_cost", 4, "did you mean max_cost_usd"), ("resolved", {}, "parameter resolved does not exist"), ("batch_tokens", 9, "there are profile, name, recipe")]  # fmt: skip


@pytest.mark.parametrize("name,value,text", REFUSED)
def test_what_is_wrong_is_refused(name, value, text):
    with pytest.raises(UserError, match=text) as e:
        Params.check(**{name: value})
    assert name in str(e.value) or name in ("recipe", "profile", "settings")


def test_depth_is_given_once():
    with pytest.raises(UserError, match="both set the depth"):
        Params.check(depth=4, settings="depth=6")
    assert Params.check(settings="depth=6").resolved["plan"]["model"]["n_layer"] == 6 == Params.check(depth="6").resolved["plan"]["model"]["n_layer"]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([f.name for f in dataclasses.fields(Params) if f.name not in ("resolved", "profile", "recipe", "settings")]),
       st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.integers(), max_size=2)))  # fmt: skip
def test_any_value_is_taken_in_range_or_refused(name, value):
    saved = params.ask
    params.ask = lambda what, request: {}
    try:
        p = Params.check(**{name: value})
    except UserError:
        return
    finally:
        params.ask = saved
    got = getattr(p, name)
    assert got is None or {"depth": lambda v: type(v) is int and 1 <= v <= 128, "seed": lambda v: type(v) is int and 0 <= v < 2**63, "core_examples": lambda v: type(v) is int and v >= 1,
            "price_per_hour": lambda v: type(v) is float and 0 <= v < math.inf, "max_hours": lambda v: type(v) is float and 0 < v < math.inf,
            "save_minutes": lambda v: type(v) is float and 0 < v < math.inf, "stall_minutes": lambda v: type(v) is float and 0 < v < math.inf,
            "devices": lambda v: type(v) is int and v >= 1, "device_batch": lambda v: type(v) is int and v >= 1, "fp8": lambda v: type(v) is bool, "smoke": lambda v: type(v) is bool,
            "name": lambda v: re.fullmatch(r"[A-Za-z0-9._-]+", v) and ".." != v, "force_stage": lambda v: v in speedrun.STAGES}.get(name, lambda v: isinstance(v, str) and v.strip())(got)  # fmt: skip


def test_names_that_are_no_parameters_are_found_in_the_namespace():
    shell = types.SimpleNamespace(user_ns_hidden={"a_hidden_list": 1})
    ipython = {"In": ["", "x"], "Out": {}, "get_ipython": lambda: shell, "exit": object(), "quit": object(), "open": open, "_i": "x", "_dh": [Path()], "__name__": "__main__",
               "a_hidden_list": [1], "speedrun": speedrun, "Path": Path, "helper": lambda: 1, "params": Params()}  # fmt: skip
    assert Params.from_namespace(ipython | {"depth": "5", "name": None}).depth == 5
    for value in ("x", 3, 0.5, True, None, [1], {"a": 1}):
        with pytest.raises(UserError, match=r"parameter profil does not exist; did you mean profile\?.*del profil"):
            Params.from_namespace(ipython | {"depth": 5, "profil": value})


def test_the_kernel_does_not_load_torch():
    code = "import sys; from gpt2course import speedrun, plots, leaderboard; assert 'torch' not in sys.modules; assert speedrun.Params.check(depth='3').resolved['plan']['model']['n_layer'] == 3"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(speedrun.__file__).parent.parent)


def test_an_answer_from_a_child_that_fails_is_one_error(monkeypatch):
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"^recipe 'x' does not exist; the ladder is [a-z0-9, ]+$"):
        Params.check(recipe="x")


# ---- the committed notebook


def test_the_runbook_is_what_its_source_makes():
    import jupytext
    import nbformat

    book, source = nbformat.read(BOOK, 4), jupytext.read(BOOK.with_suffix(".py"))
    nbformat.validate(book)
    parts = lambda nb: [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in nb.cells]  # noqa: E731
    assert parts(book) == parts(source), "run: jupytext --to ipynb --update runbooks/speedrun.py"
    assert book.metadata.kernelspec.name == "gpt2course" and set(book.metadata) == {"kernelspec"}
    text = BOOK.read_text()
    assert not re.search(r"/(work|home|root|Users|tmp)/", text) and '"image/' not in text
    for cell in book.cells:
        if cell.cell_type == "code":
            assert cell.execution_count is None and cell.outputs == [] and (len(cell.source.splitlines()) <= 14 or "parameters" in cell.metadata.get("tags", []))
            ast.parse(cell.source)
    assert len({c.id for c in book.cells}) == len(book.cells)


def test_the_parameters_cell_matches_params(caplog):
    import nbformat
    from papermill import inspect_notebook

    cells = nbformat.read(BOOK, 4).cells
    tagged = [i for i, c in enumerate(cells) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    names = {}
    exec(cells[tagged[0]].source, {}, names)
    assert names == {f.name: f.default for f in dataclasses.fields(Params) if f.name != "resolved"}
    assert list(inspect_notebook(str(BOOK))) == list(names)  # papermill understands every line, comments too
    code = [c.source for c in cells[tagged[0] + 1 :] if c.cell_type == "code"]
    assert "Params.from_namespace(globals())" in code[0] and "=" not in code[0].split("import speedrun")[0]  # checked before anything else
    assert [s for c in code for s in re.findall(r"^speedrun\.(\w+)\(run\);$", c, re.M)] == list(speedrun.STAGES)


# ---- stages


def test_a_stage_runs_once_for_the_same_inputs(home, corpus, tmp_path, capsys):
    mine = shutil.copy(corpus, tmp_path / "mine.jsonl")
    run = toy(str(mine))
    first = speedrun.data(run)
    assert first["training"] == {"documents": 380, "bytes": first["training"]["bytes"], "exact": True} and first["validation"]["documents"] == 20
    assert launches(run.folder, "data") == 1 and speedrun.stored(run.folder, "data")["seconds"] > 0
    out = capsys.readouterr().out
    assert "380 documents" in out and "licence: your own" in out and "done already" not in out
    assert speedrun.data(run) == first and launches(run.folder, "data") == 1
    out = capsys.readouterr().out
    assert "data: done already" in out and "380 documents" in out  # shown again
    speedrun.data(dataclasses.replace(run, params=dataclasses.replace(run.params, force_stage="core")))
    assert launches(run.folder, "data") == 1
    speedrun.data(dataclasses.replace(run, params=dataclasses.replace(run.params, force_stage="data")))
    assert launches(run.folder, "data") == 2
    (run.folder / "stages" / "data.json").write_text('{"inputs": "')  # cut by a crash of the disk
    assert speedrun.data(run) == first and launches(run.folder, "data") == 3
    with open(mine, "a") as f:
        f.write(json.dumps({"text": "one more."}) + "\n")
    assert speedrun.data(run) != first and launches(run.folder, "data") == 4
    bytes_each = [len(t.encode()) for t in speedrun.read_json(run.folder / "stages" / "data.json")["result"]["first"]]
    assert len(bytes_each) == 3


def test_a_stage_that_fails_says_why_once_and_leaves_no_result(home, corpus, tmp_path, monkeypatch, capsys):
    run = toy(str(shutil.copy(corpus, tmp_path / "gone.jsonl")))
    speedrun.data(run)
    Path(run.corpus).unlink()
    with pytest.raises(UserError, match=r"^stage data: corpus '.*gone.jsonl' does not exist; give `embedded`"):
        speedrun.data(run)
    assert speedrun.stored(run.folder, "data") is None
    with pytest.raises(UserError, match=r"stage preflight has no result yet; run its cell first"):
        speedrun.report(run)
    for code, text in (("raise SystemExit(3)", "ended with exit code 3"), ("os.kill(os.getpid(), 9)", r"was killed by SIGKILL \(memory may have run out\)"), ("pass", "ended without a result")):
        monkeypatch.setattr(jobs, "launch", launch_code(f"import os; print('last words'); {code}"))
        with pytest.raises(UserError, match=rf"stage data {text}; the last lines of .*data.log:\nlast words$"):
            speedrun.data(run)
    assert "last words" in capsys.readouterr().out  # and its lines were shown as they came


LAUNCH = jobs.launch


def launch_code(code):
    """In place of _launch: the same, with another program."""

    def launch(folder, stage, argv, key):
        module = f"odd_{abs(hash(code))}"
        (folder / f"{module}.py").write_text(code)
        with pytest.MonkeyPatch.context() as m:
            m.setenv("PYTHONPATH", str(folder))
            return LAUNCH(folder, stage, [module], key)

    return launch


def test_an_interrupted_stage_is_killed_and_a_second_notebook_joins_a_living_one(home, corpus, monkeypatch):
    run = toy(corpus)
    request = {"corpus": run.corpus, "files": speedrun.fingerprint(run.corpus)}
    key = jobs.digest(request)

    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(jobs, "launch", launch_code("import time; time.sleep(60)"))
        m.setattr(time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            speedrun.data(run)
    wait_for(lambda: jobs.living(run.folder, "data") is None)
    store = f"j.store(j.Path({str(run.folder)!r}), 'data', {key!r}, {{'made by': 'the first'}}, 1)"
    launch_code(f"import time; time.sleep(1); from gpt2course import jobs as j; {store}")(run.folder, "data", [], key)
    assert speedrun._stage(run, "data", request) == {"made by": "the first"}
    launch_code("import time; time.sleep(60)")(run.folder, "data", [], "another key")
    with pytest.raises(UserError, match=r"stage data of run 'toy' is at work with other inputs \(process \d+\)"):
        speedrun._stage(run, "data", request | {"files": ""})
    os.killpg(jobs.living(run.folder, "data")["pid"], signal.SIGKILL)


def test_fingerprint_sees_names_sizes_and_times(tmp_path):
    (tmp_path / "a").mkdir()
    f = tmp_path / "a" / "x.txt"
    f.write_text("1")
    seen = [speedrun.fingerprint(tmp_path)]
    f.write_text("22"), seen.append(speedrun.fingerprint(tmp_path))
    os.utime(f, (1, 1)), seen.append(speedrun.fingerprint(tmp_path))
    f.rename(tmp_path / "a" / "y.txt"), seen.append(speedrun.fingerprint(tmp_path))
    assert len(set(seen)) == 4 and seen[-1] == speedrun.fingerprint(tmp_path) and speedrun.fingerprint("embedded") == ""


def test_preflight_finds_what_would_stop_the_run(home, corpus, monkeypatch, capsys):
    from gpt2course import cost

    request = {"profile": "laptop", "plan": toy(corpus).plan, "device_batch": 4, "corpus": corpus, "bundle": None, "price": None}
    by = lambda **changes: {what: (level, text) for level, what, text in work.do_preflight(request | changes)["findings"]}  # noqa: E731
    good = by()
    assert {level for level, _ in good.values()} <= {"ok", "warning"} and {"python", "torch", "device", "threads", "memory", "disk", "corpus", "cost"} == set(good)
    monkeypatch.setattr(preflight, "memory_available", lambda: 100_000_000)
    assert by()["memory"][0] == "STOP" and "close other programs" in by()["memory"][1]
    monkeypatch.setattr(preflight, "memory_available", lambda: None)
    assert by()["memory"][0] == "ok"
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda p: types.SimpleNamespace(free=1e6))
    assert by()["disk"][0] == "STOP" and "GPT2COURSE_HOME" in by()["disk"][1]
    assert by(corpus="climbmix")["corpus"] == ("STOP", by(corpus="climbmix")["corpus"][1]) and "needs its validation shard" in by(corpus="climbmix")["corpus"][1]
    assert by(bundle="/no/bundle")["bundle"][0] == "STOP" and by(bundle=str(Path(cost.__file__).parent / "core_bundle"))["bundle"] == ("ok", "mini-CORE, 7 tasks, baselines uniform guesser")
    assert by(profile="1gpu")["device"][0] == "warning"
    monkeypatch.setattr(speedrun, "_stage", lambda run, stage, request, always: {"findings": [["STOP", "corpus", "it is not here"], ["ok", "x", ""]]})
    run = toy(corpus)
    with pytest.raises(UserError, match="^corpus: it is not here$"):
        speedrun.preflight(run)
    (run.folder / "metrics.jsonl").write_text('{"kind": "done", "step": 1}\n')
    speedrun.preflight(run)  # nothing left to stop
    assert "STOP     corpus       it is not here" in capsys.readouterr().out


# ---- processes


def wait_for(what, log=None, seconds=240.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited too long: " + (log.read_text() if log and log.exists() else "no log")
        time.sleep(0.05)


def test_a_process_is_known_by_its_birth(tmp_path, monkeypatch):
    folder = tmp_path
    record = launch_code("import time; time.sleep(60)")(folder, "train", [], "key")
    assert jobs.living(folder, "train") == record and os.getpgid(record["pid"]) == record["pid"] != os.getpgid(0)
    assert jobs.birth(os.getpid()) == jobs.birth(os.getpid()) != record["birth"]
    write_json(folder / "train.pid", record | {"birth": jobs.birth(os.getpid())})  # another process has this pid now
    assert jobs.living(folder, "train") is None
    write_json(folder / "train.pid", record)
    if shutil.which("ps"):  # the way of macOS and others
        with monkeypatch.context() as m:
            m.setattr(jobs.sys, "platform", "darwin")
            assert re.search(r"\d\d:\d\d:\d\d \d{4}$", jobs.birth(record["pid"])) and jobs.birth(record["pid"]) == jobs.birth(record["pid"])
            assert jobs.birth(2**22 + 1) is None
    os.kill(record["pid"], signal.SIGKILL)
    child = jobs.children.pop(record["pid"])  # as if another kernel had started it: nobody waits, it stays a zombie
    wait_for(lambda: jobs.birth(record["pid"]) is None)
    assert child.returncode is None and jobs.living(folder, "train") is None
    child.wait()
    write_json(folder / "train.pid", record | {"birth": None})  # it was gone before its birth could be read
    assert jobs.living(folder, "train") is None
    (folder / "train.pid").write_text("{")
    assert jobs.living(folder, "train") is None and jobs.living(folder / "x", "train") is None


def test_a_strange_program_name_does_not_confuse(tmp_path):
    odd = tmp_path / "a) Z 1 (b"
    os.symlink(shutil.which("sleep"), odd)
    child = subprocess.Popen([str(odd), "60"])
    try:
        assert re.fullmatch(r"[0-9a-f-]{36} \d+", jobs.birth(child.pid))
    finally:
        child.kill()
        child.wait()


def test_log_lines_are_whole(tmp_path):
    log = tmp_path / "log"
    assert jobs.whole_lines(log, 0) == ([], 0)
    log.write_bytes("eins\nzwö\ndr".encode())
    assert jobs.whole_lines(log, 0) == (["eins", "zwö"], 10) and jobs.whole_lines(log, 10) == ([], 10)
    with open(log, "ab") as f:
        f.write(b"ei\n")
    assert jobs.whole_lines(log, 10) == (["drei"], 15)


LONG = TOY.replace("steps=60", "steps=400")


def losses(folder):
    return [(m["step"], m["loss"]) for m in speedrun.read_metrics(folder) if m["kind"] == "train"]


def at_step(run, step):
    return lambda: (speedrun.status(run.name)["step"] or 0) >= step


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    """(final loss, final bpb) of LONG, trained in one go."""
    home = tmp_path_factory.mktemp("undisturbed")
    code = f"from gpt2course.train import Train, train; train(Train(recipe='jan29', name='toy', corpus={corpus!r}, set=tuple({LONG!r}.split()), log_seconds=1e9))"
    env = jobs.environment() | {"OMP_NUM_THREADS": "1", "GPT2COURSE_HOME": str(home)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, stdout=subprocess.DEVNULL)
    metrics = speedrun.read_metrics(home / "runs" / "toy")
    return losses(home / "runs" / "toy"), metrics[-2]["val_bpb"]


def test_training_outlives_its_kernel_and_every_kill(home, corpus, undisturbed, monkeypatch, capsys):
    params = dict(name="toy", corpus=corpus, settings=LONG)
    # a kernel starts training, and is killed with all of its process group
    code = f"import os, time; from gpt2course import speedrun as s; s.start(s.open_run(s.Params.check(**{params!r}))); time.sleep(600)"
    kernel = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, env=jobs.environment(), stdout=subprocess.DEVNULL)
    folder = home / "runs" / "toy"
    try:
        wait_for(lambda: folder.exists() and at_step(types.SimpleNamespace(name="toy"), 20)(), folder / "train.log")
    finally:
        os.killpg(kernel.pid, signal.SIGKILL)
        kernel.wait()
    run = toy(corpus, settings=LONG)
    first = jobs.living(folder, "train")
    os.kill(first["pid"], signal.SIGSTOP)  # so that it does not end while we look
    assert first and speedrun.status("toy")["state"] == "running" and speedrun.status("toy")["pid"] == first["pid"]

    # the notebook, run again, attaches; other settings are refused
    assert speedrun.start(run) == first and launches(folder) == 1 and "attached" in capsys.readouterr().out
    with pytest.raises(UserError, match="is being trained with other settings"):
        speedrun.start(toy(corpus, settings=LONG, seed=3))

    # an interrupted cell leaves it at work and says how to stop it
    follow = subprocess.Popen([sys.executable, "-m", "gpt2course.ops.runbook", "follow", "toy", "--every", "0.2"], env=jobs.environment(), stdout=subprocess.PIPE, text=True)
    assert any(re.match(r"step [\d,]+/400  loss \d\.\d{3}", follow.stdout.readline()) for _ in range(20))
    follow.send_signal(signal.SIGINT)
    told = follow.communicate(timeout=30)[0]
    assert "training goes on in process" in told and "python -m gpt2course.ops.runbook stop toy" in told and follow.returncode == 130
    assert jobs.living(folder, "train") == first

    # stop: a checkpoint, and the notebook goes on from it
    os.kill(first["pid"], signal.SIGCONT)
    assert speedrun.stop("toy") and "the runbook, run again, goes on" in capsys.readouterr().out
    stopped = speedrun.status("toy")
    assert stopped["state"] == "stopped" and 20 <= stopped["step"] < 400
    assert max(p.name for p in (folder / "checkpoints").glob("step_*")) == f"step_{stopped['step']:08d}"  # with that of an evaluation before it
    assert speedrun.stop("toy") and "is not being trained" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"was begun with other settings \(seed\); give this one another name, or force_stage"):
        speedrun.start(toy(corpus, settings=LONG, seed=3))
    with pytest.raises(UserError, match=r"with max_hours = 1e-06 used up"):
        speedrun.start(toy(corpus, settings=LONG, max_hours=1e-6))

    # kill -9 of the training itself: the cell fails with one error, and the cell run again finishes the run
    real = speedrun.follow

    def follow_and_kill(name, every):
        wait_for(at_step(run, stopped["step"] + 30))
        os.kill(jobs.living(folder, "train")["pid"], signal.SIGKILL)
        return real(name, every)

    monkeypatch.setattr(speedrun, "follow", follow_and_kill)
    with pytest.raises(UserError, match=r"stage train was killed by SIGKILL .*train.log:\n(.*\n)*resumed from step_"):
        speedrun.train(run)
    monkeypatch.setattr(speedrun, "follow", real)
    capsys.readouterr()
    result = speedrun.train(run, every=0.3)
    out = capsys.readouterr().out
    assert stopped["step"] <= int(re.search(r"resumed from step_(\d{8})", out)[1]) < 400  # an evaluation saves one too
    assert out.count("  loss ") >= 2 and "/400" in out
    assert launches(folder) == 3 and result["step"] == 400
    assert losses(folder) == undisturbed[0] and result["val_bpb"] == undisturbed[1]  # to the last bit, at every step
    wall = speedrun.stored(folder, "train")["seconds"]
    record = read_json(folder / "train.pid")
    assert record["earlier"] > 1 and wall == pytest.approx(record["earlier"] + (folder / "metrics.jsonl").stat().st_mtime - record["started"], abs=0.02) and wall > result["seconds"]
    assert jobs.living(folder, "train") is None

    # done: skipped, with no process
    assert speedrun.train(run) == result and launches(folder) == 3 and "train: done already" in capsys.readouterr().out
    assert speedrun.status("toy")["state"] == "finished" and (folder / "report" / "throughput.png").stat().st_size > 5000
    # the result lost: nothing is trained again
    (folder / "stages" / "train.json").unlink()
    before = (folder / "checkpoints" / "step_00000400" / "state.json").stat().st_mtime_ns
    again = speedrun.train(run)
    assert again | {"peak_memory_bytes": 0} == result | {"peak_memory_bytes": 0} and (folder / "checkpoints" / "step_00000400" / "state.json").stat().st_mtime_ns == before
    # forced: the old run is kept aside
    short = toy(corpus, settings=TOY, force_stage="train")
    assert speedrun.train(short)["step"] == 60
    assert read_json(home / "runs" / "toy.old1" / "config.json")["plan"]["steps"] == 400 and read_json(folder / "config.json")["plan"]["steps"] == 60


def test_a_limit_stops_the_notebook_with_its_reason(home, corpus):
    run = toy(corpus, max_hours=1e-6)
    with pytest.raises(UserError, match=r"training stopped before the first checkpoint by max_hours 1e-06 \(.* since the first start\); run this notebook again"):
        speedrun.train(run)


def test_status_of_what_is_not_there(home, corpus):
    with pytest.raises(UserError, match="there is no run 'x' .* none yet"):
        speedrun.status("x")
    run = toy(corpus)
    assert speedrun.status("toy")["state"] == "new" and speedrun.describe(speedrun.status("toy")) == "no step yet"
    with pytest.raises(UserError, match="has no checkpoint; run the training cell"):
        speedrun.evaluate(run)


def test_a_line_of_progress():
    s = dict(step=1200, steps=5000, loss=3.14159, val_bpb=1.7, tok_per_sec=12345.6, mfu=0.5, eta_seconds=3725, usd=0.1234, memory_bytes=812_000_000)
    assert speedrun.describe(s) == "step 1,200/5,000  loss 3.142  val bpb 1.700  12,346 tokens/s  mfu 50.0%  left 1:02:05  $0.12 so far  memory 0.81 GB"
    s |= dict(val_bpb=None, mfu=None, usd=None, memory_bytes=None, eta_seconds=59.96)
    assert speedrun.describe(s) == "step 1,200/5,000  loss 3.142  12,346 tokens/s  left 1:00"


def test_time_by_part_adds_up(tmp_path):
    for stage, seconds in (("preflight", 2.0), ("train", 30.0), ("core", 4.0)):
        jobs.store(tmp_path, stage, "k", {}, seconds)
    lines = [dict(kind="train", step=2, time=dict(data=0.5, optimizer=1.0)), dict(kind="eval", step=2, took=3.0), dict(kind="train", step=6, time=dict(data=0.25, optimizer=2.0)),
             dict(kind="checkpoint", step=6, took=1.5)]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    parts = speedrun.time_by_part(tmp_path)
    assert parts == {"preflight": 2.0, "train: data": 2.0, "train: optimizer": 10.0, "train: evaluation": 3.0, "train: checkpoints": 1.5, "train: starting, the rest": 13.5, "core": 4.0}


def test_gpt2_stands_beside_ours_only_on_the_real_core(home, corpus, monkeypatch):
    from gpt2course.course import plots

    drawn = []
    gpt2 = {model: {"copa": 0.1 * i, "squad": 0.2} for i, model in enumerate(("GPT-2 small", "GPT-2 medium", "GPT-2 large", "GPT-2 XL"))}
    monkeypatch.setattr(speedrun, "show", lambda run, name, fig: drawn.append((name, *fig)))
    monkeypatch.setattr(plots, "core_bars", lambda ours, references, name: (ours, references, name))
    monkeypatch.setattr(speedrun, "_checkpoint", lambda run: {})
    result = {"name": "CORE", "tasks": {"copa": {"centred": 0.5}, "squad": {"centred": 0.25}}}
    monkeypatch.setattr(speedrun, "_stage", lambda run, stage, request, devices: {"table": "", "gpt2": gpt2, "result": result})
    run, ours = toy(corpus), {"copa": 0.5, "squad": 0.25}
    speedrun.core(run)
    assert drawn == [("core", ours, gpt2, "toy")]
    drawn.clear()
    result["name"] = "mini-CORE"
    speedrun.core(run)
    small = {model: gpt2[model] for model in list(gpt2)[:3]}
    assert drawn == [("core", ours, {}, "toy"), ("core_of_gpt2", gpt2["GPT-2 XL"], small, "GPT-2 XL")] and list(drawn[1][2]) == list(small)


def test_which_bundle_is_taken(home, corpus, monkeypatch):
    assert toy(corpus).bundle is None and toy(corpus, profile="1gpu").bundle is None
    (home / "eval").mkdir()
    (home / "eval" / "eval_bundle.zip").write_bytes(b"")
    assert toy(corpus).bundle is None and toy(corpus, profile="1gpu").bundle == str(home / "eval" / "eval_bundle.zip")
    monkeypatch.setenv("GPT2COURSE_CORE_BUNDLE", str(home / "mine.zip"))
    assert toy(corpus).bundle is None and toy(corpus, profile="1gpu").bundle == str(home / "mine.zip")
    assert toy(corpus, profile="1gpu", core_bundle="mini").bundle is None and toy(corpus, core_bundle="/b").bundle == "/b"


def test_the_ratio_in_one_line():
    assert speedrun.ratio_line(dict(val_bpb=1.5, xz_bpb=2.0, val_bytes=500_000)) == "the model needs 25.0% fewer bits than xz -9e on the same 500,000 bytes"
    assert speedrun.ratio_line(dict(val_bpb=3.0, xz_bpb=2.0, val_bytes=5)) == "the model needs 50.0% more bits than xz -9e on the same 5 bytes"


# ---- the whole notebook, through papermill's own command line


def papermill(home, out, *parameters, check=True, threads="1"):
    """Run the runbook as a person does; a kernel of this environment is made where papermill looks first."""
    kernels = home / "jupyter" / "kernels" / "gpt2course"
    kernels.mkdir(parents=True, exist_ok=True)
    write_json(kernels / "kernel.json", {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "gpt2course", "language": "python"})
    argv = [sys.executable, "-m", "papermill", str(BOOK), str(out), "-k", "gpt2course", "--log-output", "--autosave-cell-every", "30", "--no-progress-bar", *parameters]
    env = jobs.environment() | {"JUPYTER_PATH": str(home / "jupyter"), "GPT2COURSE_HOME": str(home), "OMP_NUM_THREADS": threads}
    return subprocess.run(argv, env=env, cwd=home, capture_output=True, text=True, check=check)


def texts(book):
    return "".join(out.get("text", "") for cell in book.cells for out in cell.get("outputs", ()))


def pictures(book):
    return [m for c in book.cells for o in c.get("outputs", ()) for m in re.findall(r'<img alt="([^"]+)"[^>]*base64', o.get("data", {}).get("text/html", ""))]


@pytest.fixture(scope="module")
def executed(corpus, tmp_path_factory):
    """(home, notebook, seconds) of the runbook, run once at toy size."""
    import nbformat

    home, began = tmp_path_factory.mktemp("papermill"), time.monotonic()
    argv = ["-p", "profile", "laptop", "-p", "name", "None", "-p", "corpus", corpus, "-p", "settings", TOY, "-p", "core_examples", "2", "-p", "price_per_hour", "3.6e3", "-p", "seed", "7"]
    done = papermill(home, home / "out.ipynb", *argv, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return home, nbformat.read(home / "out.ipynb", 4), time.monotonic() - began, argv, done


def test_the_runbook_runs_at_toy_size(executed):
    home, book, seconds, _, done = executed
    folder = home / "runs" / "jan29-d2"
    assert all(o.output_type != "error" for c in book.cells for o in c.get("outputs", ()))
    summary = read_json(folder / "report" / "summary.json")
    assert summary["train"]["step"] == 60 and summary["params"]["seed"] == 7 and summary["params"]["price_per_hour"] == 3600.0
    assert 0 < summary["val_bpb"] < summary["xz_bpb"] and summary["fewer_bits_than_xz"] == pytest.approx(1 - summary["val_bpb"] / summary["xz_bpb"])
    lines = speedrun.read_metrics(folder)
    config = read_json(folder / "config.json")
    assert config["seed"] == 7 and config["plan"]["steps"] == 60 and config["corpus"] == summary["params"]["corpus"]
    trained = [m for m in lines if m["kind"] == "eval"][-1]
    assert summary["val_bpb"] == pytest.approx(trained["val_bpb"], rel=1e-6) and summary["val_bytes"] == trained["val_bytes"]  # of the saved weights
    assert summary["total_seconds"] == pytest.approx(sum(summary["seconds"].values()), abs=0.1) and 0 < summary["total_seconds"] < seconds
    assert summary["usd"] == pytest.approx(summary["total_seconds"], abs=0.01)  # at a dollar a second
    assert summary["core"]["name"] == "mini-CORE" and summary["core"]["subset"] and len(summary["samples"]) == 6 and all(summary["samples"].values())
    assert summary["leaderboard"]["core"] is None and "not CORE" in summary["leaderboard"]["notes"] and summary["leaderboard"]["run"] == "jan29-d2"
    names = ["core.png", "core_of_gpt2.png", "leaderboard.png", "learning_rates.png", "loss_and_bpb.png", "throughput.png", "time.png", "tokens.png"]
    assert summary["figures"] == names and all((folder / "report" / n).read_bytes().startswith(b"\x89PNG") for n in names)
    out = texts(book)
    assert speedrun.ratio_line(summary) in out and f"everything is in {folder}" in out and "licence: " in out and "must not be compared with CORE" in out
    assert len(pictures(book)) == len(names) and all(len(alt) > 40 for alt in pictures(book))
    assert "validation from" in done.stderr + done.stdout  # --log-output tells the figures in words
    assert set(read_json(folder / "stages" / "train.json")) == {"inputs", "seconds", "finished", "result"}
    assert [stage for stage in speedrun.STAGES if not speedrun.stored(folder, stage)] == ["smoke"]  # left out on a laptop
    assert (home / "out.ipynb").stat().st_size < 1_500_000


def test_run_again_it_shows_what_it_has(executed, tmp_path):
    import nbformat

    home, book, _, argv, _ = executed
    folder, began = home / "runs" / "jan29-d2", time.monotonic()
    before = {stage: speedrun.stored(folder, stage) for stage in speedrun.STAGES[1:]}
    papermill(home, home / "again.ipynb", *argv)
    assert time.monotonic() - began < 90
    assert {stage: speedrun.stored(folder, stage) for stage in speedrun.STAGES[1:]} == before and launches(folder) == 1
    again = nbformat.read(home / "again.ipynb", 4)
    out = texts(again)
    assert all(f"{stage}: done already" in out for stage in speedrun.STAGES[1:] if stage != "smoke") and pictures(again) == pictures(book)
    assert speedrun.ratio_line(read_json(folder / "report" / "summary.json")) in out


def test_a_mistyped_parameter_stops_the_notebook_at_once(executed):
    home = executed[0]
    done = papermill(home, home / "typo.ipynb", "-p", "proflie", "laptop", "-p", "name", "typo", check=False)
    assert done.returncode != 0 and "parameter proflie does not exist; did you mean profile?" in done.stderr
    assert not (home / "runs" / "typo").exists()


@pytest.mark.slow
def test_the_laptop_profile(tmp_path):
    """The promise of the README: on 2 cores, 10 minutes, 2.5 GB, 25 % fewer bits than xz -9e; run again, it has nothing to do."""
    import nbformat

    began = time.monotonic()
    papermill(tmp_path, tmp_path / "out.ipynb", "-p", "profile", "laptop", threads="2")
    seconds = time.monotonic() - began
    papermill(tmp_path, tmp_path / "again.ipynb", "-p", "profile", "laptop", threads="2")
    again = time.monotonic() - began - seconds
    folder = next(p for p in (tmp_path / "runs").iterdir() if (p / "config.json").exists())
    summary, book = read_json(folder / "report" / "summary.json"), nbformat.read(tmp_path / "out.ipynb", 4)
    print(f"{seconds:.0f} s, again {again:.0f} s, {speedrun.ratio_line(summary)}, {summary['train']['peak_memory_bytes']} bytes")
    assert summary["fewer_bits_than_xz"] >= 0.25 and summary["val_bytes"] >= 500_000
    assert seconds < 600 and again < 90 and launches(folder) == 1
    assert summary["train"]["peak_memory_bytes"] < 2.1e9  # the kernel and papermill take the rest of 2.5 GB
    assert len(pictures(book)) == 8 == len(summary["figures"]) and speedrun.ratio_line(summary) in texts(book)
