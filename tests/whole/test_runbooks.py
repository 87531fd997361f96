"""The runbooks ladder and scaling_laws: what their sources make, and executed by papermill's own command line."""

import shutil
import subprocess

import helpers
import jupytext
import pytest
from helpers import ROOT, grammar, write_corpus

from gpt2course.files import UserError
from gpt2course.ops import sweep

TOY = "depth=1 width=16 head_dim=16 sequence_len=32 vocab_size=300 batch_tokens=128 steps=30 eval_bytes=400"


@pytest.mark.parametrize("name", ["ladder", "scaling_laws"])
def test_a_runbook_is_what_its_source_makes(name):
    (cell,) = [c for c in helpers.committed(name).cells if "parameters" in c.metadata.get("tags", [])]
    given = {}
    exec(cell.source, given)
    assert sweep.Sweep.from_namespace(given) == sweep.Sweep()  # the defaults of the notebook are those of the class
    with pytest.raises(UserError, match="parameter stepps does not exist"):
        grid(name, stepps=4)


def grid(name, **parameters):
    """The runs that the cells of a runbook before the training make."""
    cells = [c.source for c in jupytext.read(ROOT / "runbooks" / f"{name}.py").cells if c.cell_type == "code"]
    found = {}
    exec(cells[0], found)
    found |= parameters
    exec(cells[1], found)
    return found["runs"]


@pytest.mark.parametrize("size", ["laptop", "h100"])
def test_the_ladder_asks_every_recipe_the_same_question(size, capsys):
    runs = grid("ladder", size=size)
    plans = {run.id: run.plan for run in runs}
    assert [run.recipe for run in runs[:7]] == ["gpt2", "modern", "muon", "windows", "lambdas", "jan29", "record"]
    assert len(plans) == len(runs) and len({plan.tokens for plan in plans.values()}) == 1
    for recipe, rate, own in (("modern", "matrix_adamw_lr", 0.003), ("muon", "matrix_lr", 0.02)):
        tried = {getattr(plan.recipe, rate) for id, plan in plans.items() if id.startswith(f"{recipe}-") and id.endswith("s1")}
        assert min(tried) < own < max(tried) and own in tried
    for recipe in ("modern", "muon", "jan29"):
        assert sum(run.recipe == recipe and "_lr" not in run.id for run in runs) == 3  # seeds
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)  # first all answers once
    assert f"{len(runs)} runs, " in capsys.readouterr().out


@pytest.mark.parametrize("size", ["laptop", "h100"])
def test_the_isoflop_grid_has_budgets_with_both_arms(size):
    runs = [run for run in grid("scaling_laws", size=size) if run.seed == 1]
    assert len({run.budget for run in runs}) == 4
    for budget in {run.budget for run in runs}:
        plans = [run.plan for run in runs if run.budget == budget]
        n = [plan.params["scaling"] for plan in plans]
        assert len(set(n)) >= 5 and n == sorted(n) and max(n) / min(n) > 4 and min(n) < (budget / 60) ** 0.5 < max(n)  # D = 10 N lies inside
        assert all(plan.flops == pytest.approx(budget, rel=0.03) and plan.steps >= 20 for plan in plans)
        assert all(plan.tokens <= (160e6 if size == "h100" else 6e6) for plan in plans)
    assert len({run.plan.model.n_embd / run.plan.model.n_layer for run in runs}) > 3  # width apart from depth


@pytest.mark.parametrize("size", ["laptop", "h100"])
def test_the_miniseries_has_one_ratio(size):
    runs = grid("scaling_laws", size=size, grid="miniseries")
    assert len(runs) >= 6 and len({run.plan.model.n_embd / run.plan.model.n_layer for run in runs}) == 1
    assert all(7 < run.plan.tokens / run.plan.params["scaling"] <= 8 for run in runs)


def papermill(name, home, out, *parameters):
    """(exit code, what was printed) of a runbook that papermill executes."""
    argv, env = helpers.papermill(home, name, out, *parameters)
    done = subprocess.run(argv, env=env, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280)
    return done.returncode, done.stdout


@pytest.mark.slow
def test_a_runbook_trains_and_run_again_repeats_nothing(tmp_path):
    toy = ["-p", "corpus", write_corpus(tmp_path / "toy.jsonl", grammar()), "-p", "first", "2", "-p", "settings", TOY, "-p", "device", "cpu"]
    code, printed = papermill("ladder", tmp_path, tmp_path / "a.ipynb", *toy)
    out = tmp_path / "sweeps" / "ladder-laptop"
    assert code == 0 and "all 2 runs are finished" in printed and "image/png" in (tmp_path / "a.ipynb").read_text(), printed[-3000:]
    before = (out / "runs.jsonl").read_bytes()
    code, printed = papermill("ladder", tmp_path, tmp_path / "b.ipynb", *toy)
    assert code == 0 and "all 2 runs are finished" in printed and "[1/2]" not in printed, printed[-3000:]
    assert (out / "runs.jsonl").read_bytes() == before and (out / "train.log").read_text().count("the run is in") == 2


@pytest.mark.slow
def test_the_fits_are_made_from_recorded_runs(tmp_path):
    """scaling_laws over a finished sweep: nothing is trained, and the fits and the figure are shown."""
    out = tmp_path / "sweeps" / "isoflop-laptop"
    out.mkdir(parents=True)
    shutil.copy(ROOT / "results" / "2026-11-23_isoflop-laptop" / "runs.jsonl", out)
    code, printed = papermill("scaling_laws", tmp_path, tmp_path / "out.ipynb")
    assert code == 0 and "all 40 runs are finished" in printed and not (out / "train.log").exists(), printed[-3000:]
    assert "n ~ C^0.512, 95 % interval 0.46 to 0.58; published: nanochat 0.492, Hoffmann et al. 0.49" in printed
    assert "image/png" in (tmp_path / "out.ipynb").read_text()
