"""Preflight: every probe on recorded or written outputs of good and broken machines, addresses on a local server, and the whole on a faked node of eight H100."""

import http.server
import json
import re
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpt2course.ops import preflight as p
from gpt2course.ops import shards, work
from gpt2course.files import UserError
from gpt2course.recipes import resolve

ROOT = Path(__file__).resolve().parent.parent
TINY = dict(depth=2, width=32, head_dim=16, sequence_len=32, vocab_size=300, batch_tokens=256, steps=3, eval_bytes=1000)

# ---- outputs of nvidia-smi, in the formats of its manual

UUID = [f"GPU-{i}b2d7c1e-03f4-9a55-b0aa-6d1f0c2e77a{i}" for i in range(8)]


def smi(n=8, name="NVIDIA H100 80GB HBM3", driver="580.95.05", free=81079, mig="Disabled", **rows):
    """--query-gpu; rows: {"g5": {"name": ...}} changes a GPU."""
    lines = []
    for i in range(n):
        row = dict(name=name, driver=driver, free=free, mig=mig) | rows.get(f"g{i}", {})
        lines.append(f"{i}, {row['name']}, {UUID[i]}, {row['driver']}, 81559, {row['free']}, {row['mig']}")
    return "\n".join(lines) + "\n"


def health(n=8, **rows):
    lines = []
    for i in range(n):
        row = dict(ecc="0", watts="700.00", clock="1980", bits="0x0000000000000001") | rows.get(f"g{i}", {})
        lines.append(f"{i}, {row['ecc']}, {row['watts']}, {row['clock']}, {row['bits']}")
    return "\n".join(lines) + "\n"


def topo(kind=lambda i, j: "NV18", n=8):
    head = "\x1b[4m\t" + "\t".join(f"GPU{i}" for i in range(n)) + "\tNIC0\tNIC1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m"
    rows = ["\t".join([f"GPU{i}", *(" X " if i == j else kind(i, j) for j in range(n)), "PIX", "NODE", "0-55,112-167", "0", "N/A"]) for i in range(n)]
    nic = "NIC0\t" + "\t".join(["PIX"] * n) + "\t X \tNODE"
    return "\n".join([head, *rows, nic, "", "Legend:", "", "  X    = Self", "  NV#  = Connection traversing a bonded set of # NVLinks", ""])


APP = f"{UUID[3]}, 4711, 60210, /opt/other/bin/python3\n"
NO_DRIVER = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running.\n"
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n"
LOST = "Unable to determine the device handle for GPU0: 0000:9B:00.0: Unknown Error\n"
NO_FIELD = 'Field "clocks_event_reasons.active" is not a valid field to query.\n\n'

rows_of = lambda text: p.table(text, p.FIELDS)


def gpus(text, seen=8, profile="8xh100", rows=256, code=0, bus=8):
    return p.probe_gpus(code, text, rows_of(text) if not code else [], seen, profile, rows, bus)


def driver(version="580.95.05", build="2.13.0+cu130", cuda="13.0", seen=8, listed=8, reason=""):
    return p.probe_driver(version, build, cuda, seen, listed, reason)


def neighbours(text, apps="", need=60e9):
    return p.probe_neighbours(rows_of(text), p.table(apps, p.APPS), need)


def healthy(text):
    return p.probe_health(p.table(text, p.HEALTH))


def disk(*parts):
    return p.probe_disk([(what, Path(folder), need, free, system) for what, folder, need, free, system in parts])


PLAN = resolve("jan29", depth=24).to_json()
CHANCE = {"mean": 0.25714, "sd": 0.0054, "probability": 0.54, "source": "nanochat-4"}
FAST = 8 * [700e12]
forecast = lambda **limits: p.probe_forecast(PLAN, 8, 989e12, 900e6, 24.0, limits.get("hours"), limits.get("usd"))

CASES = [  # (what was found, the level of each finding, what it must say)
    ("eight alike", lambda: gpus(smi()), "ok", "8 x NVIDIA H100 80GB HBM3"),
    ("more than the profile wants", lambda: gpus(smi(), profile="1gpu"), "ok", "8 x"),
    ("four", lambda: gpus(smi(4), 4), "warning", "there are 4 .* takes 2 times as long; take a machine with 8"),
    ("seven", lambda: gpus(smi(7), 7), "STOP", "there are 7, and a batch of 256 rows can be shared by 1, 2, 4, 8; .* export CUDA_VISIBLE_DEVICES=0,1,2,3$"),
    ("one of another kind", lambda: gpus(smi(g5={"name": "NVIDIA A100-SXM4-80GB"})), "warning", r"7 x NVIDIA H100 80GB HBM3 \(GPU 0, 1, 2, 3, 4, 6, 7\); 1 x NVIDIA A100-SXM4-80GB \(GPU 5\)"),
    ("MIG", lambda: gpus(smi(mig="Enabled")), "STOP", "nvidia-smi -mig 0"),
    ("no driver", lambda: gpus(NO_DRIVER, 0, code=9), "STOP", "NVIDIA-SMI has failed .* restart the machine"),
    ("driver updated under us", lambda: gpus(MISMATCH, 0, code=18), "STOP", "Driver/library version mismatch"),
    ("a GPU fell off the bus", lambda: gpus(LOST, 0, code=255), "STOP", "Unable to determine the device handle"),
    ("no GPU by the tool", lambda: gpus("No devices were found\n", 0, code=6), "STOP", "No devices were found"),
    ("an answer nobody knows", lambda: gpus("hello\n"), "STOP", "nvidia-smi fails .hello"),
    ("the tool hangs", lambda: gpus("nvidia-smi gave no answer in 8 s", 0, code=124), "STOP", "no answer in 8 s"),
    ("no tool, GPUs on the bus", lambda: gpus("nvidia-smi: No such file or directory", 0, code=127), "STOP", "8 NVIDIA GPUs are on the bus.*docker run --gpus all"),
    ("no tool, torch sees them", lambda: gpus("nvidia-smi: No such file or directory", 8, code=127), "warning", "8 by torch, but nvidia-smi is not there"),
    ("no tool, no GPU", lambda: gpus("nvidia-smi: No such file or directory", 0, code=127, bus=0), "", ""),
    ("driver as it should be", driver, "ok", "580.95.05, CUDA 13.0"),
    ("driver too old", lambda: driver("550.127.05", seen=0, reason="The NVIDIA driver on your system is too old"), "STOP", "driver 550.127.05 is too old for CUDA 13.0 .* needs 580"),
    ("old driver, old CUDA", lambda: driver("550.127.05", "2.11.0+cu126", "12.6"), "ok", "CUDA 12.6"),
    ("torch without CUDA", lambda: driver(build="2.13.0+cpu", cuda=None, seen=0), "STOP", "a build without CUDA, and 8 GPUs are here; .* make clean setup"),
    ("no fabric manager", lambda: driver(seen=0, reason="Unexpected error from cudaGetDeviceCount() ... Error 802: system not yet initialized"), "STOP", "systemctl start nvidia-fabricmanager"),
    ("torch sees nothing", lambda: driver(seen=0, reason="No CUDA GPUs are available"), "STOP", "torch sees none of the 8 GPUs .No CUDA GPUs are available"),
    ("nobody else", lambda: neighbours(smi()), "ok", "no other process"),
    ("a neighbour in the way", lambda: neighbours(smi(g3={"free": 20500}), APP), "STOP", r"GPU 3 has 21.5 of 85.5 GB free, process 4711 \(python3\) holds the rest; .*kill 4711"),
    ("a small neighbour", lambda: neighbours(smi(g3={"free": 78000}), APP), "warning", "GPU 3 has 81.8 of"),
    ("a neighbour in another container", lambda: neighbours(smi(g0={"free": 2000})), "STOP", "GPU 0 .* a process that is not shown .* take another machine"),
    ("a driver that keeps memory to itself", lambda: neighbours(smi(free="[N/A]")), "ok", "no other"),
    ("healthy", lambda: healthy(health()), "ok", "8 GPUs"),
    ("ECC off", lambda: healthy(health(g0={"ecc": "[N/A]"}, g1={"ecc": "[Not Supported]", "bits": "[N/A]"})), "ok", "8 GPUs"),
    ("ECC errors", lambda: healthy(health(g2={"ecc": "4"})), "STOP", "GPU 2 has had 4 memory errors"),
    ("hot", lambda: healthy(health(g6={"bits": "0x0000000000000048"})), "warning", r"GPU 6 is slowed down by hardware slowdown, heat \(hardware\)"),
    ("busy but fine", lambda: healthy(health(g6={"bits": "0x0000000000000004"})), "ok", ""),
    ("one of less power", lambda: healthy(health(g1={"watts": "500.00"})), "warning", "GPU 1 is set slower than the others: power.limit 500 W, of another 700"),
    ("one of fewer clocks", lambda: healthy(health(g7={"clock": "1410"})), "warning", "GPU 7 .* clocks.max.sm 1410 MHz"),
    ("NVLink", lambda: p.probe_links(topo(), 8, True), "ok", "NV18 between all 28 pairs"),
    ("PCIe only", lambda: p.probe_links(topo(lambda i, j: "PHB" if i // 4 == j // 4 else "SYS"), 8, False), "warning", r"28 of 28 pairs of GPUs are joined by PCIe \(PHB, SYS\)"),
    ("NVLink in pairs", lambda: p.probe_links(topo(lambda i, j: "NV12" if i // 2 == j // 2 else "SYS"), 8), "warning", "24 of 28 pairs"),
    ("peer access off", lambda: p.probe_links(topo(), 8, False), "warning", "cannot read each other's memory"),
    ("no topology", lambda: p.probe_links("Failed to run topology matrix", 8), "warning", "does not tell how the GPUs are connected"),
    ("one GPU", lambda: p.probe_links(topo(n=1), 1), "", ""),
    ("equal speeds", lambda: p.probe_rates(FAST, 989e12), "ok", "700 to 700 TFLOP/s"),
    ("one slow GPU", lambda: p.probe_rates([*FAST[:5], 630e12, *FAST[6:]], 989e12), "warning", "GPU 5 multiplies at 630 TFLOP/s, 90% of the others' 700"),
    ("one very slow GPU", lambda: p.probe_rates([*FAST[:5], 400e12, *FAST[6:]], 989e12), "STOP", "GPU 5 multiplies at 400"),
    ("one broken GPU", lambda: p.probe_rates([*FAST[:7], "CUDA error: uncorrectable ECC error encountered"], 989e12), "STOP", "GPU 7 fails in a matrix product .CUDA error"),
    ("all broken", lambda: p.probe_rates(["no answer"], 989e12), "STOP", "GPU 0 fails"),
    ("all slow", lambda: p.probe_rates(8 * [400e12], 989e12), "warning", "40% of the data sheet's 989"),
    ("attention", lambda: p.probe_attention("fa3", "the fastest that this machine has", 0.004, 0.03), "ok", "by fa3 .* 0.4% at most"),
    ("wrong attention", lambda: p.probe_attention("fa3", "the fastest", 0.2, 0.03), "STOP", "20.0% at most .* --attention varlen"),
    ("slow attention", lambda: p.probe_attention("sdpa", "nothing else", 0.001, 0.03), "warning", "pip install flash-attn-4"),
    ("memory", lambda: p.probe_memory(84e9, 58e9, 16, 16, True), "ok", "84.0 GB free, training needs about 58.0 GB at a device batch of 16; the largest that fits is 16"),
    ("too little memory", lambda: p.probe_memory(84e9, 98e9, 16, 32, True), "STOP", "at a device batch of 32; take a device batch of 16, which fits: --device-batch 16"),
    ("far too little memory", lambda: p.probe_memory(8e9, 38e9, None, 8, True), "STOP", "choose a smaller depth or device batch"),
    ("memory of a laptop", lambda: p.probe_memory(2e9, 1.9e9, 16, 16, False), "warning", "2.0 GB free, training needs about 1.9 GB; close other programs, or choose a smaller depth"),
    ("too little of it", lambda: p.probe_memory(1e9, 1.9e9, 4, 16, False), "STOP", "close other programs, or take a device batch of 4"),
    ("unknown memory", lambda: p.probe_memory(None, 1.9e9, None, 16, False), "ok", "what is free is unknown"),
    ("disk", lambda: disk(("checkpoints", "/a", 40e9, 500e9, 1)), "ok", "500.0 GB free in /a, the run needs about 40.0 GB$"),
    ("disk full", lambda: disk(("checkpoints", "/a", 40e9, 1e9, 1)), "STOP", "1.0 GB free in /a, .* GPT2COURSE_HOME"),
    ("disk too small for both", lambda: disk(("checkpoints", "/a", 40e9, 60e9, 1), ("shards", "/a/b", 27e9, 60e9, 1)), "STOP", r"67.0 GB \(checkpoints 40.0, shards 27.0\)"),
    ("two disks", lambda: disk(("checkpoints", "/a", 40e9, 60e9, 1), ("shards", "/b", 27e9, 60e9, 2)), "ok ok", ""),
    ("the shards' disk full", lambda: disk(("checkpoints", "/a", 40e9, 60e9, 1), ("shards", "/b", 27e9, 20e9, 2)), "ok STOP", "20.0 GB free in /b, the run needs about 27.0 GB .shards"),
    ("disk tight", lambda: disk(("checkpoints", "/a", 40e9, 42e9, 1)), "warning", "make room"),
    ("shared memory of Docker", lambda: p.probe_shm(64e6, 8), "STOP", "/dev/shm has 64 MB free, and 8 processes .* --shm-size=1g"),
    ("little shared memory", lambda: p.probe_shm(512e6, 8), "warning", "512 MB"),
    ("shared memory", lambda: p.probe_shm(500e9, 8), "ok", "500.0 GB"),
    ("no shared memory needed", lambda: p.probe_shm(64e6, 1), "", ""),
    ("file handles", lambda: p.probe_files(1024, 4096), "ok", "1,024"),
    ("few file handles", lambda: p.probe_files(256, 1048576), "STOP", "only 256 files.* ulimit -n 65536$"),
    ("few by the hard limit", lambda: p.probe_files(256, 512), "STOP", "docker run --ulimit nofile=65536"),
    ("file handles without a limit", lambda: p.probe_files(-1, -1), "ok", "no limit"),
    ("addresses", lambda: p.probe_addresses([("corpus", "https://a/b", None)]), "ok", "corpus can be fetched"),
    ("an address refused", lambda: p.probe_addresses([("corpus", "https://a/b", "HTTP 403 Forbidden"), ("bundle", "https://c", None)]), "STOP", "cannot be fetched from https://a/b: HTTP 403 Forbidden; it may want a token, in HF_TOKEN; .*GPT2COURSE_MIRROR"),
    ("a busy address", lambda: p.probe_addresses([("corpus", "https://a/b", "HTTP 503 Busy")]), "warning", "tries again by itself"),
    ("no name", lambda: p.probe_addresses([("corpus", "https://a/b", "[Errno -2] Name or service not known")]), "STOP", "mend the connection"),
    ("nothing to fetch", lambda: p.probe_addresses([]), "", ""),
    ("forecast", forecast, "ok ok", "about 3.04 h of training at 50% of the peak of 8 GPUs"),
    ("enough hours", lambda: forecast(hours=4.0, usd=100.0), "ok ok", ""),
    ("too few hours", lambda: forecast(hours=1.5), "ok ok warning", "max_hours = 1.5, and training needs about 3.1.*: it would stop with a checkpoint near step [78],... of 16,704; raise it to 3.[89]"),
    ("too few dollars", lambda: forecast(usd=80.0), "ok ok warning", "max_cost_usd = 80, and training needs about 7[45].*: little is left"),
    ("a coin toss", lambda: p.probe_chance(CHANCE, 9.5), "ok", "54% of single runs"),
    ("rather not", lambda: p.probe_chance(CHANCE | {"probability": 0.2}, 8.0), "warning", "ratio=9.2"),
    ("nobody knows", lambda: p.probe_chance({"probability": None, "source": "no published record"}, 8.0), "ok", "is unknown: no published record"),
]  # fmt: skip


@pytest.mark.parametrize("look,levels,says", [pytest.param(*rest, id=name) for name, *rest in CASES])
def test_a_probe_says_what_is_wrong_and_what_mends_it(look, levels, says):
    found = look()
    found = [found] if isinstance(found, tuple) else found
    assert " ".join(level for level, _, _ in found) == levels
    assert not says or any(re.search(says, text) for _, _, text in found), found
    for level, what, text in found:
        assert what and text.isprintable() and len(text) < 500
        assert level == "ok" or "; " in text, "a warning or STOP says what mends it"


# ---- properties

TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=60) | st.sampled_from(["[N/A]", "ERR!", "0x48", "GPU0\t X \tNV18", "0, NVIDIA H100, GPU-1, 580, 81559, 1, Disabled"])


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXT, max_size=8), st.integers(0, 9), st.integers(0, 8), st.sampled_from(["laptop", "1gpu", "8xh100"]))
def test_no_text_makes_a_probe_crash(lines, code, seen, profile):
    text = "\n".join(lines)
    for fields, probe in ((p.FIELDS, lambda rows: p.probe_gpus(code, text, rows, seen, profile, 256)), (p.FIELDS, lambda rows: p.probe_neighbours(rows, p.table(text, p.APPS), 1e9)),
                          (p.HEALTH, p.probe_health), (p.FIELDS, lambda rows: p.probe_links(text, 8))):  # fmt: skip
        for level, what, said in p.guarded("x", probe, p.table(text, fields)):
            assert level in ("ok", "warning", "STOP") and what and said


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8), st.data())
def test_the_matrix_of_links_is_read_whatever_stands_in_it(n, data):
    kinds = {(i, j): data.draw(st.sampled_from(["NV18", "NV4", "PIX", "PXB", "PHB", "NODE", "SYS"])) for i in range(n) for j in range(i + 1, n)}
    text = topo(lambda i, j: kinds[min(i, j), max(i, j)], n)
    assert p.links(text) == kinds == p.links(text.expandtabs())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 100)), min_size=1, max_size=4), st.lists(st.integers(0, 300), min_size=3, max_size=3))
def test_disks_must_hold_the_sum_of_what_is_on_them(parts, free):
    found = p.probe_disk([("x", Path("/x"), need * 1e9, free[system] * 10**9, system) for system, need in parts])
    need = {system: sum(n for s, n in parts if s == system) for system, _ in parts}
    assert [level == "STOP" for level, _, _ in found] == [free[s] < need[s] for s in need]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.integers(1, 512))
@example(7, 256)
def test_a_node_is_stopped_only_if_its_gpus_cannot_share_the_batch(n, rows):
    levels = [level for level, what, _ in gpus(smi(min(n, 8)), min(n, 8), rows=rows)]
    can = n >= 8 or rows % n == 0 and 8 % n == 0
    assert ("STOP" in levels) == (not can)


def test_gpus_are_those_that_cuda_shows():
    rows = rows_of(smi())
    assert [r["index"] for r in p.chosen(rows, "6,2")] == ["6", "2"] and [r["index"] for r in p.chosen(rows, UUID[4][:12])] == ["4"]
    assert p.chosen(rows, None) == rows == p.chosen(rows, "MIG-GPU-1/2/3") == p.chosen(rows, "")


def test_a_probe_that_fails_is_a_finding():
    (found,) = p.guarded("disk", lambda: 1 / 0)
    assert found == ("warning", "disk", "this could not be looked at (ZeroDivisionError: division by zero); everything else was, and the run need not fail for it")


def test_commands_that_are_not_there_or_hang_are_answered(monkeypatch):
    assert p.ask("no-such-command-here")[0] == 127
    monkeypatch.setattr(p, "TIMEOUT", 0.2)
    assert p.ask("sleep", "5") == (124, "sleep gave no answer in 0.2 s")
    began = time.monotonic()
    p.at_once([lambda: time.sleep(5), lambda: None], 0.2)
    assert time.monotonic() - began < 2


def test_older_drivers_are_asked_by_the_older_name(monkeypatch):
    asked = []

    def ask(*argv):
        asked.append(argv[1])
        return (2, NO_FIELD) if "event" in argv[1] else (0, health(1))

    monkeypatch.setattr(p, "ask", ask)
    assert p.health_query() == (0, health(1)) and len(asked) == 2 and "clocks_throttle_reasons.active" in asked[1]


# ---- addresses


class Server(http.server.BaseHTTPRequestHandler):
    seen = []

    def do_GET(self):
        self.seen.append((self.path, self.headers.get("Authorization"), self.headers.get("Range")))
        if self.path == "/slow":
            time.sleep(3)
        if self.path == "/there":
            return self.moved()
        code = {"/403": 403, "/404": 404, "/503": 503, "/all": 200}.get(self.path, 206)
        body = b"" if self.path == "/empty" else b"x" * (10**6 if code == 200 else 1)
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def moved(self):
        self.send_response(302)
        self.send_header("Location", f"http://localhost:{self.server.server_port}/other")
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("GPT2COURSE_MIRROR", raising=False)
    http_ = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    http_.daemon_threads, http_.block_on_close = True, False
    threading.Thread(target=http_.serve_forever, daemon=True).start()
    Server.seen = []
    yield f"http://127.0.0.1:{http_.server_port}"
    http_.shutdown()
    http_.server_close()


def test_an_address_is_asked_as_the_download_would(server, monkeypatch):
    assert p.reach(f"{server}/fine", "secret") is None and Server.seen == [("/fine", "Bearer secret", "bytes=0-0")]
    assert p.reach(f"{server}/all") is None  # a server without pieces
    assert p.reach(f"{server}/there", "secret") is None and Server.seen[-1][:2] == ("/other", None)  # the token stays with its host
    assert p.reach(f"{server}/403") == "HTTP 403 Forbidden" and p.reach(f"{server}/404").startswith("HTTP 404") and p.reach(f"{server}/503").startswith("HTTP 503")
    assert p.reach(f"{server}/empty") == "it is empty"
    assert p.reach(f"{server}/slow", timeout=0.3) == "no answer in 0.3 s"
    assert "not known" in p.reach("http://nowhere.invalid/x") or "resolution" in p.reach("http://nowhere.invalid/x")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        assert "refused" in p.reach(f"http://127.0.0.1:{s.getsockname()[1]}/x")
    monkeypatch.setenv("GPT2COURSE_MIRROR", server)
    assert p.reach("https://nowhere.invalid/mirrored", "secret") is None and Server.seen[-1][:2] == ("/mirrored", None)  # nor does a mirror get it
    monkeypatch.setenv("GPT2COURSE_MIRROR", "ftp://x")
    assert "GPT2COURSE_MIRROR" in p.reach("https://nowhere.invalid/x")


def test_every_address_that_is_needed_is_asked_at_once_and_no_other(server, course_home, monkeypatch):
    monkeypatch.setenv("GPT2COURSE_MIRROR", server)
    monkeypatch.delenv("GPT2COURSE_CORE_BUNDLE", raising=False)
    both = {"corpus": "climbmix", "download": ["corpus", "bundle"]}
    assert p.look_addresses(both, 1e9) == [("ok", "addresses", "corpus climbmix, the bundle of CORE can be fetched")]
    assert sorted(path for path, _, _ in Server.seen) == ["/datasets/karpathy/climbmix-400b-shuffle/resolve/main/shard_06542.parquet", "/eval_bundle.zip"]
    assert p.look_addresses(both | {"download": ["corpus"]}, 0.0) == [] and len(Server.seen) == 2
    monkeypatch.setattr(p, "reach", lambda url, token: time.sleep(5))
    monkeypatch.setattr(p, "TIMEOUT", 0.2)
    began = time.monotonic()
    assert [level for level, _, _ in p.look_addresses(both, 1e9)] == ["STOP", "STOP"] and time.monotonic() - began < 2


# ---- the whole


def test_memory_available_is_that_of_the_container(monkeypatch):
    files = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    8000000 kB\n", "/sys/fs/cgroup/memory.max": "3000000000\n", "/sys/fs/cgroup/memory.current": "1000000000\n",
             "/sys/fs/cgroup/memory.stat": "anon 5\ninactive_file 400000000\n"}  # fmt: skip

    class Fake:
        def __init__(self, path):
            self.path = str(path)

        def read_text(self):
            if self.path not in files:
                raise FileNotFoundError
            return files[self.path]

    monkeypatch.setattr(p, "Path", Fake)
    assert p.memory_available() == 2_400_000_000
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert p.memory_available() == 8_000_000 * 1024
    files.clear()
    assert p.memory_available() is None


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "toy.jsonl"
    path.write_text("".join(json.dumps({"text": f"document {i} of a small corpus"}) + "\n" for i in range(40)))
    return str(path)


def request(corpus, **changes):
    plan = resolve("jan29", **TINY).to_json()
    return {"profile": "laptop", "plan": plan, "device_batch": 4, "corpus": corpus, "bundle": None, "price": None} | changes


def by_what(r):
    return {what: (level, text) for level, what, text in p.do_preflight(r)["findings"]}


def test_a_laptop_is_looked_at_as_ever(course_home, corpus, monkeypatch):
    good = by_what(request(corpus))
    assert {level for level, _ in good.values()} <= {"ok", "warning"} and set(good) == {"python", "torch", "device", "threads", "memory", "disk", "corpus", "cost"}
    assert work.do_preflight(request(corpus))["device"] == "cpu"  # the stage of the runbook
    monkeypatch.setattr(p, "memory_available", lambda: 100_000_000)
    assert by_what(request(corpus))["memory"][0] == "STOP"
    monkeypatch.setattr(p.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1e6))
    assert by_what(request(corpus))["disk"][0] == "STOP"
    monkeypatch.setattr(torch, "__version__", "2.4.0")
    assert by_what(request(corpus))["torch"] == ("STOP", "2.4.0; this course needs 2.11 or newer: make setup")


def test_a_machine_without_a_gpu_may_rehearse_a_large_profile(course_home, corpus, monkeypatch):
    monkeypatch.setattr(p, "ask", lambda *argv: (127, "nvidia-smi: No such file or directory"))
    monkeypatch.setattr(p, "pci_gpus", lambda: 0)
    found = by_what(request(corpus, profile="8xh100", gpus=2))
    assert found["device"][0] == "warning" and "gpus" not in found and "STOP" not in {level for level, _ in found.values()} and found["file handles"][0] == "ok"
    monkeypatch.setattr(p, "pci_gpus", lambda: 8)
    assert by_what(request(corpus, profile="8xh100"))["gpus"][0] == "STOP"


def test_the_machine_of_a_profile_is_reckoned_before_it_is_rented(course_home, monkeypatch):
    monkeypatch.setattr(p, "ask", lambda *argv: (127, "nvidia-smi: No such file or directory"))
    monkeypatch.setattr(p, "pci_gpus", lambda: 0)
    monkeypatch.setattr(p, "reach", lambda url, token=None: None)

    def look(profile, *changes, **given):
        found = p.do_preflight(p.request_of(p.Preflight("jan29", profile, changes, price_per_hour=24.0, **given)))["findings"]
        return {what: (level, text) for level, what, text in found}

    eight = look("8xh100", max_cost_usd=60.0)
    said = r"about 3.04 h of training at 50% of the peak of 8 H100, which this profile is made for \(none is seen here\), 3.\d\d h with all else \(minutes: .*\); a projection"
    assert eight["time"][0] == "ok" and re.fullmatch(said, eight["time"][1]), eight["time"]
    assert re.fullmatch(r"about \$8\d.\d\d at \$24 an hour of that machine, of it \$7[23].\d\d for training", eight["cost"][1])
    assert eight["limits"][0] == "warning" and re.match("max_cost_usd = 60, and training needs about 7[45].*: it would stop with a checkpoint near step 13,...", eight["limits"][1])
    there = "on an H100, and none is seen here: 84.9 GB free, training needs about 58.2 GB at a device batch of 16; the largest that fits is 16"
    assert eight["memory there"] == ("ok", there)
    one = look("1gpu")
    assert "at 40% of the peak of 1 H100, which" in one["time"][1] and one["memory there"][0] == "ok" and "limits" not in one
    level, text = look("8xh100", device_batch=32)["memory there"]  # not this machine, so no STOP
    assert level == "warning" and text.endswith("take a device batch of 16, which fits: --device-batch 16")
    level, text = look("8xh100", "depth=60", "width=7680")["memory there"]
    assert level == "warning" and text.endswith("; choose a smaller depth or device batch")
    assert not {"time", "limits", "memory there"} & set(look("laptop", "steps=3", "eval_bytes=1000", max_hours=0.001))


def test_shards_that_the_run_fetches_itself_are_no_stop(course_home, monkeypatch):
    assert by_what(request("climbmix"))["corpus"][0] == "STOP"  # nobody says that they will come
    plan = resolve("record", depth=24)
    n = shards.needed("climbmix", plan.tokens)
    finding, come, first = p.look_corpus(request("climbmix", download=["corpus"]), plan.to_json())
    assert finding[0] == "ok" and f"0 of the {n + 1} shards" in finding[2] and f"python -m gpt2course.ops.shards get climbmix --shards {n}" in finding[2]
    assert come == (n + 1) * shards.SHARD_DISK and first == 9 * shards.SHARD_DISK
    disks = p.look_disk(plan.to_json(), types.SimpleNamespace(weights=4e9, optimizer=6e9), "climbmix", come)
    assert f"(checkpoints 40.2, shards {come / 1e9:.1f})" in disks[0][2]
    monkeypatch.setattr(shards, "progress", lambda c: {"state": "complete", "shards": n + 1, "shards_done": n + 1, "bytes": 5, "bytes_done": 5})
    monkeypatch.setattr(p, "load_corpus", lambda name: types.SimpleNamespace(name=name, train=range(9), val=range(2)))
    monkeypatch.setattr(shards, "enough", lambda corpus, tokens: None)
    assert p.look_corpus(request("climbmix", download=["corpus"]), plan.to_json()) == (("ok", "corpus", "climbmix: 9 documents to train on, 2 to validate"), 0.0, 0.0)

    def too_small(corpus, tokens):
        raise UserError("corpus 'climbmix' has about 1 token")

    monkeypatch.setattr(shards, "enough", too_small)
    assert p.look_corpus(request("climbmix"), plan.to_json())[0] == ("STOP", "corpus", "corpus 'climbmix' has about 1 token")


NODE = """#!/bin/sh
case "$*" in
  *ecc*) cat "$SMI/health" ;; *--query-gpu*) cat "$SMI/gpus" ;; *compute-apps*) cat "$SMI/apps" ;; *topo*) cat "$SMI/topo" ;;
esac
exit "$(cat "$SMI/code")"
"""


@pytest.fixture
def node(tmp_path, course_home, monkeypatch):
    """A node of eight H100 as nvidia-smi and torch would tell of it; node(gpus=...) changes what the tool says."""
    folder = tmp_path / "smi"
    folder.mkdir()
    (folder / "nvidia-smi").write_text(NODE)
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("SMI", str(folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    name = "NVIDIA H100 80GB HBM3"
    fakes = {"is_available": lambda: True, "device_count": lambda: 8, "get_device_name": lambda *a: name, "mem_get_info": lambda i=0: (84_000_000_000, 85_500_000_000),
             "get_device_capability": lambda *a: (9, 0), "can_device_access_peer": lambda i, j: True,
             "get_device_properties": lambda d: types.SimpleNamespace(name=name, total_memory=85_500_000_000)}  # fmt: skip
    for what, value in fakes.items():
        monkeypatch.setattr(torch.cuda, what, value)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(p, "rates", lambda n: FAST[:n])
    monkeypatch.setattr(p, "look_attention", lambda device, dtype, D: p.probe_attention("fa3", f"{device} {dtype} {D}", 0.004, 0.03))
    monkeypatch.setattr(p, "reach", lambda url, token=None: None)
    monkeypatch.setattr(p.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=10**12))

    def give(code=0, **texts):
        for what, text in (dict(gpus=smi(), health=health(), apps="", topo=topo(), code=str(code)) | texts).items():
            (folder / what).write_text(text)
        r = p.request_of(p.Preflight("record", "8xh100", price_per_hour=24.0, max_hours=3.0))
        return {what: (level, text) for level, what, text in p.do_preflight(r)["findings"]}

    return give


def test_a_good_node_of_eight_passes(node):
    found = node()
    assert {level for level, _ in found.values()} == {"ok"}, {k: v for k, v in found.items() if v[0] != "ok"}
    assert list(found) == ["python", "torch", "gpus", "driver", "neighbours", "health", "links", "device", "threads", "memory", "disk", "corpus", "addresses", "attention", "speed",
                           "shared memory", "file handles", "GPT-2 grade", "time", "cost"]  # fmt: skip
    assert "at a device batch of 16; the largest that fits is 16" in found["memory"][1] and "cuda torch.bfloat16 128" in found["attention"][1]
    assert re.search(r"about 1.96 h of training at 50% .* \(minutes: set-up 5, tokenizer 4, compilation 3, evaluation \d, CORE \d\)", found["time"][1]), found["time"]


def test_what_breaks_on_a_node_is_said_where_it_belongs(node, monkeypatch):
    assert node(gpus=smi(g3={"free": 9000}), apps=APP)["neighbours"][0] == "STOP"
    assert node(topo=topo(lambda i, j: "SYS"))["links"][0] == "warning"
    assert node(health=health(g1={"ecc": "2"}))["health"][0] == "STOP"
    broken = node(code=9, gpus=NO_DRIVER, health="", topo="")
    assert broken["gpus"][0] == "STOP" and "speed" in broken  # all that can still be looked at is
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: 1 / 0)
    assert node()["memory"][0] == "warning"


def test_the_command_prints_a_table_and_ends_with_1_on_a_stop(tmp_path, corpus):
    env = {"PATH": "/usr/bin:/bin", "GPT2COURSE_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    sizes = [f"{k}={v}" for k, v in TINY.items()]
    argv = [sys.executable, "-m", "gpt2course.ops.preflight", "--set", *sizes, "--corpus"]
    good = subprocess.run([*argv, corpus], capture_output=True, text=True, env=env)
    assert good.returncode == 0 and re.search(r"^ok       memory  ", good.stdout, re.M) and "\n0 to mend before the run" in good.stdout, good.stderr
    bad = subprocess.run([*argv, str(tmp_path / "nothing")], capture_output=True, text=True, env=env)
    assert bad.returncode == 1 and re.search(r"^STOP     corpus        corpus .* does not exist", bad.stdout, re.M) and "1 to mend" in bad.stdout
