"""The runbooks ladder, scaling_laws and miniseries: what their sources make, and executed by papermill's own command line."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt2course.ops import jobs, sweep as campaign
from gpt2course.files import UserError, write_json

RUNBOOKS = Path(__file__).resolve().parent.parent / "runbooks"
NAMES = {"ladder": "ladder", "scaling_laws": "isoflop", "miniseries": "miniseries"}
TOY = "depth=1 width=16 head_dim=16 sequence_len=32 vocab_size=300 batch_tokens=128 steps=120 eval_bytes=400"


@pytest.mark.parametrize("name", NAMES)
def test_a_runbook_is_what_its_source_makes(name):
    import jupytext
    import nbformat

    path = RUNBOOKS / f"{name}.ipynb"
    book, source = nbformat.read(path, 4), jupytext.read(path.with_suffix(".py"))
    nbformat.validate(book)
    parts = lambda nb: [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in nb.cells]  # noqa: E731
    assert parts(book) == parts(source), f"run: jupytext --to ipynb --update runbooks/{name}.py"
    assert book.metadata.kernelspec.name == "gpt2course" and set(book.metadata) == {"kernelspec"}
    assert not re.search(r"/(work|home|root|Users|tmp)/", path.read_text()) and '"image/' not in path.read_text()
    for cell in book.cells:
        if cell.cell_type == "code":
            assert cell.execution_count is None and cell.outputs == []
            ast.parse(cell.source)
    (cell,) = [c for c in book.cells if "parameters" in c.metadata.get("tags", [])]
    given = {}
    exec(cell.source, given)
    args = campaign.check(NAMES[name], given)
    assert args == campaign.Campaign(NAMES[name])  # the defaults of the notebook are those of the command


@pytest.mark.parametrize("given,message", [
    (dict(sise="laptop"), "parameter sise does not exist"), (dict(size="big"), "size = 'big'"), (dict(minutes="-1"), "minutes"), (dict(first=1.5), "first"),
    (dict(settings="stepz=3"), "stepz"), (dict(device="tpu"), "device"), (dict(settings="steps=3 steps=4"), "twice"), (dict(size=True), "size"),
])  # fmt: skip
def test_wrong_parameters_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        campaign.check("ladder", given)


def test_parameters_as_papermill_passes_them():
    args = campaign.check("ladder", dict(minutes="2.5", first="3", settings="steps=20 depth=1", corpus="None", out=""))
    assert args == campaign.Campaign("ladder", minutes=2.5, first=3, set=("steps=20", "depth=1"))


def start(name, home, out, *parameters):
    kernels = home / "jupyter" / "kernels" / "gpt2course"
    kernels.mkdir(parents=True, exist_ok=True)
    write_json(kernels / "kernel.json", {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "gpt2course", "language": "python"})
    argv = [sys.executable, "-m", "papermill", str(RUNBOOKS / f"{name}.ipynb"), str(out), "-k", "gpt2course", "--log-output", "--no-progress-bar", *parameters]
    env = jobs.environment() | {"JUPYTER_PATH": str(home / "jupyter"), "GPT2COURSE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(argv, env=env, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "toy.jsonl"
    path.write_text("".join(json.dumps({"text": f"Line {i}: {'rain and wind' if i % 3 else 'bread and salt'}, {i * 7 % 31} times."}) + "\n" for i in range(400)))
    return str(path)


def toy(corpus):
    return ["-p", "corpus", corpus, "-p", "first", "2", "-p", "settings", TOY, "-p", "device", "cpu"]


@pytest.mark.parametrize("name", ["ladder", "miniseries"])
def test_killed_with_its_kernel_and_run_again(name, corpus, tmp_path):
    """The notebook and its kernel die; the runs go on; the notebook, run again, joins them and repeats nothing."""
    out = tmp_path / "campaigns" / f"{NAMES[name]}-laptop"
    first = start(name, tmp_path, tmp_path / "a.ipynb", *toy(corpus))
    end = time.monotonic() + 120
    while not any(jobs.read_metrics(p) for p in tmp_path.glob("runs/*")):
        assert time.monotonic() < end and first.poll() is None, first.communicate()[0][-3000:]
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert jobs.living(out, "campaign")  # it outlives the notebook
    again = start(name, tmp_path, tmp_path / "b.ipynb", *toy(corpus))
    said = again.communicate(timeout=240)[0]
    assert again.returncode == 0 and "all 2 runs are done" in said, said[-3000:]
    assert len(campaign.read(out / "runs.jsonl")) == 2 and (out / "train.log").read_text().count("--- ") == 2 and not jobs.family(out)
    assert "image/png" in (tmp_path / "b.ipynb").read_text() or "base64" in (tmp_path / "b.ipynb").read_text()


def test_the_fits_are_made_from_recorded_runs(tmp_path):
    """scaling_laws over a campaign that is done: nothing is trained, and the fits and figures are shown."""
    pytest.importorskip("gpt2course.scaling")
    recorded, out = RUNBOOKS.parent / "results" / "2026-11-23_isoflop-laptop", tmp_path / "campaigns" / "isoflop-laptop"
    out.mkdir(parents=True)
    for file in ("runs.jsonl", "campaign.json"):
        shutil.copy(recorded / file, out)
    done = start("scaling_laws", tmp_path, tmp_path / "out.ipynb")
    said = done.communicate(timeout=240)[0]
    assert done.returncode == 0 and "all 40 runs are done" in said and not (out / "train.log").exists(), said[-3000:]
    assert "image/png" in (tmp_path / "out.ipynb").read_text()


def test_a_mistyped_parameter_stops_the_notebook(tmp_path):
    done = start("miniseries", tmp_path, tmp_path / "out.ipynb", "-p", "stepps", "4")
    said = done.communicate(timeout=120)[0]
    assert done.returncode and "parameter stepps does not exist" in said and not (tmp_path / "campaigns").exists()
