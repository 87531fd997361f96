"""What real users run into: text of their own, other folders, other accounts. Each test is named after a row of that list of reports.

Rows that are kept elsewhere: layouts of a corpus, tests/core/test_data.py; other text than the recorded, tests/core/test_evaluate.py; NULs
in the metrics and NaN in a checkpoint while training, tests/core/test_train.py; papermill --inject-paths, tests/ops/test_runbook.py;
several processes, tests/core/test_tokenizer.py; the umask of downloads and a proxy with a password, tests/ops/test_download.py.
"""

import ast
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT, SIZE, write_corpus
from safetensors.torch import load_file, save_file

from gpt2course import checkpoint, files
from gpt2course.course import lab, plots
from gpt2course.files import UserError, home, sha256
from gpt2course.load import load_model
from gpt2course.ops import leaderboard
from gpt2course.ops.export import export
from gpt2course.runlog import read_metrics
from gpt2course.train import Train, train

NOBODY = 65534
other_account = pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can start a process of another account")


def documents(n: int, words: int = 200) -> list[str]:
    draw = random.Random(n)
    return [" ".join("".join(draw.choices("abcdefgh", k=draw.randint(2, 7))) for _ in range(words)) for _ in range(n)]


def corpus(folder: Path, texts: list[str]) -> str:
    return write_corpus(folder / "own.jsonl", texts)


def command(*argv: str, module: str = "-m", env: dict | None = None, **options) -> subprocess.CompletedProcess:
    """A command of the package as a person starts it."""
    argv = [sys.executable, module, *argv]
    return subprocess.run(argv, env=os.environ | {"PYTHONPATH": str(ROOT)} | (env or {}), capture_output=True, timeout=300, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A home with a run of three steps and its export, made under the umask of a group that shares its files."""
    folder = tmp_path_factory.mktemp("shared home")
    with pytest.MonkeyPatch.context() as m:
        m.setenv("GPT2COURSE_HOME", str(folder / "home"))
        before = os.umask(0o002)
        try:
            train(Train(set=(*SIZE[:-2], "steps=3", SIZE[-1]), corpus=corpus(folder, documents(40)), name="a", device="cpu"))
            export("a")
        finally:
            os.umask(before)
    return folder / "home"


@pytest.fixture
def public():
    """A folder that another account may enter: pytest closes its own folders whenever it starts."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


# ---- row 4: a closed lid, a paused container


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="signals of Linux")
def test_row_04_a_paused_notebook_leaves_its_command_alone(course_home, monkeypatch):
    """Nothing in ops measures silence, so a pause of any length ends nothing."""
    code = "from gpt2course.ops import runbook as rb; from pathlib import Path; import sys; " \
           "run = rb.Run(rb.Params(), None, 'toy', Path(sys.argv[1]), ''); (run.folder / 'stages').mkdir(parents=True); " \
           "print(rb.stage(run, 'data', ['gpt2course.data', sys.argv[2]], [])['val_name'])"  # fmt: skip
    course_home.mkdir()
    argv = [sys.executable, "-c", code, str(course_home / "runs" / "toy"), corpus(course_home, documents(5))]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    time.sleep(1)
    child.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    child.send_signal(signal.SIGCONT)
    assert "last 1 of 5 documents" in child.communicate(timeout=120)[0] and child.returncode == 0


@pytest.mark.slow
def test_row_04_a_training_that_was_paused_for_longer_than_the_limit_goes_on(course_home):
    """A closed laptop: the clock goes on, and the process does not."""
    course_home.mkdir()
    run = course_home / "runs" / "paused"
    argv = [sys.executable, "-m", "gpt2course.train", "jan29", "--name", "paused", "--stall-seconds", "1", "--device", "cpu"]
    argv += ["--corpus", corpus(course_home, documents(40)), "--set", *[p for p in SIZE if not p.startswith("steps")], "steps=120"]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not read_metrics(run) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGSTOP)
    paused_at = len(read_metrics(run))
    time.sleep(2)
    child.send_signal(signal.SIGCONT)
    out = child.communicate(timeout=240)[0]
    assert child.returncode == 0 and paused_at < 120 and read_metrics(run)[-1]["kind"] == "done", out


# ---- row 5: one home, however it is written

HOMES = ["~/big", "~", "~/a b", "~/é", "relative", "./relative", "a/../b", "..", " ~/space around ", "a b/c", "~/x/", "$HOME/x", "%h", "-rf"]


@pytest.mark.parametrize("given", HOMES)
def test_row_05_one_home_for_every_program_and_folder(given, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GPT2COURSE_HOME", given)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    first = home()
    assert first.is_absolute() and "~" not in str(first)
    monkeypatch.chdir(tmp_path / "elsewhere")
    code = "from gpt2course.files import home; print(ascii(str(home())))"
    assert home() == first and command(code, module="-c").stdout.decode().strip() == ascii(str(first))  # a child, in another folder


# ---- row 6: a HOME that may not be entered


@other_account
@pytest.mark.parametrize("module", ["train", "tokenizer", "ops.download"])
def test_row_06_a_home_that_may_not_be_entered_is_one_line(module, public):
    """The user of a container: HOME is root's."""
    (public / "matplotlib").mkdir()
    os.chmod(public / "matplotlib", 0o777)  # it has a folder and a warning of its own
    (public / "root").mkdir(mode=0o700)
    words = {"tokenizer": [], "ops.download": ["core"], "train": []}[module]
    env = {"HOME": str(public / "root"), "GPT2COURSE_HOME": "", "MPLCONFIGDIR": str(public / "matplotlib")}
    done = command(f"gpt2course.{module}", *words, env=env, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/")
    text = done.stderr.decode("utf-8", "replace")
    assert done.returncode == 2 and text.startswith("error: ") and text.count("\n") == 1, text
    assert "~/.cache/gpt2course cannot be used (Permission denied); set it to a folder that you may write to" in text


# ---- row 7: rights by the umask


def test_row_07_files_and_folders_have_the_rights_of_the_umask(trained):
    """Run, checkpoints, tokenizer, export: another member of the group may read and write."""
    wrong = {str(p.relative_to(trained)): oct(p.stat().st_mode & 0o777) for p in trained.rglob("*") if p.stat().st_mode & 0o777 != (0o775 if p.is_dir() else 0o664)}
    assert wrong == {} and len(list(trained.rglob("*"))) > 20


# ---- row 8: NaN and infinity in weights from outside


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
@pytest.mark.parametrize("name", ["wte.weight", "lm_head.weight", "resid_lambdas", "blocks.1.mlp.c_fc.weight"])
@pytest.mark.parametrize("kind", ["checkpoint", "export"])
def test_row_08_a_weight_that_is_no_number_is_one_line_with_its_name(trained, monkeypatch, tmp_path, kind, name, value):
    """From another program, with checksums that fit."""
    monkeypatch.setenv("GPT2COURSE_HOME", str(trained))
    run = tmp_path / "runs" / "a"
    shutil.copytree(trained / "runs" / "a", run)
    folder = checkpoint.all_checkpoints(run)[-1] if kind == "checkpoint" else run / "export"
    weights = load_file(folder / "model.safetensors")
    weights[name].view(-1)[-1] = value
    save_file(weights, folder / "model.safetensors")
    if kind == "checkpoint":
        state = json.loads((folder / "state.json").read_text())
        state["sha256"]["model.safetensors"] = sha256(folder / "model.safetensors")
        (folder / "state.json").write_text(json.dumps(state))
    else:
        sums = [f"{sha256(p)}  {p.relative_to(folder).as_posix()}\n" for p in folder.rglob("*") if p.is_file() and p.name != "SHA256SUMS"]
        (folder / "SHA256SUMS").write_text("".join(sums))
    with pytest.raises(UserError, match=rf"^weight {name} of .* holds NaN or infinity") as e:
        load_model(str(folder if kind == "export" else run), "cpu")
    assert "\n" not in str(e.value)


# ---- row 10: the package apart from its clone

APART = """
from gpt2course.course import build, grade, lab
from gpt2course.files import UserError
from gpt2course.ops import leaderboard
for give in (lambda: lab.recorded("x"), lambda: lab.recorded("ladder-laptop"), lab.published, leaderboard.main,
             lambda: build.main(build.Args("start", ("03",))), lambda: grade.main(grade.Grade("03"))):
    try:
        give()
    except UserError as e:
        print(e)
"""


@pytest.mark.slow
def test_row_10_a_package_apart_from_its_clone_names_the_fix(tmp_path):
    """What `pip install .` leaves: the package in a folder of its own, without lessons and results."""
    apart = tmp_path / "site-packages"
    shutil.copytree(ROOT / "gpt2course", apart / "gpt2course")
    done = command(APART, module="-c", env={"PYTHONPATH": str(apart)}, cwd=tmp_path)
    text = done.stdout.decode()
    assert text == 6 * f"gpt2course is installed apart from the clone of the course, in {apart}; in the clone, run: pip install -e .\n", text + done.stderr.decode()


# ---- row 12: a corpus of few documents


@pytest.mark.parametrize("n,streams", [(2, 1), (5, 4), (40, 8)])
def test_row_12_few_documents_are_trained_on_with_fewer_streams(course_home, tmp_path, capsys, n, streams):
    given = dict(set=(*SIZE[:-2], "steps=4", SIZE[-1]), corpus=corpus(tmp_path, documents(n, 300)), name="few", device="cpu")
    run = train(Train(**given, stop_after=2))
    assert files.read_json(run / "config.json")["streams"] == streams
    assert (f"note: {streams} streams in place of 8, so that each has a document" in capsys.readouterr().out) == (streams < 8)
    train(Train(**given))  # it continues
    assert checkpoint.all_checkpoints(run)[-1].name == "step_00000004"


# ---- row 13: other locales, other editors, other networks


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_row_13_a_terminal_that_is_not_utf8_shows_what_it_can(course_home, tmp_path, encoding):
    texts = ["Ein Käse. " * 9, "東京 and 1,234.5. " * 9, "naïve “quotes” – and … " * 9]
    env = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    for argv in (["gpt2course.data", corpus(tmp_path, texts)], ["gpt2course.ops.leaderboard"]):
        done = command(*argv, env=env)
        assert done.returncode == 0 and done.stderr == b"", done.stderr
        assert done.stdout.decode(encoding)


def test_row_13_every_text_file_is_opened_as_utf8_by_name():
    """Without a name, Python takes the encoding of the locale."""
    found = []
    for path in [*ROOT.glob("gpt2course/**/*.py"), *ROOT.glob("tools/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and not any(k.arg in ("encoding", None) for k in node.keywords):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                mode = node.args[1] if name == "open" and len(node.args) > 1 else None
                binary = mode is not None and (not isinstance(mode, ast.Constant) or "b" in mode.value)  # children.launch takes the mode
                if name in ("read_text", "write_text") or name == "open" and isinstance(node.func, ast.Name) and not binary:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_row_13_a_table_that_a_spreadsheet_has_written(tmp_path, monkeypatch):
    (tmp_path / "leaderboard.csv").write_bytes(b"\xef\xbb\xbf" + leaderboard.CSV.read_bytes().replace(b"\n", b"\r\n"))
    assert leaderboard.read(tmp_path / "leaderboard.csv") == leaderboard.read()
    expected = lab.published()
    monkeypatch.setattr(lab, "RESULTS", tmp_path)
    assert lab.published() == expected


@pytest.mark.parametrize("text", ["$", "$x$", "$\\frac$", "a_{b$c$", "\\$", "$$"])
def test_row_13_a_dollar_in_a_label_is_a_dollar(text):
    for figure in (plots.coloured_tokens([text, "b", text]), plots.core_bars({text: 0.1, "b": 0.2}, {}), plots.where_time_went({text: 1.0})):
        assert plots.png(figure)


def test_row_13_a_clone_has_unix_line_ends_everywhere():
    assert "* text=auto eol=lf" in (ROOT / ".gitattributes").read_text(encoding="utf-8").splitlines()


SEVERAL = """
import contextlib, importlib, io, json, sys
from gpt2course.files import command
for line in sys.argv[1:]:
    sys.argv, code, out, err = line.split(), 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            command(importlib.import_module(f"gpt2course.{sys.argv[0]}").main)
        except SystemExit as e:
            code = e.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


@other_account
def test_row_07_and_13_another_account_reads_a_read_only_home_and_a_write_is_one_line(trained, public):
    """Five commands in one process, which imports torch once."""
    folder = public / "home"
    shutil.copytree(trained, folder)
    for path in [folder, *folder.rglob("*")]:
        os.chmod(path, 0o555 if path.is_dir() else 0o444)
    reads = ["sample a --max-tokens 2", "fast.core_fast a --max-examples 2", "evaluate a --corpus embedded --any-text --max-bytes 3000"]
    writes = ["train --name b --corpus embedded --set " + " ".join(SIZE), "ops.download core"]
    given = dict(env={"GPT2COURSE_HOME": str(folder), "HOME": "/"}, user=NOBODY, group=NOBODY, extra_groups=[])
    done = command(SEVERAL, *reads, *writes, module="-c", **given)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == 5, done.stderr
    assert [code for code, _, _ in results] == [0, 0, 0, 2, 2] and "bits per byte" in results[2][1], results
    for _, _, err in results[3:]:
        assert err.startswith("error: ") and err.count("\n") == 1 and "cannot be used (Permission denied)" in err
