"""Downloads from a server on this machine that misbehaves: the right bytes or the right error, and nothing half-written."""

import dataclasses
import errno
import hashlib
import http.server
import io
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2course import core_tasks
from gpt2course.data import load_corpus, shard_path
from gpt2course.files import UserError
from gpt2course.ops import download
from gpt2course.ops.download import FIRST, fetch, get_core, get_shards, main, mirrored, progress

DATA = random.Random(1).randbytes(300_000)
OTHER = random.Random(2).randbytes(300_000)
digest = lambda data: hashlib.sha256(data).hexdigest()  # noqa: E731


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves server.files[path], else server.data, with ranges. server.plan changes one answer after another."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.seen.append((self.path, dict(self.headers)))
        step = server.plan.pop(0) if server.plan else server.steps.get(self.path, {})
        data = step.get("data", server.files.get(self.path, server.data))
        if step.get("drop"):  # no answer at all
            return self.reset()
        start, wanted = 0, re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and not step.get("ignore_range"):
            start = int(wanted[1])
        code = step.get("code", 416 if start and start >= len(data) else 206 if start else 200)
        body = b"" if code >= 300 else data[start:]
        self.send_response(code)
        if code == 416:
            self.send_header("Content-Range", f"bytes */{len(data)}")
        if code == 206:
            self.send_header("Content-Range", step.get("content_range", f"bytes {start}-{len(data) - 1}/{len(data)}"))
        for name, value in step.get("headers", {}).items():
            self.send_header(name, value)
        if step.get("chunked"):
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body) + step.get("lie", 0)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        body = body[: step.get("cut", len(body))]
        try:
            for at in range(0, len(body), size := step.get("pieces", 1 << 16)):
                piece = body[at : at + size]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if step.get("chunked") else piece)
                server.pause.wait(step.get("slow", 0))
            if step.get("chunked") and "cut" not in step:
                self.wfile.write(b"0\r\n\r\n")
            server.pause.wait(step.get("silent", 0))
        except OSError:
            pass  # the client has gone
        if step.get("reset"):
            self.reset()

    def reset(self):
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() sends RST
        self.close_connection = True

    do_CONNECT = do_GET  # it can be a proxy


@pytest.fixture
def server(monkeypatch):
    """A server with data, a plan for its next answers, and a record of the requests. Waits between attempts are 0 s."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", download.MIRROR, download.TOKEN):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download.random, "uniform", lambda low, high: 0.0)
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.data, httpd.files, httpd.steps, httpd.plan, httpd.seen, httpd.pause = DATA, {}, {}, [], [], threading.Event()
    httpd.base = f"http://127.0.0.1:{httpd.server_port}"
    httpd.url = f"{httpd.base}/some/f"
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def listing(folder):
    return sorted(p.name for p in folder.iterdir())


def ranges(server):
    """How many bytes were there at each request: the last one is asked for again."""
    return [headers.get("Range") and int(headers["Range"][6:-1]) + 1 for _, headers in server.seen]


def half(**more):
    return {"cut": 150_000, **more}


# ---- one file

# Each case: the plan, and the ranges that must be asked for. After it all bytes are right and nothing else is left.
GOOD = {
    "silent": ([half(silent=1.5)], [None, 150_000]),
    "reset half-way": ([half(reset=True)], [None, "some"]),  # a reset may throw away what was on its way
    "closed 25 times": ([{"cut": 100}] * 25, [None, *range(100, 2575, 99)]),  # only attempts without progress count
    "no answer": ([{"drop": True}], [None, None]),
    "truncated to nothing": ([{"cut": 0}], [None, None]),
    "500, 502, 504, 408": ([{"code": c} for c in (500, 502, 504, 408)], [None] * 5),
    "length too long, once": ([{"lie": 5}], [None, 300_000]),  # nothing is missing
    "another file at first": ([half(data=OTHER)], [None, 150_000, None]),  # the parts do not fit together
    "a longer file at first": ([{"data": DATA + OTHER, "cut": 400_000}], [None, 400_000, None]),
    "a range from another place": ([half(), {"content_range": "bytes 149998-299999/300000"}], [None, 150_000, None]),
    "ranges ignored": ([half(), {"ignore_range": True}], [None, 150_000]),
    "chunked": ([{"chunked": True}], [None]),
    "chunked, cut": ([half(chunked=True)], [None, 150_000]),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_a_server_that_misbehaves_for_a_while(server, tmp_path, monkeypatch, case):
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    server.plan, asked = list(GOOD[case][0]), GOOD[case][1]
    assert fetch(server.url, tmp_path / "f", sha256=digest(DATA)).read_bytes() == DATA and listing(tmp_path) == ["f"]
    found = ["some" if want == "some" and have else have for have, want in zip(ranges(server), asked)]
    assert found == asked and len(server.seen) == len(asked) and not server.plan
    fetch(server.url, tmp_path / "f", sha256=digest(DATA))
    assert len(server.seen) == len(asked)  # the right file is not asked for again


# Each case: the plan, arguments of fetch, the error, requests, and what is left in the folder.
BAD = {
    "404": ([{"code": 404}], {}, "HTTP 404 .*set GPT2COURSE_MIRROR to a mirror, or put the file at .*f$", 1, []),
    "403": ([{"code": 403}], {}, "HTTP 403 .*token in HF_TOKEN", 1, []),
    "404 half-way": ([half(), {"code": 404}], {}, "HTTP 404", 2, ["f.part"]),
    "503 for ever": ([{"code": 503}] * 20, {}, "HTTP 503 .*gave up after 8 attempts", 8, []),
    "cut for ever": ([{"cut": 150_000}] + [{"cut": 0}] * 20, {}, "the connection ended at 149,999 of 300,000 bytes.*gave up", 8, ["f.part"]),
    "starting again and again": ([{"cut": n, "ignore_range": True} for n in [150_000, 1_000] * 20], {}, "gave up after 8", 8, ["f.part"]),
    "wrong bytes": ([], {"sha256": digest(OTHER)}, f"has sha256 {digest(DATA)}, expected {digest(OTHER)}", 1, []),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_repaired_is_an_error(server, tmp_path, case):
    plan, arguments, text, requests, left = BAD[case]
    server.plan = list(plan)
    with pytest.raises(UserError, match=text) as e:
        fetch(server.url, tmp_path / "f", **arguments)
    assert "\n" not in str(e.value) and server.url in str(e.value) and len(server.seen) == requests
    assert [name for name in listing(tmp_path) if name != "f.part" or (tmp_path / name).stat().st_size] == left


def test_nobody_answers(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="no connection.*refused.*gave up after 8"):
        fetch(server.url, tmp_path / "f")
    assert listing(tmp_path) == []


def test_waits_double_and_obey_the_server(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(download.random, "uniform", lambda low, high: high)
    monkeypatch.setattr(download.time, "sleep", waits.append)
    server.plan = [{"code": 503}] * 6 + [{"code": 429, "headers": {"Retry-After": "7"}}]
    fetch(server.url, tmp_path / "f")
    assert waits == [1, 2, 4, 8, 16, 32, 7]


def test_a_part_that_is_whole_is_checked_too(server, tmp_path):
    """The process was killed between the last byte and the check."""
    for data in (DATA, OTHER):
        (tmp_path / "f.part").write_bytes(data)
        assert fetch(server.url, tmp_path / "f", sha256=digest(DATA)).read_bytes() == DATA
        (tmp_path / "f").unlink()
    assert ranges(server) == [300_000, 300_000, None]


def test_a_wrong_file_on_disk_is_replaced_when_the_right_one_is_there(server, tmp_path, capsys):
    (tmp_path / "f").write_bytes(OTHER)
    server.plan = [{"code": 404}]
    with pytest.raises(UserError, match="HTTP 404"):
        fetch(server.url, tmp_path / "f", sha256=digest(DATA))
    assert (tmp_path / "f").read_bytes() == OTHER
    fetch(server.url, tmp_path / "f", sha256=digest(DATA))
    assert (tmp_path / "f").read_bytes() == DATA and "has sha256" in capsys.readouterr().out


def test_a_full_disk_keeps_what_has_arrived(server, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(download.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            fetch(server.url, tmp_path / "f")
    assert listing(tmp_path) == ["f.part"]
    assert fetch(server.url, tmp_path / "f").read_bytes() == DATA


def child(code, **environment):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *code], env=os.environ | environment, **streams)


def test_a_mirror_gets_the_path_and_no_token(server, tmp_path, monkeypatch):
    monkeypatch.setenv(download.TOKEN, "secret")
    monkeypatch.setenv(download.MIRROR, f"{server.base}/prefix/")
    fetch(f"{download.HUB}/some/f?download=1", tmp_path / "f")
    path, headers = server.seen[0]
    assert path == "/prefix/some/f?download=1" and "Authorization" not in headers
    for wrong in ("mirror.example", "file:///tmp", "https://"):
        monkeypatch.setenv(download.MIRROR, wrong)
        with pytest.raises(UserError, match="must start with http:// or https://"):
            mirrored("https://far.example/f")


def test_a_token_goes_to_its_host_alone_and_its_hash_is_believed(server, tmp_path, monkeypatch):
    monkeypatch.setenv(download.TOKEN, " secret\n")
    monkeypatch.setattr(download, "HUB", server.base)
    location = {"Location": server.url.replace("127.0.0.1", "localhost"), "X-Linked-ETag": f'"{digest(DATA)}"'}
    server.plan = [{"code": 302, "headers": {"Location": "/same"}}, {"code": 302, "headers": location}]
    fetch(server.url, tmp_path / "f")
    assert [headers.get("Authorization") for _, headers in server.seen] == ["Bearer secret", "Bearer secret", None]
    server.plan = [{"code": 302, "headers": location}, {"data": OTHER}]
    with pytest.raises(UserError, match=f"has sha256 {digest(OTHER)}"):
        fetch(server.url, tmp_path / "g")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_password_gets_its_own_advice(server, tmp_path, monkeypatch, scheme):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, server.base)
    server.plan, url = [{"code": 407}] * 2, f"{scheme}://files.example/f"
    with pytest.raises(UserError, match="HTTP 407.*your proxy wants a name and a password: export https_proxy=http://NAME"):
        fetch(url, tmp_path / "f")
    assert len(server.seen) == 1 and "your proxy wants" in download.reach(url)


def test_files_and_folders_have_the_rights_of_the_umask(server, tmp_path):
    before = os.umask(0o002)
    try:
        got = fetch(server.url, tmp_path / "new" / "f")
    finally:
        os.umask(before)
    assert got.stat().st_mode & 0o777 == 0o664 and got.parent.stat().st_mode & 0o777 == 0o775


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_mix_of_misbehaviour_ends_with_the_right_bytes_or_an_error(server, tmp_path_factory, data):
    change = st.fixed_dictionaries({}, optional={
        "cut": st.integers(0, 5000), "code": st.sampled_from([429, 500, 503, 404, 416]), "ignore_range": st.booleans(),
        "drop": st.booleans(), "chunked": st.booleans(), "data": st.just(OTHER[:4000]), "reset": st.booleans(),
        "lie": st.integers(-10, 10),
    })  # fmt: skip
    server.data, server.plan = DATA[:5000], data.draw(st.lists(change, max_size=6))
    folder = tmp_path_factory.mktemp("mix")
    for _ in range(10):
        try:
            fetch(server.url, folder / "f", sha256=digest(server.data))
        except UserError:
            assert not (folder / "f").exists()
            continue
        assert (folder / "f").read_bytes() == server.data and listing(folder) == ["f"]
        return
    raise AssertionError("no success although the server serves the right file now")


# ---- shards


def shard(number: int, column="text", kind="string") -> bytes:
    draw, out = random.Random(number), io.BytesIO()
    texts = [f"document {i} of shard {number}: {draw.randbytes(300).hex()}" for i in range(60)]
    pq.write_table(pa.table({column: pa.array(texts).cast(kind)}), out, row_group_size=20)
    return out.getvalue()


@pytest.fixture
def hub(server, course_home, monkeypatch):
    """The server as a mirror of huggingface.co with shards 0 to 5 and the validation shard of climbmix."""
    monkeypatch.setenv(download.MIRROR, server.base)
    server.paths = {n: f"/datasets/karpathy/climbmix-400b-shuffle/resolve/main/shard_{n:05d}.parquet" for n in (0, 1, 2, 3, 4, 5, 6542)}
    server.files = {path: shard(n) for n, path in server.paths.items()}
    server.asked = lambda: [int(path[-13:-8]) for path, _ in server.seen]
    return server


def whole(hub, *numbers):
    return all(shard_path("climbmix", n).read_bytes() == hub.files[hub.paths[n]] for n in numbers)


def test_shards_are_downloaded_in_order_and_once(hub, monkeypatch, capsys):
    monkeypatch.setattr(download, "WORKERS", 1)
    get_shards("climbmix", 3)
    assert hub.asked() == [6542, 0, 1, 2] and whole(hub, 6542, 0, 1, 2)
    size = sum(len(hub.files[hub.paths[n]]) for n in (6542, 0, 1, 2))
    assert progress("climbmix:3") == {"corpus": "climbmix:3", "done": 4, "total": 4, "first": True, "bytes": size}
    get_shards("climbmix", 4)
    assert hub.asked() == [6542, 0, 1, 2, 3] and progress("climbmix:6")["done"] == 5
    assert len(load_corpus("climbmix:4").train) == 240  # other files in the folder do not disturb the loader
    out = capsys.readouterr().out
    assert "climbmix:3: 0 of 4 shards" in out and "climbmix:3: 4 of 4 shards" in out and "left" not in out


def test_first_is_true_once_a_tokenizer_can_be_trained(hub):
    """It reads 2e9 characters, and about 95 % of the 250 million of a shard."""
    assert FIRST * 250e6 * 0.95 > 2e9 > (FIRST - 2) * 250e6 * 0.95
    hub.steps[hub.paths[5]] = {"code": 404}
    with pytest.raises(UserError, match="shard_00005.parquet answers HTTP 404"):
        get_shards("climbmix", 6)
    p = progress("climbmix:6")
    assert (p["done"], p["total"], p["first"]) == (6, 7, False) and progress("climbmix:5")["first"]
    for n in range(5, FIRST):
        assert not progress("climbmix:200")["first"]
        shard_path("climbmix", n).touch()
    assert progress("climbmix:200")["first"]


BROKEN = {
    "without its end": lambda good: good[:-100],
    "damaged at its beginning": lambda good: good[:4] + bytes(200) + good[204:],
    "no column text": lambda good: shard(1, column="content"),
    "a column text of bytes": lambda good: shard(1, kind="binary"),
    "an error page": lambda good: b"<html>busy</html>",
    "nothing": lambda good: b"",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_shard_must_be_a_whole_parquet_file_with_text(hub, case):
    hub.files[hub.paths[1]] = BROKEN[case](hub.files[hub.paths[1]])
    with pytest.raises(UserError, match="shard_00001.parquet sent is not the right file: it(s column text holds binary| is not a whole parquet file with)"):
        get_shards("climbmix", 2)
    assert not shard_path("climbmix", 1).exists() and whole(hub, 0, 6542)


def test_killed_at_random_moments_and_run_again(hub):
    hub.steps, draw, cut = {path: {"pieces": 2000, "slow": 0.03} for path in hub.paths.values()}, random.Random(3), 0
    command, folder = ["-m", "gpt2course.ops.download", "climbmix:6"], shard_path("climbmix", 0).parent
    for _ in range(3):
        process, before = child(command), len(hub.seen)
        deadline = time.monotonic() + 60
        while len(hub.seen) == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        cut += sum(path.suffix == ".part" for path in folder.glob("shard*"))
        assert all(whole(hub, n) for n in hub.paths if shard_path("climbmix", n).exists())
    first, second = child(command), child(command)  # the second waits for the first
    out = first.communicate(timeout=120)[0], second.communicate(timeout=120)[0]
    assert first.returncode == second.returncode == 0 and whole(hub, *hub.paths), out
    assert cut and not [*folder.glob("*.part")] and any(ranges(hub))


def test_ctrl_c_does_not_wait_for_the_threads(hub):
    hub.steps = {path: {"pieces": 100, "slow": 60} for path in hub.paths.values()}
    process = child(["-m", "gpt2course.ops.download", "climbmix:6"])
    while not hub.seen and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130 and progress("climbmix:6")["done"] == 0
    process.stdout.close()


def test_how_much_is_downloaded(monkeypatch, course_home):
    found = []
    monkeypatch.setattr(download, "get_shards", lambda name, n: found.append((name, n)))
    main("climbmix:3")
    assert found == [("climbmix", 3)]
    for wrong, text in (("climbmix", "Give for example climbmix:30"), ("imagenet", "it must be like climbmix")):
        with pytest.raises(UserError, match=text):
            main(wrong)


# ---- the CORE bundle


def mini_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for path in core_tasks.MINI.rglob("*"):
            z.write(path, path.relative_to(core_tasks.MINI))
    return out.getvalue()


def test_the_core_bundle_must_be_cores(server, course_home, monkeypatch):
    monkeypatch.setenv(download.MIRROR, server.base)
    server.data = mini_zip()
    with pytest.raises(UserError, match="is the bundle mini-CORE"):
        get_core()
    server.data = b"no zip"
    with pytest.raises(UserError, match="is not the right file"):
        get_core()
    server.data, read = mini_zip(), core_tasks.read_bundle
    monkeypatch.setattr(core_tasks, "read_bundle", lambda path: dataclasses.replace(read(path), name="CORE"))
    main("core")
    assert get_core() == course_home / "eval" / "eval_bundle.zip" == core_tasks.default_bundle()
    assert len(server.seen) == 3
