"""Work in child processes that outlive the notebook: started, found again, followed, stopped. Lesson 14.

A child runs in a session of its own and writes to its own files; it is known by its pid and the time of its birth, and
all that comes of it by an environment variable. A stage leaves `runs/<name>/stages/<stage>.json`. Nothing here loads
torch.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gpt2course
from gpt2course.files import UserError, home, read_json, run_folder, write_json
from gpt2course.runlog import read_metrics

EVERY = 15.0  # seconds between two lines of progress; papermill stores every line
JOB = "GPT2COURSE_JOB"  # environment variable of a stage's processes: <folder of the run>:<stage>

children: dict[int, subprocess.Popen] = {}  # ours, which must be waited for, or they stay zombies


def stat(pid: int) -> list[str]:
    """Fields 3 and on of /proc/<pid>/stat: state, parent, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # the name before ")" may hold anything


def birth(pid: int) -> str | None:
    """When a living process was born, as text that no other process of the same pid has; None for none, or a zombie."""
    try:
        if sys.platform == "linux":
            fields = stat(pid)
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            return None if fields[0] in "ZX" else f"{boot} {fields[19]}"  # field 22: clock ticks from boot to start
        argv = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
        out = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout.split()
        return None if not out or out[0].startswith("Z") else " ".join(out[1:])
    except (OSError, IndexError):
        return None


def paths(folder: Path, stage: str) -> tuple[Path, Path]:
    """(log, pid file) of a stage's process: train.log and train.pid of the run, the others among its stages."""
    at = folder if stage == "train" else folder / "stages"
    return at / f"{stage}.log", at / f"{stage}.pid"


def living(folder: Path, stage: str) -> dict | None:
    """The record of the stage's process if it is alive."""
    try:
        record = read_json(paths(folder, stage)[1], "pid file")
        if (child := children.get(record["pid"])) is not None and child.poll() is not None:
            return None
        return record if record["birth"] and birth(record["pid"]) == record["birth"] else None
    except (UserError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def alone(folder: Path):
    """Only one process at a time looks whether something runs, and starts it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".start.lock", "w") as f:
        try:
            import fcntl

            fcntl.flock(f, fcntl.LOCK_EX)
        except (ImportError, OSError):  # some network file systems have no locks
            pass
        yield


def environment() -> dict:
    """Of the children: this very package, whatever the working directory, and output as it comes."""
    path = [str(Path(gpt2course.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def on_devices(n: int) -> list[str]:
    """What stands before a module's name, after `python -m`, to start it as n ranks."""
    return ["torch.distributed.run", "--standalone", f"--nproc_per_node={n}", "-m"] if n > 1 else []


def family(folder: Path, stage: str = "") -> list[int]:
    """Every living process of a stage (default: of all stages), in whatever session, whoever its parent is now."""
    mark = f"{JOB}={folder.absolute()}:{stage}"
    if sys.platform != "linux":  # macOS
        argv = ["ps", "-axEww", "-o", "pid=,command="]
        lines = subprocess.run(argv, capture_output=True, text=True).stdout.splitlines()
        return [int(line.split()[0]) for line in lines if f"{mark} " in f"{line} " or not stage and mark in line]
    found, mark = [], mark.encode()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # another user's, or just ended
            variables = (place / "environ").read_bytes().split(b"\0")
            ours = mark in variables if stage else any(v.startswith(mark) for v in variables)
            if ours and stat(int(place.name))[0] not in "ZX":
                found.append(int(place.name))
    return found


def end_all(folder: Path, stage: str) -> list[int]:
    """Kill every process of a stage but this one, and see them end; returns their pids."""
    ended, deadline = set(), time.monotonic() + 30
    while others := [pid for pid in family(folder, stage) if pid != os.getpid()]:
        if time.monotonic() > deadline:
            which = f"processes {', '.join(map(str, others))} of {folder.name}"
            why = "the system holds them, as a GPU driver that hangs does"
            raise UserError(f"{which} cannot be killed: {why}; restart the machine")
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended |= set(others)
        time.sleep(0.05)
    return sorted(ended)


def end_with_parent() -> None:
    """From here on the kernel kills this process when its parent ends, however that ends.

    On Linux; elsewhere `end_all` must find it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        parent = b""
        with contextlib.suppress(OSError):
            parent = Path(f"/proc/{os.getppid()}/environ").read_bytes()
        if JOB in os.environ and f"{JOB}={os.environ[JOB]}".encode() not in parent.split(b"\0"):
            os._exit(1)  # it has ended before that


def launch(folder: Path, stage: str, argv: list[str], key: str) -> dict:
    """Start `python -m argv` in a session of its own, writing to the stage's log; returns its record."""
    log, pid_file = paths(folder, stage)
    log.parent.mkdir(parents=True, exist_ok=True)
    earlier = 0.0  # seconds of earlier processes of the same work, so that a resumed run has its whole time
    with contextlib.suppress(UserError, OSError, KeyError):
        old = read_json(pid_file)
        earlier = old["earlier"] + max(0.0, log.stat().st_mtime - old["started"]) if old["inputs"] == key else 0.0
    with open(log, "ab") as out:
        out.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}  python -m {' '.join(argv)}\n".encode())
        out.flush()
        began, offset = time.time(), out.tell()
        env = environment() | {JOB: f"{folder.absolute()}:{stage}"}
        if argv[0] == "torch.distributed.run":
            env.setdefault("OMP_NUM_THREADS", "1")  # as torchrun would, which explains it in a page
        child = subprocess.Popen(
            [sys.executable, "-m", *argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=env,
        )
    children[child.pid] = child
    record = {"pid": child.pid, "birth": birth(child.pid), "inputs": key}
    record |= {"started": began, "log_from": offset, "earlier": earlier}
    write_json(pid_file, record)
    return record


def whole_lines(log: Path, offset: int) -> tuple[list[str], int]:
    """Whole lines of a log from a byte on, and where the next ones begin."""
    try:
        with open(log, "rb") as f:
            f.seek(offset)
            data = f.read()
    except FileNotFoundError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    return whole.decode("utf-8", "replace").splitlines(), offset + len(whole)


def ended(code: int) -> str:
    """How a process ended, by its exit code, which is the negative number of the signal that killed it."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def last_error(lines: list[str]) -> str | None:
    """The last line that says an error of ours; torchrun says more after it."""
    return next((line for line in reversed(lines) if line.startswith("error: ")), None)


def failure(folder: Path, stage: str, record: dict) -> UserError:
    """The one error of a child that ended without a result, from the last lines of its log."""
    log = paths(folder, stage)[0]
    lines = [line for line in whole_lines(log, record.get("log_from", 0))[0] if line.strip()]
    if said := last_error(lines):
        return UserError(f"stage {stage}: {said.removeprefix('error: ')}")
    code = None
    if child := children.get(record.get("pid")):
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = child.wait(10)  # its threads may take a moment to end
    how = ended(code) if code else "ended without a result"
    how += " (memory may have run out)" if code == -signal.SIGKILL else ""
    return UserError(f"stage {stage} {how}; the last lines of {log}:\n" + "\n".join(lines[-12:]))


def ask(what: str, request: dict):
    """The answer of a short child process that needs torch."""
    argv = [sys.executable, "-m", "gpt2course.ops.work", what, "--request", json.dumps(request)]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment())
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        ours = lines[-1].startswith("error: ")
        raise UserError(lines[-1].removeprefix("error: ") if ours else "\n".join(lines[-12:]))
    return json.loads(done.stdout.splitlines()[-1])


# ---- what a stage leaves


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def stored(folder: Path, stage: str) -> dict | None:
    """What a stage left: {"inputs", "result", "seconds", "finished"}; None if there is nothing readable."""
    try:
        value = read_json(folder / "stages" / f"{stage}.json", "stage")
        return value if {"inputs", "result", "seconds", "finished"} <= value.keys() else None
    except (UserError, AttributeError):
        return None


def store(folder: Path, stage: str, key: str, result, seconds: float) -> dict:
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    value = {"inputs": key, "seconds": round(seconds, 2), "finished": now, "result": result}
    write_json(folder / "stages" / f"{stage}.json", value)
    return value


def duration(seconds: float) -> str:
    """0.42 -> "0.4 s", 75 -> "1:15", 3725 -> "1:02:05"."""
    if seconds < 59.95:
        return f"{max(0.0, seconds):.1f} s"
    minutes, s = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{s:02d}" if minutes >= 60 else f"{minutes}:{s:02d}"


# ---- training: where it stands, followed, stopped


def status(name: str) -> dict:
    """Where a run's training stands, from its files.

    state (new, running, stopped or finished), pid, step, steps, hours at work in all starts, and the last values.
    """
    folder = run_folder(name)
    if not folder.is_dir():
        have = sorted(p.parent.name for p in (home() / "runs").glob("*/config.json"))
        there = f"there are {', '.join(have)}" if have else "there is none yet"
        raise UserError(f"there is no run {name!r} in {home() / 'runs'}; {there}")
    record, metrics = living(folder, "train"), read_metrics(folder)
    last = {line["kind"]: line for line in metrics}
    train = last.get("train", {})
    with contextlib.suppress(UserError):
        config = read_json(folder / "config.json")
        train = {"steps": config["plan"]["steps"]} | train
    if record:
        state = "running"
    elif "done" in last:
        state = "finished"
    else:
        state = "stopped" if metrics or paths(folder, "train")[0].exists() else "new"
    hours = 0.0
    with contextlib.suppress(UserError, TypeError, KeyError):
        hours = read_json(folder / "supervisor.json")["seconds"] / 3600
    names = ("step", "steps", "tokens", "seconds", "loss", "tok_per_sec", "mfu", "eta_seconds", "usd")
    return {
        "name": name,
        "state": state,
        "pid": record["pid"] if record else None,
        "folder": str(folder),
        "memory_bytes": memory(folder) if record else None,
        "hours": hours,
        "val_bpb": last.get("eval", {}).get("val_bpb"),
    } | {n: train.get(n) for n in names}


def memory(folder: Path) -> int | None:
    """The peaks of the memory of a training's processes, added up, in bytes; None where the system does not tell."""
    if sys.platform != "linux":
        return None
    total = 0
    for pid in family(folder, "train"):
        with contextlib.suppress(OSError, TypeError):  # just ended
            text = Path(f"/proc/{pid}/status").read_text()
            total += int(re.search(r"VmHWM:\s+(\d+)", text)[1]) * 1024
    return total


def describe(s: dict) -> str:
    """A status on one line."""
    if s["step"] is None:
        return "no step yet"
    parts = [f"step {s['step']:,}/{s['steps'] or 0:,}", f"loss {s['loss']:.3f}"]
    parts += [f"val bpb {s['val_bpb']:.3f}"] if s["val_bpb"] is not None else []
    parts += [f"{s['tok_per_sec']:,.0f} tokens/s"] + ([f"mfu {s['mfu']:.1%}"] if s["mfu"] else [])
    parts += [f"left {duration(s['eta_seconds'])}"] if s["step"] != s["steps"] else ["last step done"]
    parts += [f"${s['usd']:.2f} so far"] if s["usd"] is not None else []
    return "  ".join(parts + ([f"memory {s['memory_bytes'] / 1e9:.2f} GB"] if s["memory_bytes"] else []))


def follow(name: str, every: float = EVERY) -> dict:
    """Print a line about every `every` seconds until the run's training ends; returns its last status.

    Ctrl-C leaves it at work.
    """
    if not every > 0:
        raise UserError(f"every = {every:g} is not allowed; it must be a number of seconds above 0")
    s, folder = status(name), run_folder(name)
    record = living(folder, "train")
    at, said, peak = record["log_from"] if record else 0, time.monotonic(), 0
    began = record["started"] if record else time.time()
    try:
        while record:
            alive = living(folder, "train") is not None
            lines, at = whole_lines(paths(folder, "train")[0], at)
            for line in lines:
                if not re.match(r"step [\d,]+/|error: ", line):  # steps are told below, by the metrics; errors raised
                    print(line, flush=True)
                    said = time.monotonic()
            if alive and time.monotonic() - said >= every:
                s = status(name)
                peak, since = max(peak, s["memory_bytes"] or 0), f"{duration(time.time() - began)} since the start"
                if s["step"] is None:
                    print(f"getting ready, {since}", flush=True)
                elif s["step"] == s["steps"]:
                    what = "now the evaluation on all validation text"
                    print(f"all {s['steps']:,} steps are done; {what}, {since}", flush=True)
                else:
                    print(describe(s), flush=True)
                said = time.monotonic()
            if not alive:
                break
            time.sleep(0.2)
    except KeyboardInterrupt:
        print(
            f"\ntraining goes on in process {record['pid']}. Run this again to follow it; "
            f"to stop it with a checkpoint: python -m gpt2course.ops.runbook stop {name}",
            flush=True,
        )
        raise
    s = status(name)
    if s["step"] is not None:
        print(describe(s), flush=True)
    return s | {"peak_memory_bytes": peak or None}


def stop(name: str, now: bool = False, wait: float = 300.0) -> bool:
    """Ask a run's training to save a checkpoint and end (SIGTERM), or with `now` kill it; returns whether it ended."""
    if not wait >= 0:
        raise UserError(f"wait = {wait:g} is not allowed; it must be a number of seconds from 0")
    status(name)  # names the runs if there is none of this name
    folder = run_folder(name)
    record = living(folder, "train")
    if record is None:
        print(f"run {name} is not being trained")
        return True
    if now:
        end_all(folder, "train")
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(record["pid"], signal.SIGTERM)
    what = "end at once" if now else "save a checkpoint and end, which it does after its step"
    print(f"asked process {record['pid']} to {what}", flush=True)
    deadline = time.monotonic() + wait
    while living(folder, "train") and time.monotonic() < deadline:
        time.sleep(0.1)
    if living(folder, "train"):
        kill = f"`python -m gpt2course.ops.runbook stop {name} --now` kills it"
        print(f"it has not ended within {wait:g} s; {kill}, and what came after the last checkpoint is lost")
        return False
    s = status(name)
    where = ""
    if s["state"] == "stopped" and s["step"]:
        where = f" at step {s['step']:,} of {s['steps']:,}; the runbook, run again, goes on with it"
    print(f"run {name} is {s['state']}{where}")
    return True
