"""Depth 24 on eight fake GPUs: nothing is missing, nothing is in float64, all is sent, and cost.py knows the memory.

Each rehearsal is a process of its own, because fake CUDA stays in a process until it ends. A mutation is a line of
Python that changes the package in that process, before the rehearsal.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHILD = """
import sys
sys.path.insert(0, "tools")
import rehearse
{mutation}
rehearse.main(rehearse.Rehearse(**{settings}))
"""


def rehearse(out: Path, mutation="", env=None, **settings):
    """(exit code, what it printed, what it found on each rank)."""
    code = CHILD.format(mutation=mutation, settings=settings | {"out": str(out / "found.json")})
    env = os.environ | {"OMP_NUM_THREADS": "1"} | (env or {})
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    found = json.loads((out / "found.json").read_text())["ranks"] if (out / "found.json").exists() else []
    return done.returncode, done.stdout + done.stderr, found


@pytest.mark.slow
@pytest.mark.parametrize("recipe, reduced", [("jan29", 2), ("record", 5)])
def test_depth_24_on_eight_gpus(recipe, reduced, tmp_path):
    """Every operator exists, none is in float64, all gradients and weights are sent, and memory is as cost.py estimates."""
    code, text, ranks = rehearse(tmp_path, recipe=recipe)
    assert code == 0 and text.count("no problem found") == 2, text
    assert [one["rank"] for one in ranks] == [0, 7]
    for one in ranks:
        assert one["estimate"]["bytes"] == pytest.approx(one["peak"]["bytes"], rel=0.03)
        assert not [where for where in one["float64"] if not where.startswith("evaluation")]
        sent = {kind: (c["calls"], round(c["bytes"] / 1e9, 2)) for kind, c in one["communication"].items()}
        assert sent == {"reduce_scatter": (18, 3.7), "allgather": (18, 3.7), "allreduce": (reduced, 0.0)}
        assert sum(one["phases"]["optimizer"].values()) < one["peak"]["bytes"] / 2  # state is divided among the ranks
        assert one["operators"]["sampling"] > 1000 and one["operators"]["evaluation"] > 1000


@pytest.mark.slow
def test_a_compiled_model_is_one_graph(tmp_path):
    """At depth 4: one graph of the model and one for each shape of Muon's, all in the first step."""
    code, text, (one,) = rehearse(tmp_path, recipe="jan29", depth=4, world=1, compile=True)
    assert code == 0, text
    assert one["graphs"] == {"forward": 1, "optimizer": 4} and one["compiled_late"] == 0 and not one["breaks"]
    assert one["kept"]["a_layer"] == pytest.approx(19.6, rel=0.02)  # of it 8 are c_fc's output and its square
    assert one["estimate"]["bytes"] == pytest.approx(one["peak"]["bytes"], rel=0.03)
    if importlib.util.find_spec("triton"):
        assert one["sm_90"]["kernels"] > 40 and one["sm_90"]["configurations"] > 50
    else:
        assert "kernels for sm_90 are not compiled here: pip install triton==3.7.1" in text and not one["sm_90"]


MUTATIONS = {
    "a graph break": (
        "old = rehearse.GPT.hidden\n"
        "rehearse.GPT.hidden = lambda self, *a: (rehearse.torch._dynamo.graph_break(), old(self, *a))[1]",
        dict(compile=True, world=1),
        "torch.compile makes 2 graphs of the model and not 1",
    ),
    "float64": (
        "import gpt2course.model as m\n"
        "m.MLP.forward = lambda self, x: self.c_proj(m.F.relu(self.c_fc(x)).double().square().to(x.dtype))",
        dict(world=1),
        "float64 on the GPU: forward: aten._to_copy",
    ),
    "a forgotten all-gather": (
        "import gpt2course.optim as o\nold = o.MuonAdamW._start_gather\n"
        "def forgets(self, part, own):\n"
        "    if part.names[0] != 'lm_head.weight': return old(self, part, own)\n"
        "    return own.new_empty(len(own) * self.world)\n"
        "o.MuonAdamW._start_gather = forgets",
        dict(world=8),
        "allgather sends",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_is_caught(name, tmp_path):
    mutation, settings, problem = MUTATIONS[name]
    code, text, _ = rehearse(tmp_path, mutation, recipe="jan29", depth=2, device_batch=8, **settings)
    assert code == 1 and f"PROBLEM: {problem}" in text, text


@pytest.mark.slow
def test_mistakes_are_told(tmp_path):
    """Without a compiler, and with a device batch that does not divide the rows: one line, and where the pages are."""
    env = os.environ | {"CXX": "no-such-compiler", "GPT2COURSE_HOME": str(tmp_path / "home")}
    call = [sys.executable, "tools/rehearse.py", "jan29"]
    done = subprocess.run(call, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "needs a C++ compiler" in done.stderr
    assert "results/2026-11-29_rehearsal" in done.stderr
    done = subprocess.run([*call, "--device-batch", "3"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "device_batch 3 must divide the 32 rows of a rank" in done.stderr
