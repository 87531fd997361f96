"""Launch recipes: linted, and run for real with stand-ins for papermill, make, python, rsync, the GPUs and Slurm."""

import dataclasses
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from gpt2course.ops.parameters import Params
from gpt2course.recipes import resolve_run, settings_from_text

LAUNCH = Path(__file__).resolve().parents[2] / "launch"

# Each stand-in notes its call. papermill does what $PAPERMILL says for each start in turn: a code to end with, or "wait". rsync copies folders.
FAKE = """#!/bin/bash
echo "$(basename "$0") $*" >> "$CALLS"
"""
FAKES = {
    "nvidia-smi": '[ "${GPUS:-1}" = 1 ]', "make": "", "scontrol": "", "python": 'if [ "$1" = -c ]; then echo "$GPT2COURSE_HOME"; fi',
    "papermill": """n=$(grep -c '^papermill' "$CALLS"); mkdir -p "$(dirname "$2")" "$GPT2COURSE_HOME/runs/$NAME"; echo notebook > "$2"; echo "$n" >> "$GPT2COURSE_HOME/runs/$NAME/metrics.jsonl"
what=$(cut -d' ' -f"$n" <<< "${PAPERMILL:-0}"); if [ "$what" = wait ]; then echo $$ > "$CALLS.pid"; exec /bin/sleep 60; fi; exit "$what" """,
    "rsync": '[ -z "${RSYNC_FAILS:-}" ] || exit 23; [ -z "${RSYNC_HANGS:-}" ] || [ "$(grep -c "^rsync.*delete" "$CALLS")" != 1 ] || exec /bin/sleep 60; from="${@: -2:1}"; [ -d "$from" ] || exit 23; mkdir -p "${@: -1}"; cp -r "$from" "${@: -1}"',
}  # fmt: skip


@pytest.fixture
def node(tmp_path):
    """A machine with a clone of the course: run(...) starts a script there, calls() lists what it called."""
    shutil.copytree(LAUNCH, tmp_path / "clone" / "launch")
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name, body in FAKES.items():
        (bin_ / name).write_text(FAKE + body + "\n")
        (bin_ / name).chmod(0o755)
    (bin_ / "sleep").write_text("#!/bin/sh\nexec /bin/sleep 0.1\n")  # run.sh looks once a second
    (bin_ / "sleep").chmod(0o755)
    env = {"PATH": f"{bin_}:/usr/bin:/bin", "HOME": str(tmp_path), "CALLS": str(tmp_path / "calls"), "GPT2COURSE_HOME": str(tmp_path / "home"), "NAME": "r1"}
    (tmp_path / "calls").touch()

    def start(*args, script="run.sh", **more):
        hears = lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)  # noqa: E731  under nohup the tests would hand down their deafness
        return subprocess.Popen(["bash", f"launch/{script}", *args], cwd=tmp_path / "clone", env=env | more, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=hears)

    def run(*args, **more):
        child = start(*args, **more)
        out, _ = child.communicate(timeout=60)
        return child.returncode, out

    def calls(name=None):
        lines = (tmp_path / "calls").read_text().splitlines()
        return [line for line in lines if name is None or line.split()[0] == name]

    def at_work():
        deadline = time.monotonic() + 20
        while not (pid := tmp_path / "calls.pid").exists() or not pid.read_text():
            assert time.monotonic() < deadline, "papermill was not started"
            time.sleep(0.02)
        return int(pid.read_text())

    run.start, run.calls, run.at_work, run.path = start, calls, at_work, tmp_path
    return run


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    done = subprocess.run(["shellcheck", *LAUNCH.glob("*.sh")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_commands_of_the_readme_exist():
    for line in (LAUNCH / "README.md").read_text().splitlines():
        for recipe, rest in re.findall(r"gpt2course\.train (\w+) ([^`|]*)", line):
            words = rest.split()
            profile, sets = words[words.index("--profile") + 1], words[words.index("--set") + 1 :]
            assert resolve_run(recipe, profile, settings_from_text(sets), gpus=8).plan.steps > 1000


def test_the_script_asks_the_package_where_runs_are(tmp_path):
    """GPT2COURSE_HOME from an env file, which no shell expands. Other forms of it: row 5 of tests/whole/test_users.py."""
    line = next(line for line in (LAUNCH / "run.sh").read_text().splitlines() if "import home" in line).strip()
    env = os.environ | {"GPT2COURSE_HOME": "~/big", "HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = subprocess.run(["bash", "-c", f'{line}; echo "$RUNS"'], env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert script.stdout.strip() == str(tmp_path / "big" / "runs")


# ---- run.sh


def test_a_dry_run_prints_the_commands_and_does_nothing(node):
    code, out = node("-r", "recipe", "record", DRY_RUN="1", COPY_TO="/elsewhere")
    assert code == 0 and node.calls() == [] and not (node.path / "home").exists()
    commands = [line[2:].split()[0] for line in out.splitlines() if line.startswith("+ ")]
    assert commands == ["nvidia-smi", "make", "mkdir", "rsync", "papermill", "rsync"] and "dry run: nothing was done" in out


def test_it_starts_the_runbook_with_parameters_that_it_has(node):
    code, out = node("-r", "recipe", "record", "-r", "settings", "ratio=9 steps=5")
    assert code == 0 and "shut this one down" in out
    assert [c.split()[0] for c in node.calls()] == ["nvidia-smi", "make", "python", "papermill"]
    words = shlex.split(node.calls("papermill")[0].replace("ratio=9 steps=5", "'ratio=9 steps=5'"))
    notebook, out_path = words[1:3]
    assert (LAUNCH.parent / notebook).is_file() and out_path == "work/speedrun/r1.ipynb" and words[-4:] == ["--log-output", "--autosave-cell-every", "30", "--no-progress-bar"]
    given = {words[i + 1]: words[i + 2] for i, word in enumerate(words) if word == "-r"}
    assert given == {"profile": "8xh100", "name": "r1", "recipe": "record", "settings": "ratio=9 steps=5"}
    assert set(given) <= {f.name for f in dataclasses.fields(Params)}


def test_no_gpu_ends_it_at_once(node):
    assert node(GPUS="0")[0] != 0 and node.calls() == ["nvidia-smi -L"]


def test_a_killed_papermill_is_started_again_a_cells_error_is_not(node):
    code, out = node(PAPERMILL="137 138 0")
    assert code == 0 and len(node.calls("papermill")) == 3 and out.count("its kernel died") == 2
    code, out = node(PAPERMILL="x x x 1 0")
    assert code == 1 and len(node.calls("papermill")) == 4 and "resumes the run" in out
    code, out = node(PAPERMILL="x x x x 137 137 137 0", TRIES="2")
    assert code == 137 and len(node.calls("papermill")) == 6


@pytest.mark.parametrize("name, job, requeued", [("TERM", "", False), ("TERM", "7", False), ("USR1", "", False), ("USR1", "7", True)])
def test_a_signal_saves_a_checkpoint_copies_off_and_says_run_me_again(node, name, job, requeued):
    shelf = node.path / "shelf"
    child = node.start(PAPERMILL="wait", COPY_TO=str(shelf), **({"SLURM_JOB_ID": job} if job else {}))
    papermill = node.at_work()
    child.send_signal(getattr(signal, f"SIG{name}"))
    out, _ = child.communicate(timeout=20)
    assert child.returncode == 75, out
    assert gone(papermill)
    after = node.calls()[node.calls().index(node.calls("papermill")[0]) + 1 :]
    assert after[0] == "python -m gpt2course.ops.runbook stop r1 --wait 240"  # the checkpoint first
    assert after[1].startswith("rsync") and (shelf / "r1" / "metrics.jsonl").is_file()
    assert after[2:] == (["scontrol requeue 7"] if requeued else [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_and_a_lost_terminal_leave_training_at_work(node, number):
    child = node.start(PAPERMILL="wait")
    papermill = node.at_work()
    child.send_signal(number)
    child.communicate(timeout=20)
    assert child.returncode != 0 and gone(papermill) and not any("stop" in call for call in node.calls("python"))


def test_a_new_machine_takes_the_run_up(node):
    shelf = str(node.path / "shelf")
    code, out = node(COPY_TO=shelf)
    assert code == 0 and "there is no run r1" in out
    assert (node.path / "shelf" / "r1" / "r1.ipynb").read_text() == "notebook\n"  # the notebook goes along
    shutil.rmtree(node.path / "home")  # another machine
    code, out = node(COPY_TO=shelf)
    assert code == 0 and "there is no run" not in out
    assert (node.path / "home" / "runs" / "r1" / "metrics.jsonl").read_text() == "1\n2\n"  # went on with it
    before = len(node.calls("rsync"))
    assert node(COPY_TO=shelf)[0] == 0 and len(node.calls("rsync")) == before + 1  # the run is here: nothing is fetched over it


def test_it_copies_while_it_works_and_a_failed_copy_is_only_a_warning(node):
    child = node.start(PAPERMILL="wait", COPY_TO=str(node.path / "shelf"), COPY_MINUTES="0")
    node.at_work()
    deadline = time.monotonic() + 20
    while len(node.calls("rsync")) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    child.terminate()
    child.communicate(timeout=20)
    copies = node.calls("rsync")
    assert len(copies) >= 3 and all("--delete-after --exclude .*.tmp" in c for c in copies[1:])
    code, out = node(PAPERMILL="x 0", COPY_TO=str(node.path / "shelf"), RSYNC_FAILS="1")
    assert code == 0 and "warning: the copy to" in out


def test_a_signal_does_not_wait_for_a_copy(node):
    child = node.start(PAPERMILL="wait", COPY_TO=str(node.path / "shelf"), COPY_MINUTES="0", RSYNC_HANGS="1")
    deadline = time.monotonic() + 20
    while not any("delete" in call for call in node.calls("rsync")) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.terminate()
    child.communicate(timeout=20)
    assert child.returncode == 75 and node.calls()[-2].startswith("python -m gpt2course.ops.runbook stop")
    assert (node.path / "shelf" / "r1" / "metrics.jsonl").is_file()


def test_without_rsync_it_says_so_before_anything_is_paid_for(node):
    (node.path / "bin" / "rsync").unlink()
    if shutil.which("rsync", path="/usr/bin:/bin"):
        pytest.skip("this machine has rsync")
    code, out = node(COPY_TO="/shelf")
    assert code == 2 and out.startswith("error: COPY_TO needs rsync") and node.calls() == []


# ---- slurm.sh


def test_sbatch_directives():
    lines = (LAUNCH / "slurm.sh").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])  # sbatch reads none after the first command
    found = [re.fullmatch(r"#SBATCH --([\w-]+)(?:=(\S+))?", line) for line in lines[:first] if line.startswith("#SBATCH")]
    assert all(found)
    d = {m[1]: m[2] or "" for m in found}
    assert (d["nodes"], d["ntasks"], d["gpus-per-node"], d["signal"].split("@")[0]) == ("1", "1", "8", "B:USR1")  # B: to the batch shell itself
    assert int(d["signal"].split("@")[1]) > 240 + 60  # what `stop --wait` may take, and a minute


def test_slurms_signal_reaches_the_run_and_queues_it_again(node):
    child = node.start("-r", "recipe", "record", script="slurm.sh", PAPERMILL="wait 0", SLURM_SUBMIT_DIR=str(node.path / "clone"), SLURM_JOB_ID="41")
    node.at_work()
    child.send_signal(signal.SIGUSR1)  # as sbatch --signal=B:USR1 does
    assert child.wait(20) == 75 and node.calls("scontrol") == ["scontrol requeue 41"]
    again = node.start("-r", "recipe", "record", script="slurm.sh", PAPERMILL="wait 0", SLURM_SUBMIT_DIR=str(node.path / "clone"), SLURM_JOB_ID="41")
    assert again.wait(20) == 0  # the same command goes on
    assert all("-r recipe record" in c for c in node.calls("papermill")) and len(node.calls("papermill")) == 2
    code, out = node(script="slurm.sh")
    assert code != 0 and "submit this file with sbatch" in out


# ---- sky.yaml


def test_sky_yaml_asks_for_a_node_and_recovers_from_a_saved_stop():
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    assert task["resources"]["accelerators"] == "H100:8" and task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]  # run.sh's code
    assert task["file_mounts"] == {"/results": {"name": "${BUCKET}", "mode": "MOUNT_CACHED"}} and task["envs"]["BUCKET"] is None  # None: must be given


def test_sky_yaml_runs_and_takes_the_run_up(node):
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    shelf = node.path / "results"
    (node.path / "clone" / "launch" / "sky-run.sh").write_text(task["run"].replace("/results", str(shelf)))
    envs = {k: v or "b" for k, v in task["envs"].items()} | {"NAME": "r1", "PARAMETERS": "-r recipe record -r price_per_hour 24"}
    for machine in (1, 2):
        code, out = node(script="sky-run.sh", **envs)
        assert code == 0, out
        assert (shelf / "r1" / "metrics.jsonl").read_text() == "1\n2\n"[: 2 * machine]
        shutil.rmtree(node.path / "home")
    assert "-r recipe record -r price_per_hour 24 --log-output" in node.calls("papermill")[0] and "make setup PYTHON=" in task["setup"]
