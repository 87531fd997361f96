"""What would stop a run or waste its money, found in seconds before it begins. Lesson 14.

    python -m gpt2course.ops.preflight jan29 --profile 8xh100 --price-per-hour 24

A finding is ("ok", "warning" or "STOP", what, text); that of a warning or STOP ends with what mends it. Each probe is a
function of what it judges, the output of a command or some numbers, so that recorded outputs test it for machines that
nobody has at hand. A probe that fails is a finding too.
"""

import contextlib
import http.client
import os
import platform
import re
import shutil
import ssl
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import tyro

from gpt2course import core_tasks as core_bundle
from gpt2course.ops import shards
from gpt2course.data import load_corpus
from gpt2course.ops.download import SameHost, mirrored
from gpt2course.files import UserError, command, home
from gpt2course.files import duration

GPUS = {"1gpu": 1, "8xh100": 8}  # H100 that a profile is made for
H100_MEMORY = 81_559 * 2**20 - 0.6e9  # bytes free on an empty H100: what nvidia-smi shows, less what the driver keeps
CPU_PROCESS = 0.5e9  # bytes that Python and torch take on a CPU besides training
TIMEOUT = 8.0  # seconds for nvidia-smi, and for an address
# CUDA's major version -> oldest driver (docs.nvidia.com/deploy/cuda-compatibility, minor version compatibility)
DRIVERS = {11: 450, 12: 525, 13: 580}
FIELDS = ("index", "name", "uuid", "driver_version", "memory.total", "memory.free", "mig.mode.current")
HEALTH = (
    "index", "ecc.errors.uncorrected.volatile.total", "power.limit", "clocks.max.sm", "clocks_event_reasons.active",
)  # fmt: skip
APPS = ("gpu_uuid", "pid", "used_memory", "process_name")
# Bits of clocks_event_reasons.active that say a GPU is held back by heat or supply (nvml.h, nvmlClocksEventReason...)
HELD_BACK = {0x08: "hardware slowdown", 0x20: "heat (software)", 0x40: "heat (hardware)", 0x80: "power brake"}
# Bytes of /dev/shm: NCCL's segments have 9.6 MB each, Docker gives 64 MB (github.com/NVIDIA/nccl/issues/342)
SHM_NEED, SHM_GOOD = 256e6, 1e9
FILES_NEED = 1024  # open files of a process: Linux's usual limit

# What a forecast assumes. 50 % MFU is what record 1 reached on 8 H100, 40 % what single GPUs do (forecast.TIER_MFU).
MFU_NODE, MFU_ONE, MFU_FORWARD = 0.5, 0.4, 0.3
DOWNLOAD = 200e6  # bytes/s, for the first shards; the run waits for others only if it catches up with them
SETUP, TOKENIZER, COMPILE = 300.0, 240.0, 180.0  # seconds
CORE_TOKENS = 68e6  # that CORE's 91,037 questions ask a model to read when choices share their prompt

Finding = tuple[str, str, str]


def ok(what: str, text: str) -> Finding:
    return "ok", what, text


def warning(what: str, text: str) -> Finding:
    return "warning", what, text


def stop(what: str, text: str) -> Finding:
    return "STOP", what, text


def guarded(what: str, probe, *args) -> list[Finding]:
    """The findings of a probe (one, or a list), or that it failed."""
    try:
        found = probe(*args)
        return [found] if isinstance(found, tuple) else found
    except Exception as e:
        said = f"{type(e).__name__}: {first_line(str(e)) or 'no message'}"
        text = f"this could not be looked at ({said}); everything else was, and the run need not fail for it"
        return [warning(what, text)]


def first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0] if lines else ""


# ---- NVIDIA's tool


def ask(*argv: str) -> tuple[int, str]:
    """(exit code, output) of a command; 127 where there is none, 124 where it does not answer."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=TIMEOUT)
        return done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        return 124, f"{argv[0]} gave no answer in {TIMEOUT:g} s"
    except OSError as e:
        return 127, f"{argv[0]}: {e.strerror}"


def at_once(jobs: list, timeout: float) -> None:
    """Call each job in a thread, and wait `timeout` seconds at most: looking up a name knows no limit of its own."""
    threads = [threading.Thread(target=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def query(what: str, fields) -> tuple[int, str]:
    return ask("nvidia-smi", f"--query-{what}={','.join(fields)}", "--format=csv,noheader,nounits")


def health_query() -> tuple[int, str]:
    code, text = query("gpu", HEALTH)
    if code:  # the last field's name before driver 535
        return query("gpu", (*HEALTH[:-1], "clocks_throttle_reasons.active"))
    return code, text


def table(text: str, fields) -> list[dict]:
    """Rows of `nvidia-smi --query-...`; None for what it does not tell: "[N/A]", "[Unknown Error]" and such, "ERR!"."""
    out = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",", len(fields) - 1)]
        if len(cells) == len(fields):
            told = [cell if cell and cell[0] != "[" and cell != "ERR!" else None for cell in cells]
            out.append(dict(zip(fields, told)))
    return out


def number(text: str | None) -> float | None:
    """The value of a cell, decimal or 0x...; None if it is no number."""
    try:
        return float(int(text, 16) if text.startswith("0x") else text)
    except (AttributeError, ValueError):
        return None


def chosen(rows: list[dict], visible: str | None) -> list[dict]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, by number or UUID; all if it is not set or says something else."""
    names = [name.strip() for name in (visible or "").split(",")]
    fits = lambda name, row: name == row["index"] or len(name) > 7 and (row["uuid"] or "").startswith(name)
    found = [row for name in names for row in rows if fits(name, row)]
    return found if len(found) == len(names) else rows


def pci_gpus() -> int:
    """NVIDIA GPUs on the PCI bus, whether or not there is a driver."""
    found = 0
    for device in Path("/sys/bus/pci/devices").glob("*"):
        with contextlib.suppress(OSError):
            nvidia = (device / "vendor").read_text().strip() == "0x10de"
            found += nvidia and (device / "class").read_text().startswith("0x03")
    return found


def shares(rows: int, streams: int = 8) -> list[int]:
    """Numbers of processes that can share a batch of so many rows from so many streams."""
    return [w for w in range(1, streams + 1) if rows % w == 0 and streams % w == 0]


def probe_gpus(
    code: int, text: str, found: list[dict], seen: int, profile: str, rows: int, on_bus: int = 0
) -> list[Finding]:
    """code, text: of nvidia-smi; found: its GPUs that may be used; seen: GPUs by torch; rows: of a batch; on_bus: of
    pci_gpus."""
    if code == 127 and seen:
        unseen = "nvidia-smi is not there, so neighbours, health and links cannot be looked at"
        mend = "in Docker: docker run -e NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        return [warning("gpus", f"{seen} by torch, but {unseen}; {mend}")]
    if code == 127:
        what = f"{on_bus} NVIDIA GPUs are on the bus, but nvidia-smi is not there: no driver, or a container without it"
        mend = "in Docker: docker run --gpus all"
        return [stop("gpus", f"{what}; {mend}")] if on_bus else []
    if code or not found:
        said = first_line(text) or "no output"
        mend = "restart the machine, and if that does not help, return it and take another"
        return [stop("gpus", f"nvidia-smi fails ({said}); {mend}")]
    out, kinds = [], {}
    for row in found:
        kinds.setdefault(row["name"] or "a GPU that does not say its name", []).append(row["index"])
    if any((row["mig.mode.current"] or "").lower() == "enabled" for row in found):
        what = "MIG is on, which cuts a GPU into slices that cannot train together"
        mend = "`sudo nvidia-smi -mig 0`, or take another machine"
        out.append(stop("gpus", f"{what}; {mend}"))
    if len(kinds) > 1:
        each = "; ".join(f"{len(numbers)} x {name} (GPU {', '.join(numbers)})" for name, numbers in kinds.items())
        mend = "take another machine, or name equal ones with CUDA_VISIBLE_DEVICES"
        out.append(warning("gpus", f"they are not all the same: {each}; the slowest sets the pace for all: {mend}"))
    n, wanted, can = seen or len(found), GPUS.get(profile, 1), shares(rows)
    if n < wanted and n in can:
        times, mend = f"{wanted / n:g}", f"take a machine with {wanted} if that is too long"
        what = f"there are {n} and profile {profile} is made for {wanted}, so the run takes {times} times as long"
        out.append(warning("gpus", f"{what}; {mend}"))
    elif n < wanted:
        use = max(w for w in can if w <= n)
        first = ",".join(row["index"] or str(i) for i, row in enumerate(found[:use]))
        by = ", ".join(map(str, can))
        text = f"there are {n}, and a batch of {rows} rows can be shared by {by}; take a machine with {wanted}"
        out.append(stop("gpus", f"{text}, or use {use} of these: export CUDA_VISIBLE_DEVICES={first}"))
    return out or [ok("gpus", f"{n} x {next(iter(kinds))}")]


def probe_driver(
    driver: str | None, build: str, cuda: str | None, seen: int, listed: int, reason: str = ""
) -> list[Finding]:
    """driver: version by nvidia-smi; build, cuda: torch's version and CUDA; seen, listed: GPUs by torch, by nvidia-smi;
    reason: what torch says if it sees none."""
    if not listed:
        return []
    if cuda is None:
        what = f"torch {build} is a build without CUDA, and {listed} GPUs are here"
        mend = "install the other one on this machine: make clean setup"
        return [stop("driver", f"{what}; {mend}")]
    oldest, have = DRIVERS.get(int(cuda.split(".")[0])), number((driver or "").split(".")[0])
    if oldest and have and have < oldest:
        what = f"driver {driver} is too old for CUDA {cuda} of torch {build}, which needs {oldest} or newer"
        mend = "take a machine or an image with a newer driver"
        return [stop("driver", f"{what}; {mend}")]
    if not seen and re.search(r"\b802\b|not yet initialized", reason):
        what = f"torch sees none of the {listed} GPUs ({reason}): the fabric manager of this node is not running"
        mend = "sudo systemctl start nvidia-fabricmanager"
        return [stop("driver", f"{what}; {mend}")]
    if not seen:
        visible = f"CUDA_VISIBLE_DEVICES is {os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}"
        why = f"{reason or 'it does not say why'}; {visible}"
        return [stop("driver", f"torch sees none of the {listed} GPUs ({why}); restart the machine, or take another")]
    return [ok("driver", f"{driver or 'unknown'}, CUDA {cuda} of torch {build}")]


def probe_neighbours(found: list[dict], apps: list[dict], need: float) -> list[Finding]:
    """Memory of GPUs that somebody holds already. need: bytes of the run on each GPU."""
    out = []
    for row in found:
        total, free = number(row["memory.total"]), number(row["memory.free"])  # MiB
        if total is None or free is None or total - free < 2000:  # the driver itself takes some hundred
            continue
        total, free = total * 2**20, free * 2**20
        who, mend = "a process that is not shown", "it is another user's or container's: take another machine"
        others = [app for app in apps if app["gpu_uuid"] == row["uuid"] and app["pid"]]
        if others:
            names = [(app["process_name"] or "?").split("/")[-1][:40] for app in others]
            who = " and ".join(f"process {app['pid']} ({name})" for app, name in zip(others, names))
            mend = f"end it if it is yours: kill {' '.join(app['pid'] for app in others)}"
        text = f"GPU {row['index']} has {free / 1e9:.1f} of {total / 1e9:.1f} GB free, {who} holds the rest; {mend}"
        out.append((stop if free < need else warning)("neighbours", text))
    return out or [ok("neighbours", "no other process holds memory of these GPUs")]


def probe_health(rows: list[dict]) -> list[Finding]:
    """rows: HEALTH. Memory errors, slowdown by heat or supply, and GPUs set slower than the others."""
    out = []
    for row in rows:
        gpu, errors = f"GPU {row['index']}", number(row["ecc.errors.uncorrected.volatile.total"])
        bits = int(number(row["clocks_event_reasons.active"]) or 0)
        held = [text for bit, text in HELD_BACK.items() if bits & bit]
        if errors:
            text = f"{gpu} has had {errors:.0f} memory errors that ECC could not correct; take another machine"
            out.append(stop("health", text))
        if held:
            mend = "wait some minutes and look again, then take another machine"
            out.append(warning("health", f"{gpu} is slowed down by {', '.join(held)}; {mend}"))
    for field, unit in (("power.limit", "W"), ("clocks.max.sm", "MHz")):
        values = {row["index"]: number(row[field]) for row in rows if number(row[field]) is not None}
        slow, most = min(values, key=values.get, default=None), max(values.values(), default=0)
        if values and values[slow] < 0.95 * most:
            what = f"GPU {slow} is set slower than the others: {field} {values[slow]:g} {unit}, of another {most:g}"
            out.append(warning("health", f"{what}; take another machine"))
    fine = ok("health", f"no memory errors, no slowdown by heat or supply on {len(rows)} GPUs")
    return [fine] if rows and not out else out


def links(text: str) -> dict[tuple[int, int], str]:
    """{(i, j): kind} for i < j, by `nvidia-smi topo -m`: NV18 for 18 NVLinks, PIX, PXB, PHB, NODE, SYS through PCIe."""
    rows = {}
    for line in text.splitlines():
        cells = line.replace("\x1b[4m", "").replace("\x1b[0m", "").split()
        gpu = re.fullmatch(r"GPU(\d+)", cells[0]) if len(cells) > 1 else None
        if gpu and not cells[1].startswith("GPU"):  # as the heading's
            rows[int(gpu[1])] = cells[1:]
    return {(i, j): rows[i][j] for i, j in combinations(sorted(rows), 2) if j < len(rows[i])}


def probe_links(text: str, n: int, peers: bool | None = None) -> list[Finding]:
    """text: `nvidia-smi topo -m`; n GPUs are used; peers: whether torch says that each can read each other's memory."""
    if n < 2:
        return []
    found = links(text)
    slow = sorted({kind for kind in found.values() if not re.fullmatch(r"NV\d+", kind)})
    if not found:
        what = "nvidia-smi topo -m does not tell how the GPUs are connected"
        mend = "the smoke run will show whether they are slow together: python -m gpt2course.ops.smoke"
        return [warning("links", f"{what}; {mend}")]
    if slow:
        pairs, by = sum(kind in slow for kind in found.values()), ", ".join(slow)
        what = f"{pairs} of {len(found)} pairs of GPUs are joined by PCIe ({by})"
        mend = "take an SXM (HGX) machine, or let the smoke run measure it: python -m gpt2course.ops.smoke"
        return [warning("links", f"{what}, not NVLink, so the forecast does not hold; {mend}")]
    if peers is False:
        what = "the GPUs cannot read each other's memory although NVLink joins them (peer access is off)"
        return [warning("links", f"{what}; take another machine")]
    return [ok("links", f"{', '.join(sorted(set(found.values())))} between all {len(found)} pairs of GPUs")]


# ---- what torch tells


def rates(n: int, seconds: float = 0.5, size: int = 8192) -> list[float | str]:
    """FLOP/s of a bfloat16 matrix product on each of n GPUs, all at work at once as in the run; or why one failed."""
    import torch

    out: list[float | str] = ["no answer"] * n

    def one(i):
        try:
            a, b = (torch.randn(size, size, device=f"cuda:{i}", dtype=torch.bfloat16) for _ in range(2))
            a @ b  # makes the library ready
            torch.cuda.synchronize(i)
            began, done = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                for _ in range(4):
                    a @ b
                torch.cuda.synchronize(i)
                done += 4
            out[i] = 2 * size**3 * done / (time.perf_counter() - began)
        except Exception as e:
            out[i] = first_line(str(e)) or out[i]

    at_once([lambda i=i: one(i) for i in range(n)], 60)
    return out


def probe_rates(found: list[float | str], peak: float | None) -> list[Finding]:
    """found: of `rates`; peak: FLOP/s of the data sheet."""
    good, out = [rate for rate in found if not isinstance(rate, str)], []
    middle = statistics.median(good or [0.0])
    of_all = f"{middle / 1e12:.0f}"
    for i, rate in enumerate(found):
        if isinstance(rate, str):
            out.append(stop("speed", f"GPU {i} fails in a matrix product ({rate}); take another machine"))
        elif rate < 0.93 * middle:
            slow = f"GPU {i} multiplies at {rate / 1e12:.0f} TFLOP/s, {rate / middle:.0%} of the others' {of_all}"
            level = stop if rate < 0.8 * middle else warning
            out.append(level("speed", f"{slow}, and the slowest sets the pace for all; take another machine"))
    if peak and good and middle < 0.6 * peak:
        slow = f"the GPUs multiply at {of_all} TFLOP/s, {middle / peak:.0%} of the data sheet's {peak / 1e12:g}"
        mend = "look for heat and limits with: nvidia-smi -q -d PERFORMANCE"
        out.append(warning("speed", f"{slow}, where 80 % is usual; {mend}"))
    if out:
        return out
    between = f"{min(found) / 1e12:.0f} to {max(found) / 1e12:.0f} TFLOP/s"
    return [ok("speed", f"{between} in matrix products, measured on all at once")]


def probe_attention(name: str, reason: str, off: float, allowed: float) -> Finding:
    """The kernel chosen for attention, and how far it is from masked SDPA in float32 (kernels.deviation)."""
    text = f"by {name} ({reason}); {off:.1%} at most from masked SDPA in float32"
    if off > allowed:
        text = f"{text}, where {allowed:.0%}"
        mend = "is allowed: its build does not fit this GPU or torch; take another, such as --attention varlen"
        return stop("attention", f"{text} {mend}")
    if name == "sdpa":
        mend = "pip install flash-attn-4==4.0.0b36, or on Hopper pip install 'kernels>=0.17'"
        return warning("attention", f"{text}; windows then cost more than they save: {mend}")
    return ok("attention", text)


def look_attention(device, dtype, head_dim: int) -> Finding:
    from gpt2course.fast import kernels

    try:
        name, reason, kernel = kernels.choose("auto", device, dtype, head_dim)
    except UserError as e:
        return stop("attention", str(e))
    return probe_attention(name, reason, kernels.deviation(kernel, device, dtype, head_dim), kernels.TOLERANCE)


# ---- the system


def memory_available() -> int | None:
    """Bytes that a new process may take, by /proc and by the container's limit; None where neither tells."""
    read = lambda path: Path(path).read_text()
    found = []
    with contextlib.suppress(OSError, TypeError):
        found.append(int(re.search(r"MemAvailable:\s+(\d+)", read("/proc/meminfo"))[1]) * 1024)
    v1 = "/sys/fs/cgroup/memory/memory"
    for limit, used, stat, idle in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "inactive_file"),
        (f"{v1}.limit_in_bytes", f"{v1}.usage_in_bytes", f"{v1}.stat", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError, TypeError):
            cache = int(re.search(rf"(?m)^{idle} (\d+)", read(stat))[1])  # given back when it is wanted
            found.append(int(read(limit)) - int(read(used)) + cache)
    return min(found) if found else None


def probe_memory(free: float | None, need: float, fits: int | None, batch: int, on_gpu: bool) -> Finding:
    """free, need: bytes; fits: the largest device batch that does, None if not even 1 row; batch: that of the run."""
    if free is None:
        return ok("memory", f"the run needs about {need / 1e9:.1f} GB; what is free is unknown on this system")
    text = f"{free / 1e9:.1f} GB free, training needs about {need / 1e9:.1f} GB"
    if on_gpu:
        text += f" at a device batch of {batch}"
    if free >= need and on_gpu or free > 1.25 * need:
        return ok("memory", text + (f"; the largest that fits is {fits}" if on_gpu and fits else ""))
    mend = "" if on_gpu else "close other programs, or "
    if fits and fits < batch:
        mend += f"take a device batch of {fits}, which fits: --device-batch {fits}"
    else:
        mend += "choose a smaller depth or device batch"
    return (stop if free < need else warning)("memory", f"{text}; {mend}")


def probe_disk(parts: list[tuple[str, Path, float, int, int]]) -> list[Finding]:
    """parts: (what, folder, bytes it needs, bytes free there, number of the file system); on one system they add up."""
    out = []
    for system in dict.fromkeys(part[4] for part in parts):
        here = [part for part in parts if part[4] == system]
        _, folder, _, free, _ = here[0]
        need = sum(part[2] for part in here)
        text = f"{free / 1e9:.1f} GB free in {folder}, the run needs about {need / 1e9:.1f} GB"
        if len(parts) > 1:
            text += f" ({', '.join(f'{name} {size / 1e9:.1f}' for name, _, size, _, _ in here)})"
        if free >= need + max(0.1 * need, 1e9):
            out.append(ok("disk", text))
        else:
            text += "; make room, or set GPT2COURSE_HOME to another disk"
            out.append((stop if free < need else warning)("disk", text))
    return out


def probe_shm(size: float | None, n: int) -> list[Finding]:
    """size: free bytes of /dev/shm, None if there is none; n processes, which NCCL lets talk to each other there."""
    if n < 2 or size is None:
        return []
    if size >= SHM_GOOD:
        return [ok("shared memory", f"{size / 1e9:.1f} GB in /dev/shm")]
    text = f"/dev/shm has {size / 1e6:.0f} MB free, and {n} processes talk to each other through it"
    mend = "in Docker: docker run --shm-size=1g, elsewhere: sudo mount -o remount,size=1G /dev/shm"
    return [(stop if size < SHM_NEED else warning)("shared memory", f"{text}; {mend}")]


def probe_files(soft: int, hard: int) -> Finding:
    """Limits of open files of a process; -1 is none."""
    if soft == -1 or soft >= FILES_NEED:
        return ok("file handles", "no limit of open files" if soft == -1 else f"{soft:,} open files allowed")
    most = 65536 if hard == -1 else min(65536, hard)
    mend = f"ulimit -n {most}"
    if most < FILES_NEED:
        mend = "raise the hard limit too, in Docker: docker run --ulimit nofile=65536"
    text = f"a process may open only {soft} files, and the shards and sockets of a run want {FILES_NEED}"
    return stop("file handles", f"{text}; {mend}")


# ---- addresses


def reach(url: str, token: str | None = None, timeout: float = TIMEOUT) -> str | None:
    """What is wrong with an address, None if its first byte can be had (HEAD may be refused where GET is not)."""
    try:
        asked = mirrored(url)
        headers = {"User-Agent": "gpt2course", "Range": "bytes=0-0"}
        if token and asked == url:  # no mirror gets it
            headers["Authorization"] = f"Bearer {token}"
        opener = urllib.request.build_opener(SameHost())
        with opener.open(urllib.request.Request(asked, headers=headers), timeout=timeout) as answer:
            return None if answer.read(1) else "it is empty"
    except UserError as e:
        return str(e)
    except urllib.error.HTTPError as e:
        return f"HTTP {e.code} {e.reason}"
    except (OSError, ValueError, http.client.HTTPException) as e:
        reason = getattr(e, "reason", e)
        if isinstance(reason, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted ({reason.verify_message})"
        if isinstance(reason, TimeoutError):
            return f"no answer in {timeout:g} s"
        return str(reason) or type(reason).__name__


def probe_addresses(answers: list[tuple[str, str, str | None]]) -> list[Finding]:
    """answers: (what is there, address, what is wrong with it or None)."""
    out = []
    for what, url, wrong in answers:
        if wrong is None:
            continue
        text = f"{what} cannot be fetched from {url}: {wrong}"
        if re.match("HTTP 40[13]", wrong):
            text += "; it may want a token, in HF_TOKEN"
        if re.match(r"HTTP (408|425|429|5\d\d)", wrong):
            out.append(warning("addresses", f"{text}; the download tries again by itself"))
        else:
            mend = "mend the connection, or set GPT2COURSE_MIRROR to a mirror, or put the file on disk"
            out.append(stop("addresses", f"{text}; {mend}"))
    if answers and not out:
        return [ok("addresses", f"{', '.join(what for what, _, _ in answers)} can be fetched")]
    return out


# ---- forecast


def overheads(plan: dict, n: int, peak: float, fetched: float) -> dict[str, float]:
    """Seconds paid besides training: assumed, or by FLOPs at MFU_FORWARD. fetched: bytes before training can begin."""
    forward = plan["flops_per_token"] / 3  # of a token
    evaluated = 10 * plan["recipe"]["eval_bytes"] / shards.BYTES_PER_TOKEN  # eight times in the run, and the last two
    speed = peak * MFU_FORWARD
    return {"set-up": SETUP, "download": fetched / DOWNLOAD, "tokenizer": TOKENIZER, "compilation": COMPILE,
            "evaluation": evaluated * forward / (n * speed), "CORE": CORE_TOKENS * forward / speed}  # fmt: skip


def probe_forecast(
    plan: dict, n: int, peak: float, fetched: float,
    price: float | None, max_hours: float | None, max_cost: float | None, here: bool = True,
) -> list[Finding]:  # fmt: skip
    """Hours and dollars with their overheads, and whether the limits are enough, which count training, its compilation
    and its evaluations. here: the n GPUs of `peak` FLOP/s are this machine's, not those of the profile."""
    from gpt2course.cost import hours

    mfu = MFU_NODE if n > 1 else MFU_ONE
    train, extra = hours(plan["flops"], n, peak, mfu), overheads(plan, n, peak, fetched)
    paid = train + sum(extra.values()) / 3600
    minutes = ", ".join(f"{name} {seconds / 60:.0f}" for name, seconds in extra.items() if seconds >= 30)
    gpus, machine = f"{n} GPU{'s' * (n > 1)}", "the machine"
    if not here:
        gpus, machine = f"{n} H100, which this profile is made for (none is seen here)", "that machine"
    text = f"about {train:.2f} h of training at {mfu:.0%} of the peak of {gpus}"
    out = [ok("time", f"{text}, {paid:.2f} h with all else (minutes: {minutes}); a projection")]
    work = train + (extra["compilation"] + extra["evaluation"]) / 3600
    limits = [("max_hours", max_hours, work)]
    if price is not None:
        text = f"about ${paid * price:.2f} at ${price:g} an hour of {machine}, of it ${train * price:.2f} for training"
        out.append(ok("cost", text))
        limits.append(("max_cost_usd", max_cost, work * price))
    for name, limit, need in limits:
        if limit is None or limit >= 1.1 * need:
            continue
        if limit < need:
            step = f"{int(plan['steps'] * limit / need):,} of {plan['steps']:,}"
            short = f"it would stop with a checkpoint near step {step}"
        else:
            short = "little is left if it is slower than that"
        text = f"{name} = {limit:g}, and training needs about {need:.4g}: {short}"
        out.append(warning("limits", f"{text}; raise it to {1.25 * need:.3g}, or leave it out"))
    return out


def probe_chance(chance: dict, ratio: float) -> Finding:
    """chance: of forecast.chance_of_gpt2."""
    if chance["probability"] is None:
        return ok("GPT-2 grade", f"the chance to score above 0.256525 is unknown: {chance['source']}")
    text = f"{chance['probability']:.0%} of single runs score above 0.256525: {chance['source']}"
    if chance["probability"] >= 0.5:
        return ok("GPT-2 grade", text)
    mend = f"for a better chance train longer, for example with the setting ratio={1.15 * ratio:.3g}"
    return warning("GPT-2 grade", f"{text}; {mend}")


# ---- all of it


def sizes_of(plan: dict, on_gpu: bool) -> dict:
    """The arguments of cost.memory_estimate that a plan (as JSON) and the device decide."""
    from gpt2course.losses import PIECE_BYTES

    model, recipe, each = plan["model"], plan["recipe"], 2 if on_gpu else 4
    sizes = {name: model[name] for name in ("n_layer", "n_embd", "vocab_size")} | {"T": model["sequence_len"]}
    embeds, piece = 4 if recipe["architecture"] == "gpt2" else each, PIECE_BYTES["cuda" if on_gpu else "cpu"]
    return sizes | {"matrix_optimizer": recipe["matrix_optimizer"], "loss_piece": piece, "embed_bytes": embeds,
                    "compute_bytes": each, "compiled": on_gpu}  # fmt: skip


def look_gpus(r: dict, rows: int, need: float) -> tuple[list[Finding], int]:
    """(findings about the GPUs, how many processes the run will have)."""
    import torch

    with ThreadPoolExecutor() as pool:  # before this process holds memory of a GPU
        asked = [pool.submit(query, "gpu", FIELDS), pool.submit(query, "compute-apps", APPS)]
        asked += [pool.submit(health_query), pool.submit(ask, "nvidia-smi", "topo", "-m")]
    (code, text), (_, apps), (no_health, health), (_, topology) = (job.result() for job in asked)
    found = chosen(table(text, FIELDS) if not code else [], os.environ.get("CUDA_VISIBLE_DEVICES"))
    seen, reason = torch.cuda.device_count() if torch.cuda.is_available() else 0, ""
    if found and not seen:
        try:
            torch.cuda.init()
        except Exception as e:
            reason = first_line(str(e))
    out = guarded("gpus", probe_gpus, code, text, found, seen, r["profile"], rows, pci_gpus())
    if found:
        driver = found[0]["driver_version"]
        out += guarded("driver", probe_driver, driver, torch.__version__, torch.version.cuda, seen, len(found), reason)
        out += guarded("neighbours", probe_neighbours, found, table(apps, APPS), need)
        indices = {row["index"] for row in found}
        states = [row for row in table(health, HEALTH) if row["index"] in indices]
        out += guarded("health", probe_health, states if not no_health else [])
    n = r.get("gpus") or max(w for w in shares(rows) if w <= min(max(1, seen), GPUS.get(r["profile"], 1)))
    if seen:
        peers = lambda: all(torch.cuda.can_device_access_peer(i, j) for i, j in combinations(range(seen), 2))
        out += guarded("links", lambda: probe_links(topology, n, peers() if n > 1 else None))
    return out, n


def look_corpus(r: dict, plan: dict) -> tuple[Finding, float, float]:
    """(finding, bytes of shards still to come, bytes of them before training can begin)."""
    name = r["corpus"]
    try:
        if "corpus" in r.get("download", ()):
            which, count = shards.parse(name)
            n = count or shards.needed(name, plan["tokens"])
            p = shards.progress(f"{which}:{n}")
            if p["state"] != "complete" or p["shards"] < n + 1:
                come = max((n + 1) * shards.SHARD_DISK, p["bytes"]) - p["bytes_done"]
                text = f"{name}: {p['shards_done']} of the {n + 1} shards that the run needs are here"
                text += f"; the other {come / 1e9:.1f} GB come while it goes on, or beforehand with"
                text += f": python -m gpt2course.ops.shards get {which} --shards {n}"
                first = 9 * shards.SHARD_DISK  # eight for the tokenizer, and the validation shard
                return ok("corpus", text), come, min(come, first)
        corpus = load_corpus(name)
        if name in shards.SHARD_CORPORA:
            shards.enough(corpus, plan["tokens"])
        text = f"{name}: {len(corpus.train):,} documents to train on, {len(corpus.val):,} to validate"
        return ok("corpus", text), 0.0, 0.0
    except UserError as e:
        return stop("corpus", str(e)), 0.0, 0.0


def look_bundle(path) -> Finding:
    try:
        bundle = core_bundle.read_bundle(path)
    except UserError as e:
        return stop("bundle", str(e))
    return ok("bundle", f"{bundle.name}, {len(bundle.labels)} tasks, baselines {bundle.baselines}")


def look_addresses(r: dict, come: float) -> list[Finding]:
    """Every address that the run needs, all asked at once. come: bytes of shards that it fetches."""
    wanted = []
    if come:
        name, token = shards.parse(r["corpus"])[0], os.environ.get(shards.TOKEN, "").strip()
        wanted.append((f"corpus {name}", shards.url_of(name, shards.SHARD_CORPORA[name].val), token or None))
    if "bundle" in r.get("download", ()) and core_bundle.default_bundle() == core_bundle.MINI:
        wanted.append(("the bundle of CORE", core_bundle.URL, None))
    answers = [f"no answer in {TIMEOUT:g} s"] * len(wanted)
    at_once([lambda i=i: answers.__setitem__(i, reach(*wanted[i][1:])) for i in range(len(wanted))], TIMEOUT)
    return probe_addresses([(what, url, wrong) for (what, url, _), wrong in zip(wanted, answers)])


def look_disk(plan: dict, m, corpus: str, come: float) -> list[Finding]:
    """m: of cost.memory_estimate; come: bytes of shards that the run fetches."""
    home().mkdir(parents=True, exist_ok=True)
    four = 4 * (m.weights + m.optimizer)  # the newest two checkpoints, the best and one being written
    wanted = [("checkpoints", home(), four + 0.2e9)]
    if come:
        wanted.append(("shards", shards.place(shards.parse(corpus)[0]), come))
    parts = []
    for what, folder, need in wanted:
        there = next(place for place in (folder, *folder.resolve().parents) if place.exists())
        parts.append((what, folder, need, shutil.disk_usage(there).free, there.stat().st_dev))
    return probe_disk(parts)


def largest_batch(free: float, rows: int, plan: dict, on_gpu: bool) -> int | None:
    """The largest device batch that fits in `free` bytes, of a process's `rows`; None if not even one row does."""
    from gpt2course.cost import suggest_device_batch

    with contextlib.suppress(UserError):
        return suggest_device_batch(free, rows, plan["params"], slack=1 - 1 / 1.1, **sizes_of(plan, on_gpu))


def look_memory(plan: dict, need: float, batch: int, rows: int, n: int, on_gpu: bool) -> Finding:
    """rows: of a batch, which n processes share."""
    import torch

    free = min(torch.cuda.mem_get_info(i)[0] for i in range(n)) if on_gpu else memory_available()
    fits = largest_batch(free - (0 if on_gpu else CPU_PROCESS), rows // n, plan, on_gpu) if free else None
    return probe_memory(free, need, fits, batch, on_gpu)


def look_memory_there(plan: dict, batch: int, rows: int, n: int) -> Finding:
    """As look_memory, for n H100 that are not here, so never a STOP."""
    from gpt2course.cost import memory_estimate

    need = memory_estimate(plan["params"], B=batch, **sizes_of(plan, True)).total * 1.1
    fits = largest_batch(H100_MEMORY, rows // n, plan, True)
    level, _, text = probe_memory(H100_MEMORY, need, fits, batch, True)
    return (ok if level == "ok" else warning)("memory there", f"on an H100, and none is seen here: {text}")


def look_device(profile: str) -> Finding:
    import torch

    from gpt2course.checkpoint import compute_dtypes, pick_device
    from gpt2course.train import describe_machine

    device = pick_device()
    dtype = compute_dtypes(device)[0]
    text = f"{device} ({describe_machine(device)['device']}), {str(dtype).removeprefix('torch.')}"
    if profile != "laptop" and device.type != "cuda":
        text += f"; profile {profile} is made for CUDA and will be very slow here: use profile laptop"
        return warning("device", text)
    if profile != "laptop" and dtype == torch.float32:
        slow = "this GPU has no bfloat16, so the run is slow and takes twice the memory"
        return warning("device", f"{text}: {slow}; take an A100, H100 or newer")
    return ok("device", text)


def look_threads() -> Finding:
    import torch

    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    if hasattr(os, "sched_getaffinity"):  # on Linux: those that this process may use
        cores = len(os.sched_getaffinity(0))
    text = f"{threads} of {cores} cores"
    if threads < cores and threads < 4 and not torch.cuda.is_available():
        return warning("threads", f"{text}; unset OMP_NUM_THREADS to use them all")
    return ok("threads", text)


def look_chance(plan: dict, corpus: str) -> Finding:
    from gpt2course.forecast import chance_of_gpt2

    ratio, recipe = plan["tokens"] / plan["params"]["scaling"], plan["recipe"]
    return probe_chance(chance_of_gpt2(recipe["name"], recipe["depth"], ratio, corpus.partition(":")[0]), ratio)


def look_files() -> Finding:
    import resource  # not on Windows

    return probe_files(*resource.getrlimit(resource.RLIMIT_NOFILE))


def do_preflight(r: dict) -> dict:
    """{"findings", "device", "torch"}.

    r: profile, plan (as JSON), device_batch, corpus, bundle, price; and where they are known max_hours, max_cost_usd,
    gpus (processes of the run) and download, the list of what the run fetches itself, of "corpus" and "bundle".
    """
    import torch

    from gpt2course.checkpoint import compute_dtypes, pick_device
    from gpt2course.cost import memory_estimate, peak_flops

    plan, on_gpu, large, device = r["plan"], torch.cuda.is_available(), r["profile"] != "laptop", pick_device()
    rows = plan["batch_tokens"] // plan["model"]["sequence_len"]
    m = memory_estimate(plan["params"], B=r["device_batch"], **sizes_of(plan, on_gpu))
    need = m.total * 1.1 + (0 if on_gpu else CPU_PROCESS)
    findings = [ok("python", f"{platform.python_version()} on {platform.platform(terse=True)}")]
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < (2, 11):
        findings.append(stop("torch", f"{torch.__version__}; this course needs 2.11 or newer: make setup"))
    else:
        findings.append(ok("torch", torch.__version__))
    gpus, n = look_gpus(r, rows, need) if on_gpu or large else ([], 1)
    findings += gpus + guarded("device", look_device, r["profile"]) + guarded("threads", look_threads)
    findings += guarded("memory", look_memory, plan, need, r["device_batch"], rows, n, on_gpu)
    corpus, come, first = look_corpus(r, plan)
    findings += guarded("disk", look_disk, plan, m, r["corpus"], come) + [corpus]
    if r["bundle"]:
        findings.append(look_bundle(r["bundle"]))
    findings += guarded("addresses", look_addresses, r, come)
    if on_gpu:
        peak = peak_flops(torch.cuda.get_device_name())
        dtype, head_dim = compute_dtypes(device)[0], plan["recipe"]["head_dim"]
        findings += guarded("attention", look_attention, device, dtype, head_dim)
        findings += guarded("speed", lambda: probe_rates(rates(n), peak))
        shm = lambda: shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else None
        findings += guarded("shared memory", lambda: probe_shm(shm(), n))
    if large:
        findings += guarded("file handles", look_files)
        if r["corpus"].partition(":")[0] in shards.SHARD_CORPORA:
            findings += guarded("GPT-2 grade", look_chance, plan, r["corpus"])
    limits = r["price"], r.get("max_hours"), r.get("max_cost_usd")
    if on_gpu and peak:
        findings += guarded("time", probe_forecast, plan, n, peak, first, *limits)
    elif large and not on_gpu:  # before the machine is rented
        there = GPUS[r["profile"]]
        findings += guarded("time", probe_forecast, plan, there, peak_flops("H100"), first, *limits, False)
        findings += guarded("memory there", look_memory_there, plan, r["device_batch"], rows, there)
    if r["price"] is None:
        findings.append(ok("cost", "not counted: give price_per_hour, the price of the machine in dollars"))
    return {"findings": findings, "device": str(device), "torch": torch.__version__}


# ---- the command


@dataclass
class Preflight:
    """Look at this machine before a run on it is paid for; exit code 1 if something would stop the run.

    Example: python -m gpt2course.ops.preflight jan29 --profile 8xh100 --price-per-hour 24
    """

    recipe: tyro.conf.Positional[str] = "jan29"
    profile: str = "laptop"  # laptop, 1gpu or 8xh100
    set: tuple[str, ...] = ()  # settings of the recipe, as name=value
    corpus: str | None = None  # default: the profile's
    core_bundle: str | None = None  # folder or zip of CORE's bundle, or mini
    device_batch: int | None = None  # rows of T tokens in one forward pass; default: the profile's
    price_per_hour: float | None = None  # of the machine, in dollars
    max_hours: float | None = None  # limit of the run, compared with the forecast
    max_cost_usd: float | None = None  # the same for its cost


def request_of(args: Preflight) -> dict:
    """What do_preflight wants, from the command line."""
    from gpt2course.ops.work import do_resolve

    r = do_resolve({"profile": args.profile, "recipe": args.recipe, "changes": args.set})
    corpus, bundle = args.corpus or r["corpus"], args.core_bundle
    download = ["corpus"] if corpus.partition(":")[0] in shards.SHARD_CORPORA else []
    if bundle is None and args.profile != "laptop":
        there = core_bundle.default_bundle()
        if there == core_bundle.MINI:  # the whole one has yet to come
            download.append("bundle")
        else:
            bundle = str(there)
    return {"profile": args.profile, "plan": r["plan"], "device_batch": args.device_batch or r["device_batch"],
            "corpus": corpus, "bundle": None if bundle == "mini" else bundle, "download": download,
            "price": args.price_per_hour, "max_hours": args.max_hours, "max_cost_usd": args.max_cost_usd}  # fmt: skip


def main(args: Preflight) -> None:
    began = time.perf_counter()
    findings = do_preflight(request_of(args))["findings"]
    for level, what, text in findings:
        print(f"{level:8} {what:13} {text}")
    n = {level: sum(f[0] == level for f in findings) for level in ("STOP", "warning")}
    took = duration(time.perf_counter() - began)
    print(f"{n['STOP']} to mend before the run, {n['warning']} warnings; looked for {took}")
    sys.exit(1 if n["STOP"] else 0)


if __name__ == "__main__":
    command(main)
