"""What would stop a run or waste its money, found in seconds before it begins. Lesson 14.

    python -m gpt2course.preflight jan29 --profile 8xh100 --price-per-hour 24

A finding is ("ok", "warning" or "STOP", what, text); that of a warning or STOP ends with what mends it. Each probe is a function of
what it judges, the output of a command or some numbers, so that recorded outputs test it for machines that nobody has at hand.
A probe that fails is a finding too.
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

from gpt2course import bundle as core_bundle
from gpt2course import shards
from gpt2course.data import load_corpus
from gpt2course.download import SameHost, mirrored
from gpt2course.files import UserError, command, home
from gpt2course.jobs import duration

GPUS = {"1gpu": 1, "8xh100": 8}  # what a profile is made for
TIMEOUT = 8.0  # seconds for nvidia-smi, and for an address
DRIVERS = {11: 450, 12: 525, 13: 580}  # CUDA's major version -> oldest driver (docs.nvidia.com/deploy/cuda-compatibility, minor version compatibility)
FIELDS = ("index", "name", "uuid", "driver_version", "memory.total", "memory.free", "mig.mode.current")
HEALTH = ("index", "ecc.errors.uncorrected.volatile.total", "power.limit", "clocks.max.sm", "clocks_event_reasons.active")
APPS = ("gpu_uuid", "pid", "used_memory", "process_name")
# Bits of clocks_event_reasons.active that say a GPU is held back by heat or by its supply (nvml.h, nvmlClocksEventReason...)
HELD_BACK = {0x08: "hardware slowdown", 0x20: "heat (software)", 0x40: "heat (hardware)", 0x80: "power brake"}
SHM_NEED, SHM_GOOD = 256e6, 1e9  # bytes: NCCL's segments have 9.6 MB each, Docker gives 64 MB (github.com/NVIDIA/nccl/issues/342)
FILES_NEED = 1024  # open files of a process: Linux's usual limit

# What a forecast assumes. Training: 50 % MFU is what record 1 reached on 8 H100, 40 % what single GPUs do (forecast.TIER_MFU).
MFU_NODE, MFU_ONE, MFU_FORWARD = 0.5, 0.4, 0.3
DOWNLOAD = 200e6  # bytes/s; the tokenizer needs the first shards, the run waits for the others only if it catches up with them
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
        said = f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else 'no message'}"
        return [warning(what, f"this could not be looked at ({said}); everything else was, and the run need not fail for it")]


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
    """Call every job in a thread of its own, and wait for them for `timeout` seconds at most in all: a name that cannot be looked up knows no limit of its own."""
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
    return query("gpu", (*HEALTH[:-1], "clocks_throttle_reasons.active")) if code else (code, text)  # its name before driver 535


def table(text: str, fields) -> list[dict]:
    """Rows of `nvidia-smi --query-...`; None for what it does not tell ("[N/A]", "[Not Supported]", "[Unknown Error]", "ERR!")."""
    rows = [line.split(",", len(fields) - 1) for line in text.splitlines()]
    clean = lambda cell: None if not (cell := cell.strip()) or cell[0] == "[" or cell == "ERR!" else cell
    return [dict(zip(fields, map(clean, row))) for row in rows if len(row) == len(fields)]


def number(text: str | None) -> float | None:
    try:
        return float(int(text, 16) if text and text.startswith("0x") else text)
    except (TypeError, ValueError):
        return None


def chosen(rows: list[dict], visible: str | None) -> list[dict]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, by number or UUID; all of them if it is not set or says something else."""
    names = [] if visible is None else [name.strip() for name in visible.split(",")]
    found = [row for name in names for row in rows if name == row["index"] or len(name) > 7 and (row["uuid"] or "").startswith(name)]
    return found if len(found) == len(names) and names else rows


def pci_gpus() -> int:
    """NVIDIA GPUs on the PCI bus, whether or not there is a driver."""
    found = 0
    for device in Path("/sys/bus/pci/devices").glob("*"):
        with contextlib.suppress(OSError):
            found += (device / "vendor").read_text().strip() == "0x10de" and (device / "class").read_text().startswith("0x03")
    return found


def shares(rows: int, streams: int = 8) -> list[int]:
    """Numbers of processes that can share a batch of so many rows from so many streams."""
    return [w for w in range(1, streams + 1) if rows % w == 0 and streams % w == 0]


def probe_gpus(code: int, text: str, found: list[dict], seen: int, profile: str, rows: int, on_bus: int = 0) -> list[Finding]:
    """code and text of nvidia-smi, its GPUs as far as they may be used; seen: by torch; rows of a batch; on_bus: see pci_gpus."""
    said = text.strip().splitlines()[0] if text.strip() else "no output"
    if code == 127:
        if seen:
            unseen = "nvidia-smi is not there, so neighbours, health and links cannot be looked at"
            return [warning("gpus", f"{seen} by torch, but {unseen}; in Docker: docker run -e NVIDIA_DRIVER_CAPABILITIES=compute,utility")]
        if on_bus:
            return [stop("gpus", f"{on_bus} NVIDIA GPUs are on the bus, but nvidia-smi is not there: no driver, or a container without it; in Docker: docker run --gpus all")]
        return []
    if code or not found:
        return [stop("gpus", f"nvidia-smi fails ({said}); restart the machine, and if that does not help, return it and take another")]
    out, kinds = [], {}
    for row in found:
        kinds.setdefault(row["name"] or "a GPU that does not say its name", []).append(row["index"])
    if any((row["mig.mode.current"] or "").lower() == "enabled" for row in found):
        out.append(stop("gpus", "MIG is on, which cuts a GPU into slices that cannot train together; `sudo nvidia-smi -mig 0`, or take another machine"))
    if len(kinds) > 1:
        each = "; ".join(f"{len(numbers)} x {name} (GPU {', '.join(numbers)})" for name, numbers in kinds.items())
        out.append(warning("gpus", f"they are not all the same: {each}; the slowest sets the pace for all: take another machine, or name equal ones with CUDA_VISIBLE_DEVICES"))
    n, wanted, can = seen or len(found), GPUS.get(profile, 1), shares(rows)
    if n < wanted:
        use = max(w for w in can if w <= n)
        first = ",".join(row["index"] or str(i) for i, row in enumerate(found[:use]))
        if n not in can:
            text = f"there are {n}, and a batch of {rows} rows can be shared by {', '.join(map(str, can))}; take a machine with {wanted}"
            out.append(stop("gpus", f"{text}, or use {use} of these: export CUDA_VISIBLE_DEVICES={first}"))
        else:
            text = f"there are {n} and profile {profile} is made for {wanted}, so the run takes {wanted / n:g} times as long"
            out.append(warning("gpus", f"{text}; take a machine with {wanted} if that is too long"))
    return out or [ok("gpus", f"{n} x {next(iter(kinds))}")]


def probe_driver(driver: str | None, build: str, cuda: str | None, seen: int, listed: int, reason: str = "") -> list[Finding]:
    """driver: version by nvidia-smi; build, cuda: torch's version and CUDA; seen and listed: GPUs by torch and by nvidia-smi; reason: what torch says if it sees none."""
    if not listed:
        return []
    if cuda is None:
        return [stop("driver", f"torch {build} is a build without CUDA, and {listed} GPUs are here; install the other one on this machine: make clean setup")]
    oldest, have = DRIVERS.get(int(cuda.split(".")[0])), number((driver or "").split(".")[0])
    if oldest and have and have < oldest:
        return [stop("driver", f"driver {driver} is too old for CUDA {cuda} of torch {build}, which needs {oldest} or newer; take a machine or an image with a newer driver")]
    if not seen:
        if re.search(r"\b802\b|not yet initialized", reason):
            return [stop("driver", f"torch sees none of the {listed} GPUs ({reason}): the fabric manager of this node is not running; sudo systemctl start nvidia-fabricmanager")]
        which = f"CUDA_VISIBLE_DEVICES is {os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}"
        return [stop("driver", f"torch sees none of the {listed} GPUs ({reason or 'it does not say why'}; {which}); restart the machine, or take another")]
    return [ok("driver", f"{driver or 'unknown'}, CUDA {cuda} of torch {build}")]


def probe_neighbours(found: list[dict], apps: list[dict], need: float) -> list[Finding]:
    """Memory of GPUs that somebody holds already. need: bytes of the run on each GPU."""
    out = []
    for row in found:
        total, free = (number(row[f"memory.{k}"]) for k in ("total", "free"))  # MiB
        if total is None or free is None or total - free < 2000:  # the driver itself takes some hundred
            continue
        others = [(a["pid"], (a["process_name"] or "?").split("/")[-1][:40]) for a in apps if a["gpu_uuid"] == row["uuid"] and a["pid"]]
        who = " and ".join(f"process {pid} ({name})" for pid, name in others) or "a process that is not shown"
        mend = f"end it if it is yours: kill {' '.join(pid for pid, _ in others)}" if others else "it is another user's or container's: take another machine"
        text = f"GPU {row['index']} has {free * 2**20 / 1e9:.1f} of {total * 2**20 / 1e9:.1f} GB free, {who} holds the rest; {mend}"
        out.append((stop if free * 2**20 < need else warning)("neighbours", text))
    return out or [ok("neighbours", "no other process holds memory of these GPUs")]


def probe_health(rows: list[dict]) -> list[Finding]:
    """rows: HEALTH. Memory errors, slowdown by heat or supply, and GPUs set slower than the others."""
    out = []
    for row in rows:
        errors, bits = number(row["ecc.errors.uncorrected.volatile.total"]), int(number(row["clocks_event_reasons.active"]) or 0)
        if errors:
            out.append(stop("health", f"GPU {row['index']} has had {errors:.0f} memory errors that ECC could not correct; take another machine"))
        if held := [text for bit, text in HELD_BACK.items() if bits & bit]:
            out.append(warning("health", f"GPU {row['index']} is slowed down by {', '.join(held)}; wait some minutes and look again, then take another machine"))
    for field, unit in (("power.limit", "W"), ("clocks.max.sm", "MHz")):
        values = {row["index"]: v for row in rows if (v := number(row[field])) is not None}
        if values and min(values.values()) < 0.95 * max(values.values()):
            slow = min(values, key=values.get)
            out.append(warning("health", f"GPU {slow} is set slower than the others: {field} {values[slow]:g} {unit}, of another {max(values.values()):g}; take another machine"))
    return out or [ok("health", f"no memory errors, no slowdown by heat or supply on {len(rows)} GPUs")] if rows else []


def links(text: str) -> dict[tuple[int, int], str]:
    """{(i, j): kind} for i < j, from the matrix of `nvidia-smi topo -m`: NV18 for 18 NVLinks, else a way through PCIe (PIX, PXB, PHB, NODE, SYS)."""
    rows = [line.replace("\x1b[4m", "").replace("\x1b[0m", "").split() for line in text.splitlines()]
    rows = {int(m[1]): row[1:] for row in rows if row and (m := re.fullmatch(r"GPU(\d+)", row[0])) and len(row) > 1 and not row[1].startswith("GPU")}
    return {(i, j): rows[i][j] for i, j in combinations(sorted(rows), 2) if j < len(rows[i])}


def probe_links(text: str, n: int, peers: bool | None = None) -> list[Finding]:
    """text: `nvidia-smi topo -m`; n GPUs are used; peers: whether torch says that each can read each other's memory."""
    if n < 2:
        return []
    found = links(text)
    slow = sorted({kind for kind in found.values() if not re.fullmatch(r"NV\d+", kind)})
    if not found:
        return [warning("links", "nvidia-smi topo -m does not tell how the GPUs are connected; the smoke run will show whether they are slow together: python -m gpt2course.smoke")]
    if slow:
        pairs = sum(kind in slow for kind in found.values())
        text = f"{pairs} of {len(found)} pairs of GPUs are joined by PCIe ({', '.join(slow)}), not NVLink, so the forecast does not hold"
        return [warning("links", f"{text}; take an SXM (HGX) machine, or let the smoke run measure it: python -m gpt2course.smoke")]
    if peers is False:
        return [warning("links", "the GPUs cannot read each other's memory although NVLink joins them (peer access is off); take another machine")]
    return [ok("links", f"{', '.join(sorted(set(found.values())))} between all {len(found)} pairs of GPUs")]


# ---- what torch tells


def rates(n: int, seconds: float = 0.5, size: int = 8192) -> list[float | str]:
    """FLOP/s of a bfloat16 matrix product on each of n GPUs, all at work at the same time, as in the run; or why one failed."""
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
            out[i] = str(e).splitlines()[0]

    at_once([lambda i=i: one(i) for i in range(n)], 60)
    return out


def probe_rates(found: list[float | str], peak: float | None) -> list[Finding]:
    """found: of `rates`; peak: FLOP/s of the data sheet."""
    good, out = [rate for rate in found if not isinstance(rate, str)], []
    middle = statistics.median(good or [0.0])
    for i, rate in enumerate(found):
        if isinstance(rate, str):
            out.append(stop("speed", f"GPU {i} fails in a matrix product ({rate}); take another machine"))
        elif rate < 0.93 * middle:
            text = f"GPU {i} multiplies at {rate / 1e12:.0f} TFLOP/s, {rate / middle:.0%} of the others' {middle / 1e12:.0f}, and the slowest sets the pace for all"
            out.append((stop if rate < 0.8 * middle else warning)("speed", f"{text}; take another machine"))
    if peak and good and middle < 0.6 * peak:
        text = f"the GPUs multiply at {middle / 1e12:.0f} TFLOP/s, {middle / peak:.0%} of the data sheet's {peak / 1e12:g}, where 80 % is usual"
        out.append(warning("speed", f"{text}; look for heat and limits with: nvidia-smi -q -d PERFORMANCE"))
    return out or [ok("speed", f"{min(found) / 1e12:.0f} to {max(found) / 1e12:.0f} TFLOP/s in matrix products, measured on all at once")]


def probe_attention(name: str, reason: str, off: float, allowed: float) -> Finding:
    """The kernel chosen for attention, and how far it is from masked SDPA in float32 (kernels.deviation)."""
    text = f"by {name} ({reason}); {off:.1%} at most from masked SDPA in float32"
    if off > allowed:
        return stop("attention", f"{text}, where {allowed:.0%} is allowed: its build does not fit this GPU or torch; take another, such as --attention varlen")
    if name == "sdpa":
        return warning("attention", f"{text}; windows then cost more than they save: pip install flash-attn-4==4.0.0b36, or on Hopper pip install 'kernels>=0.17'")
    return ok("attention", text)


def look_attention(device, dtype, head_dim: int) -> Finding:
    from gpt2course import kernels

    try:
        name, reason, kernel = kernels.choose("auto", device, dtype, head_dim)
    except UserError as e:
        return stop("attention", str(e))
    return probe_attention(name, reason, kernels.deviation(kernel, device, dtype, head_dim), kernels.TOLERANCE)


# ---- the system


def memory_available() -> int | None:
    """Bytes of memory that a new process may take, by /proc and by the limit of the container; None where neither tells."""
    read = lambda path: Path(path).read_text()
    found = []
    with contextlib.suppress(OSError, TypeError):
        found.append(int(re.search(r"MemAvailable:\s+(\d+)", read("/proc/meminfo"))[1]) * 1024)
    for limit, used, stat, idle in (("memory.max", "memory.current", "memory.stat", "inactive_file"),
                                    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file")):  # fmt: skip
        with contextlib.suppress(OSError, ValueError, TypeError):
            cache = int(re.search(rf"(?m)^{idle} (\d+)", read(f"/sys/fs/cgroup/{stat}"))[1])  # given back when it is wanted
            found.append(int(read(f"/sys/fs/cgroup/{limit}")) - int(read(f"/sys/fs/cgroup/{used}")) + cache)
    return min(found) if found else None


def probe_memory(free: float | None, need: float, fits: int | None, batch: int, on_gpu: bool) -> Finding:
    """free and need in bytes; fits: the largest device batch that does, None if not even 1 row; batch: that of the run."""
    if free is None:
        return ok("memory", f"the run needs about {need / 1e9:.1f} GB; what is free is unknown on this system")
    text = f"{free / 1e9:.1f} GB free, training needs about {need / 1e9:.1f} GB" + (f" at a device batch of {batch}" if on_gpu else "")
    if free >= need and on_gpu or free > 1.25 * need:
        return ok("memory", text + (f"; the largest that fits is {fits}" if on_gpu and fits else ""))
    smaller = f"take a device batch of {fits}, which fits: --device-batch {fits}" if fits and fits < batch else "choose a smaller depth or device batch"
    return (stop if free < need else warning)("memory", f"{text}; {'' if on_gpu else 'close other programs, or '}{smaller}")


def probe_disk(parts: list[tuple[str, Path, float, int, int]]) -> list[Finding]:
    """parts: (what, folder, bytes it needs, bytes free there, number of the file system); what is on one file system needs the sum."""
    out = []
    for system in dict.fromkeys(part[4] for part in parts):
        here = [part for part in parts if part[4] == system]
        (_, folder, _, free, _), need = here[0], sum(part[2] for part in here)
        what = f" ({', '.join(f'{name} {size / 1e9:.1f}' for name, _, size, _, _ in here)})" if len(parts) > 1 else ""
        tight = free < need + max(0.1 * need, 1e9)
        mend = "; make room, or set GPT2COURSE_HOME to another disk" if tight else ""
        text = f"{free / 1e9:.1f} GB free in {folder}, the run needs about {need / 1e9:.1f} GB{what}{mend}"
        out.append((stop if free < need else warning if tight else ok)("disk", text))
    return out


def nearest(path: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(p for p in (path, *path.resolve().parents) if p.exists())


def probe_shm(size: float | None, n: int) -> list[Finding]:
    """size: free bytes of /dev/shm, None where there is none; n processes, which NCCL lets talk to each other through it."""
    if n < 2 or size is None or size >= SHM_GOOD:
        return [] if n < 2 or size is None else [ok("shared memory", f"{size / 1e9:.1f} GB in /dev/shm")]
    text = f"/dev/shm has {size / 1e6:.0f} MB free, and {n} processes talk to each other through it"
    mend = "in Docker: docker run --shm-size=1g, elsewhere: sudo mount -o remount,size=1G /dev/shm"
    return [(stop if size < SHM_NEED else warning)("shared memory", f"{text}; {mend}")]


def probe_files(soft: int, hard: int) -> Finding:
    """Limits of open files of a process; -1 is none."""
    if soft == -1 or soft >= FILES_NEED:
        return ok("file handles", "no limit of open files" if soft == -1 else f"{soft:,} open files allowed")
    most = 65536 if hard == -1 else min(65536, hard)
    mend = f"ulimit -n {most}" if most >= FILES_NEED else "raise the hard limit too, in Docker: docker run --ulimit nofile=65536"
    return stop("file handles", f"a process may open only {soft} files, and the shards and sockets of a run want {FILES_NEED}; {mend}")


# ---- addresses


def reach(url: str, token: str | None = None, timeout: float = TIMEOUT) -> str | None:
    """None if the first byte of an address can be had (HEAD may be refused where a download is not), else what is wrong."""
    try:
        asked = mirrored(url)
        headers = {"User-Agent": "gpt2course", "Range": "bytes=0-0"} | ({"Authorization": f"Bearer {token}"} if token and asked == url else {})
        with urllib.request.build_opener(SameHost()).open(urllib.request.Request(asked, headers=headers), timeout=timeout) as answer:
            return None if answer.read(1) else "it is empty"
    except UserError as e:
        return str(e)
    except urllib.error.HTTPError as e:
        return f"HTTP {e.code} {e.reason}"
    except (OSError, ValueError, http.client.HTTPException) as e:
        reason = getattr(e, "reason", e)
        if isinstance(reason, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted ({reason.verify_message})"
        return f"no answer in {timeout:g} s" if isinstance(reason, TimeoutError) else str(reason) or type(reason).__name__


def probe_addresses(answers: list[tuple[str, str, str | None]]) -> list[Finding]:
    """answers: (what is there, address, what is wrong with it or None)."""
    out = []
    for what, url, wrong in answers:
        if wrong is None:
            continue
        busy = re.match(r"HTTP (408|425|429|5\d\d)", wrong)
        rights = "; it may want a token, in HF_TOKEN" if re.match("HTTP 40[13]", wrong) else ""
        mend = "the download tries again by itself" if busy else "mend the connection, or set GPT2COURSE_MIRROR to a mirror, or put the file on disk"
        out.append((warning if busy else stop)("addresses", f"{what} cannot be fetched from {url}: {wrong}{rights}; {mend}"))
    return out or ([ok("addresses", f"{', '.join(what for what, _, _ in answers)} can be fetched")] if answers else [])


# ---- forecast


def overheads(plan: dict, n: int, peak: float, fetched: float) -> dict[str, float]:
    """Seconds that are paid besides training: assumed, or FLOPs over MFU_FORWARD of the peak. fetched: bytes before training can begin."""
    forward = plan["flops_per_token"] / 3  # of a token
    evaluated = 10 * plan["recipe"]["eval_bytes"] / shards.BYTES_PER_TOKEN  # eight times in the run, and the last two
    speed = peak * MFU_FORWARD
    return {"set-up": SETUP, "download": fetched / DOWNLOAD, "tokenizer": TOKENIZER, "compilation": COMPILE,
            "evaluation": evaluated * forward / (n * speed), "CORE": CORE_TOKENS * forward / speed}  # fmt: skip


def probe_forecast(plan: dict, n: int, peak: float, fetched: float, price: float | None, max_hours: float | None, max_cost: float | None) -> list[Finding]:
    """Hours and dollars with their overheads, and whether the limits are enough for training, its compilation and its evaluations, which they count."""
    from gpt2course.cost import hours

    mfu = MFU_NODE if n > 1 else MFU_ONE
    train, extra = hours(plan["flops"], n, peak, mfu), overheads(plan, n, peak, fetched)
    paid = train + sum(extra.values()) / 3600
    parts = ", ".join(f"{name} {seconds / 60:.0f}" for name, seconds in extra.items() if seconds >= 30)
    out = [ok("time", f"about {train:.2f} h of training at {mfu:.0%} of the peak of {n} GPU{'s' * (n > 1)}, {paid:.2f} h with all else (minutes: {parts}); a projection")]
    if price is not None:
        out.append(ok("cost", f"about ${paid * price:.2f} at ${price:g} an hour of the machine, of it ${train * price:.2f} for training"))
    work = train + (extra["compilation"] + extra["evaluation"]) / 3600
    for name, limit, need in (("max_hours", max_hours, work), ("max_cost_usd", max_cost, None if price is None else work * price)):
        if limit is not None and need is not None and limit < 1.1 * need:
            near = f"it would stop with a checkpoint near step {int(plan['steps'] * limit / need):,} of {plan['steps']:,}"
            short = near if limit < need else "little is left if it is slower than that"
            out.append(warning("limits", f"{name} = {limit:g}, and training needs about {need:.4g}: {short}; raise it to {1.25 * need:.3g}, or leave it out"))
    return out


def probe_chance(chance: dict, ratio: float) -> Finding:
    """chance: of forecast.chance_of_gpt2."""
    if chance["probability"] is None:
        return ok("GPT-2 grade", f"the chance to score above 0.256525 is unknown: {chance['source']}")
    text = f"{chance['probability']:.0%} of single runs score above 0.256525: {chance['source']}"
    if chance["probability"] >= 0.5:
        return ok("GPT-2 grade", text)
    return warning("GPT-2 grade", f"{text}; for a better chance train longer, for example with the setting ratio={1.15 * ratio:.3g}")


# ---- all of it


def sizes_of(plan: dict, on_gpu: bool) -> dict:
    """The arguments of cost.memory_estimate that a plan (as JSON) and the device decide."""
    from gpt2course.losses import PIECE_BYTES

    model, each = plan["model"], 2 if on_gpu else 4
    return dict(T=model["sequence_len"], n_layer=model["n_layer"], n_embd=model["n_embd"], vocab_size=model["vocab_size"],
                matrix_optimizer=plan["recipe"]["matrix_optimizer"], loss_piece=PIECE_BYTES["cuda" if on_gpu else "cpu"],
                embed_bytes=4 if plan["recipe"]["architecture"] == "gpt2" else each, compute_bytes=each, compiled=on_gpu)  # fmt: skip


def look_gpus(r: dict, rows: int, need: float) -> tuple[list[Finding], int]:
    """(findings about the GPUs, how many processes the run will have)."""
    import torch

    with ThreadPoolExecutor() as pool:  # before this process holds memory of a GPU
        jobs = [pool.submit(*job) for job in ((query, "gpu", FIELDS), (query, "compute-apps", APPS), (health_query,), (ask, "nvidia-smi", "topo", "-m"))]
        (code, text), (_, apps), (no_health, health), (_, topology) = (job.result() for job in jobs)
    found = chosen(table(text, FIELDS) if not code else [], os.environ.get("CUDA_VISIBLE_DEVICES"))
    seen, reason = torch.cuda.device_count() if torch.cuda.is_available() else 0, ""
    if found and not seen:
        try:
            torch.cuda.init()
        except Exception as e:
            reason = str(e).splitlines()[0]
    out = guarded("gpus", probe_gpus, code, text, found, seen, r["profile"], rows, pci_gpus())
    out += guarded("driver", probe_driver, found[0]["driver_version"] if found else None, torch.__version__, torch.version.cuda, seen, len(found), reason)
    if found:
        indices = {row["index"] for row in found}
        out += guarded("neighbours", probe_neighbours, found, table(apps, APPS), need)
        out += guarded("health", probe_health, [row for row in table(health, HEALTH) if row["index"] in indices] if not no_health else [])
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
                text = f"{name}: {p['shards_done']} of the {n + 1} shards that the run needs are here; the other {come / 1e9:.1f} GB come while it goes on, or beforehand with"
                return ok("corpus", f"{text}: python -m gpt2course.shards get {which} --shards {n}"), come, min(come, 9 * shards.SHARD_DISK)  # 8 for the tokenizer, validation
        corpus = load_corpus(name)
        if name in shards.SHARD_CORPORA:
            shards.enough(corpus, plan["tokens"])
        return ok("corpus", f"{name}: {len(corpus.train):,} documents to train on, {len(corpus.val):,} to validate"), 0.0, 0.0
    except UserError as e:
        return stop("corpus", str(e)), 0.0, 0.0


def look_bundle(path) -> Finding:
    try:
        bundle = core_bundle.read_bundle(path)
    except UserError as e:
        return stop("bundle", str(e))
    return ok("bundle", f"{bundle.name}, {len(bundle.labels)} tasks, baselines {bundle.baselines}")


def look_addresses(r: dict, come: float) -> list[Finding]:
    """Every address that the run needs, all asked at once."""
    wanted = []
    if come:
        name = shards.parse(r["corpus"])[0]
        wanted.append((f"corpus {name}", shards.url_of(name, shards.SHARD_CORPORA[name].val), os.environ.get(shards.TOKEN, "").strip() or None))
    if "bundle" in r.get("download", ()) and core_bundle.default_bundle() == core_bundle.MINI:
        wanted.append(("the bundle of CORE", core_bundle.URL, None))
    answers = [f"no answer in {TIMEOUT:g} s"] * len(wanted)
    at_once([lambda i=i: answers.__setitem__(i, reach(*wanted[i][1:])) for i in range(len(wanted))], TIMEOUT)
    return probe_addresses([(what, url, wrong) for (what, url, _), wrong in zip(wanted, answers)])


def look_disk(plan: dict, m, corpus: str, come: float) -> list[Finding]:
    home().mkdir(parents=True, exist_ok=True)
    parts = [("checkpoints", home(), 4 * (m.weights + m.optimizer) + 0.2e9)]  # the newest two, the best and one being written
    if come:
        parts.append(("shards", shards.place(shards.parse(corpus)[0]), come))
    at = [nearest(folder) for _, folder, _ in parts]
    return probe_disk([(what, folder, need, shutil.disk_usage(where).free, where.stat().st_dev) for (what, folder, need), where in zip(parts, at)])


def look_memory(plan: dict, need: float, batch: int, rows: int, n: int, on_gpu: bool) -> Finding:
    """rows: of a batch, which n processes share."""
    import torch

    from gpt2course.cost import suggest_device_batch

    free = min(torch.cuda.mem_get_info(i)[0] for i in range(n)) if on_gpu else memory_available()
    fits = None
    with contextlib.suppress(UserError):  # not even one row
        fits = suggest_device_batch(free - (0 if on_gpu else 0.5e9), rows // n, plan["params"], slack=1 - 1 / 1.1, **sizes_of(plan, on_gpu)) if free else None
    return probe_memory(free, need, fits, batch, on_gpu)


def look_device(profile: str) -> Finding:
    import torch

    from gpt2course.checkpoint import compute_dtypes, pick_device
    from gpt2course.train import describe_machine

    device = pick_device()
    dtype = compute_dtypes(device)[0]
    text = f"{device} ({describe_machine(device)['device']}), {str(dtype).removeprefix('torch.')}"
    if profile != "laptop" and device.type != "cuda":
        return warning("device", f"{text}; profile {profile} is made for CUDA and will be very slow here: use profile laptop")
    if profile != "laptop" and dtype == torch.float32:
        return warning("device", f"{text}: this GPU has no bfloat16, so the run is slow and takes twice the memory; take an A100, H100 or newer")
    return ok("device", text)


def look_threads() -> Finding:
    import torch

    cores, threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, torch.get_num_threads()
    few = threads < cores and threads < 4 and not torch.cuda.is_available()
    return (warning if few else ok)("threads", f"{threads} of {cores} cores" + ("; unset OMP_NUM_THREADS to use them all" if few else ""))


def look_chance(plan: dict, corpus: str) -> Finding:
    from gpt2course.forecast import chance_of_gpt2

    ratio = plan["tokens"] / plan["params"]["scaling"]
    return probe_chance(chance_of_gpt2(plan["recipe"]["name"], plan["recipe"]["depth"], ratio, corpus.partition(":")[0]), ratio)


def look_files() -> Finding:
    import resource  # not on Windows

    return probe_files(*resource.getrlimit(resource.RLIMIT_NOFILE))


def do_preflight(r: dict) -> dict:
    """{"findings", "device", "torch"}. r: profile, plan (as JSON), device_batch, corpus, bundle, price; and where they are known max_hours, max_cost_usd,
    gpus (processes of the run) and download, the list of what the run fetches itself, of "corpus" and "bundle"."""
    import torch

    from gpt2course.checkpoint import compute_dtypes, pick_device
    from gpt2course.cost import memory_estimate, peak_flops

    plan, on_gpu, large = r["plan"], torch.cuda.is_available(), r["profile"] != "laptop"
    rows = plan["batch_tokens"] // plan["model"]["sequence_len"]
    m = memory_estimate(plan["params"], B=r["device_batch"], **sizes_of(plan, on_gpu))
    need = m.total * 1.1 + (0 if on_gpu else 0.5e9)
    old = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < (2, 11)
    findings = [ok("python", f"{platform.python_version()} on {platform.platform(terse=True)}"),
                stop("torch", f"{torch.__version__}; this course needs 2.11 or newer: make setup") if old else ok("torch", torch.__version__)]  # fmt: skip
    gpus, n = look_gpus(r, rows, need) if on_gpu or large else ([], 1)
    findings += gpus + guarded("device", look_device, r["profile"]) + guarded("threads", look_threads)
    findings += guarded("memory", look_memory, plan, need, r["device_batch"], rows, n, on_gpu)
    corpus, come, first = look_corpus(r, plan)
    findings += guarded("disk", look_disk, plan, m, r["corpus"], come) + [corpus]
    if r["bundle"]:
        findings.append(look_bundle(r["bundle"]))
    findings += guarded("addresses", look_addresses, r, come)
    if on_gpu:
        device, peak = pick_device(), peak_flops(torch.cuda.get_device_name())
        findings += guarded("attention", look_attention, device, compute_dtypes(device)[0], plan["recipe"]["head_dim"])
        findings += guarded("speed", lambda: probe_rates(rates(n), peak))
        findings += guarded("shared memory", lambda: probe_shm(shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else None, n))
    if large:
        findings += guarded("file handles", look_files)
        if r["corpus"].partition(":")[0] in shards.SHARD_CORPORA:
            findings += guarded("GPT-2 grade", look_chance, plan, r["corpus"])
    if on_gpu and peak:
        findings += guarded("time", probe_forecast, plan, n, peak, first, r["price"], r.get("max_hours"), r.get("max_cost_usd"))
    if r["price"] is None:
        findings.append(ok("cost", "not counted: give price_per_hour, the price of the machine in dollars"))
    return {"findings": findings, "device": str(pick_device()), "torch": torch.__version__}


# ---- the command


@dataclass
class Preflight:
    """Look at this machine before a run on it is paid for; exit code 1 if something would stop the run.

    Example: python -m gpt2course.preflight jan29 --profile 8xh100 --price-per-hour 24
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
    from gpt2course.work import do_resolve

    r = do_resolve({"profile": args.profile, "recipe": args.recipe, "changes": args.set})
    corpus, bundle = args.corpus or r["corpus"], args.core_bundle
    fetched = ["corpus"] if corpus.partition(":")[0] in shards.SHARD_CORPORA else []
    if bundle is None and args.profile != "laptop":
        there = core_bundle.default_bundle()
        bundle, fetched = (None, [*fetched, "bundle"]) if there == core_bundle.MINI else (str(there), fetched)
    return {"profile": args.profile, "plan": r["plan"], "device_batch": args.device_batch or r["device_batch"], "corpus": corpus, "bundle": None if bundle == "mini" else bundle,
            "price": args.price_per_hour, "max_hours": args.max_hours, "max_cost_usd": args.max_cost_usd, "download": fetched}  # fmt: skip


def main(args: Preflight) -> None:
    began = time.perf_counter()
    findings = do_preflight(request_of(args))["findings"]
    for level, what, text in findings:
        print(f"{level:8} {what:13} {text}")
    n = {level: sum(f[0] == level for f in findings) for level in ("STOP", "warning")}
    print(f"{n['STOP']} to mend before the run, {n['warning']} warnings; looked for {duration(time.perf_counter() - began)}")
    sys.exit(1 if n["STOP"] else 0)


if __name__ == "__main__":
    command(main)
