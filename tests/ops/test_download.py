"""Downloads from a server on this machine that misbehaves: the right bytes or the right error, and nothing half-written."""

import errno
import hashlib
import http.server
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2course.ops import download
from gpt2course.ops.download import fetch, mirrored, progress_line
from gpt2course.files import UserError

DATA = random.Random(1).randbytes(300_000)
OTHER = random.Random(2).randbytes(300_000)
digest = lambda data: hashlib.sha256(data).hexdigest()  # noqa: E731
LISTING = ["f", "f.sha256"]  # of the folder after a download


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves server.data with an ETag and ranges; the plan of the server bends one request after another."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.seen.append((self.path, dict(self.headers)))
        step = server.plan.pop(0) if server.plan else {}
        data = step.get("data", server.data)
        etag = step.get("etag", f'"{digest(data)[:16]}"')
        if step.get("drop"):  # no answer at all
            return self.reset()
        if code := step.get("code"):
            self.send_response(code)
            for name, value in step.get("headers", {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        marks = {etag, step.get("modified")} if not step.get("ignore_if_range") else {self.headers.get("If-Range")}
        if wanted and not step.get("ignore_range") and self.headers.get("If-Range") in marks:
            start = int(wanted[1])
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        body = data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", step.get("content_range", f"bytes {start}-{len(data) - 1}/{len(data)}"))
        if etag:
            self.send_header("ETag", etag)
        for name in ("modified", "encoding"):
            if name in step:
                self.send_header({"modified": "Last-Modified", "encoding": "Content-Encoding"}[name], step[name])
        if step.get("chunked"):
            self.send_header("Transfer-Encoding", "chunked")
        elif not step.get("no_length"):
            self.send_header("Content-Length", str(len(body) + step.get("lie", 0)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        body = body[: step.get("cut", len(body))]
        try:
            for at in range(0, len(body), size := step.get("pieces", 1 << 16)):
                piece = body[at : at + size]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if step.get("chunked") else piece)
                time.sleep(step.get("slow", 0))
            if step.get("chunked") and "cut" not in step:
                self.wfile.write(b"0\r\n\r\n")
            time.sleep(step.get("silent", 0))
        except OSError:
            pass  # the client has gone
        if step.get("reset"):
            self.reset()

    def reset(self):
        import socket
        import struct

        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() sends RST
        self.close_connection = True


@pytest.fixture
def server(monkeypatch):
    """A server with data, a plan for its next answers, and what it was asked."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", download.MIRROR):
        monkeypatch.delenv(name, raising=False)
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.data, httpd.plan, httpd.seen = DATA, [], []
    httpd.url = f"http://127.0.0.1:{httpd.server_port}/some/f"
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    return path


class Sleeps(list):
    """A sleep that does not, and remembers for how long it should have."""

    def __call__(self, seconds):
        self.append(seconds)


def listing(folder):
    return sorted(p.name for p in folder.iterdir())


def ranges(server):
    return [headers.get("Range") for _, headers in server.seen]


def half(**more):
    return {"cut": 150_000, **more}


def test_a_download_is_whole_and_its_hash_is_kept(server, folder):
    steps = []
    path = fetch(server.url, folder / "f", progress=lambda *step: steps.append(step))
    assert path == folder / "f" and path.read_bytes() == DATA and listing(folder) == LISTING
    assert (folder / "f.sha256").read_text() == f"{digest(DATA)}  f\n"
    if shutil.which("sha256sum"):
        assert subprocess.run(["sha256sum", "-c", "f.sha256"], cwd=folder, capture_output=True).returncode == 0
    done, total, speed, left = steps[-1]
    assert (done, total, left) == (300_000, 300_000, 0) and speed > 0
    assert [step[0] for step in steps] == sorted({step[0] for step in steps})
    fetch(server.url, folder / "f")
    assert len(server.seen) == 1  # not asked again
    assert server.seen[0][1]["Accept-Encoding"] == "identity"


def test_missing_folders_are_made_and_an_empty_file_is_a_file(server, tmp_path):
    server.data = b""
    path = fetch(server.url, tmp_path / "a" / "b" / "f")
    assert path.read_bytes() == b"" and listing(path.parent) == LISTING


# Each case: the plan, and the ranges that must have been asked for. After it all bytes are right and nothing else is left.
GOOD = {
    "slow": ([{"slow": 0.01, "pieces": 30_000}], [None]),
    "silent": ([half(silent=1.5)], [None, 150_000]),
    "reset half-way": ([half(reset=True)], [None, "some"]),  # a reset may throw away what was on its way
    "closed half-way": ([half()], [None, 150_000]),
    "closed three times": ([{"cut": 100}, {"cut": 100}, {"cut": 100}], [None, 100, 200, 300]),
    "dropped before an answer": ([{"drop": True}], [None, None]),
    "truncated to nothing": ([{"cut": 0}], [None, None]),
    "429 with seconds": ([{"code": 429, "headers": {"Retry-After": "7"}}], [None, None]),
    "429 half-way": ([half(), {"code": 429}], [None, 150_000, 150_000]),
    "503 twice": ([{"code": 503}, {"code": 503}], [None] * 3),
    "500, 502, 504, 408": ([{"code": c} for c in (500, 502, 504, 408)], [None] * 5),
    "length said too long, once": ([{"lie": 5}], [None, 300_000, None]),  # 416: nothing after the end; from the start
    "changed between tries": ([half(data=OTHER)], [None, 150_000]),  # If-Range: the server sends the new file whole
    "changed, and If-Range ignored": ([half(data=OTHER), {"ignore_if_range": True}], [None, 150_000, None]),
    "changed to a shorter file": ([half(data=DATA + OTHER)], [None, 150_000]),
    "changed to a much shorter file": ([{"data": DATA + OTHER, "cut": 400_000}, {"ignore_if_range": True}], [None, 400_000, None]),
    "a range from another place": ([half(), {"content_range": "bytes 149999-299999/300000"}], [None, 150_000, None]),
    "a range of another length": ([half(), {"content_range": "bytes 150000-299999/300001"}], [None, 150_000, None]),
    "a range that says nothing": ([half(), {"content_range": "items 1-2"}], [None, 150_000, None]),
    "ranges ignored": ([half(), {"ignore_range": True}], [None, 150_000]),
    "weak ETag": ([half(etag='W/"1"'), {"etag": 'W/"1"'}], [None, None]),  # says nothing of bytes: from the start
    "no ETag": ([half(etag="")], [None, None]),
    "a date for an ETag": ([half(etag="", modified=formatdate(1e9, usegmt=True)), {"etag": "", "modified": formatdate(1e9, usegmt=True)}], [None, 150_000]),
    "chunked": ([{"chunked": True}], [None]),
    "chunked, cut": ([half(chunked=True)], [None, 150_000, None]),  # its length was unknown: from the start
    "redirect": ([{"code": 302, "headers": {"Location": "/elsewhere"}}], [None, None]),
    "redirect, then half": ([{"code": 307, "headers": {"Location": "/elsewhere"}}, half(), {"code": 301, "headers": {"Location": "/x"}}],
                            [None, None, 150_000, 150_000]),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_a_server_that_misbehaves_for_a_while(server, folder, monkeypatch, capsys, case):
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    plan, asked = GOOD[case]
    server.plan = list(plan)
    sleeps = Sleeps()
    fetch(server.url, folder / "f", sleep=sleeps)
    assert (folder / "f").read_bytes() == DATA and listing(folder) == LISTING
    found = ["some" if want == "some" and have else have and int(have[6:-1]) for have, want in zip(ranges(server), asked)]
    assert found == asked and len(server.seen) == len(asked) and not server.plan
    lines = [line for line in capsys.readouterr().out.splitlines() if "attempt" in line]
    assert len(lines) == len(sleeps)  # every failed attempt is said in a line
    assert case in ("slow", "chunked", "redirect") or sleeps


# Each case: the plan, arguments of fetch, what the error says, requests, and what is left in the folder.
BAD = {
    "404": ([{"code": 404}], {}, "HTTP 404 .*set GPT2COURSE_MIRROR to a mirror, or put the file at .*f$", 1, []),
    "410": ([{"code": 410}], {}, "HTTP 410", 1, []),
    "403": ([{"code": 403}], {}, "HTTP 403 .*token with the right", 1, []),
    "401": ([{"code": 401}], {}, "HTTP 401 .*token with the right", 1, []),
    "404 half-way": ([half(), {"code": 404}], {}, "HTTP 404", 2, ["f.part", "f.part.json"]),
    "204": ([{"code": 204}], {}, "HTTP 204", 1, []),
    "redirect to nowhere": ([{"code": 302, "headers": {"Location": "/x"}}, {"code": 404}], {}, "HTTP 404", 2, []),
    "redirect in circles": ([{"code": 302, "headers": {"Location": "/some/f"}}] * 30, {}, "HTTP 302", None, []),
    "503 for ever": ([{"code": 503}] * 20, {}, "HTTP 503 .*given up after 8 attempts", 8, []),
    "cut for ever": ([{"cut": 150_000}] + [{"cut": 0}] * 20, {}, "ended at 150,000 of 300,000 bytes; given up after 8", 8, ["f.part", "f.part.json"]),
    "length said too long for ever": ([{"lie": 5}] * 99, {}, "given up after 8 attempts", 8, None),
    "changes for ever": ([half(data=DATA[n:] + OTHER) for n in range(20)], {}, "given up after 8 attempts", 8, None),
    "wait an hour": ([{"code": 429, "headers": {"Retry-After": "3600"}}], {}, "HTTP 429 .*asks to wait 1:00:00", 1, []),
    "wrong checksum": ([], {"sha256": digest(OTHER)}, f"sends has sha256 {digest(DATA)}, must have {digest(OTHER)}; it was deleted", 1, []),
    "wrong length": ([half()], {"size": 299_999}, "has 300,000 bytes, must have 299,999", 1, []),  # known before the bytes come
    "length unknown": ([{"no_length": True}], {}, "does not say how long it is", 1, []),
    "silently short": ([{"cut": 150_000, "lie": -150_000}], {"size": 300_000}, "has 150,000 bytes, must have 300,000", 1, []),
    "silently short, hash known": ([{"cut": 150_000, "lie": -150_000}], {"sha256": digest(DATA)}, "has sha256 .*must have", 1, []),
    "compressed": ([{"encoding": "gzip"}], {}, "gzip-compressed", 1, []),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_mended_is_an_error(server, folder, case):
    plan, arguments, says, requests, left = BAD[case]
    server.plan = list(plan)
    with pytest.raises(UserError, match=says) as e:
        fetch(server.url, folder / "f", sleep=Sleeps(), **arguments)
    assert "\n" not in str(e.value) and server.url in str(e.value) and not (folder / "f").exists()
    assert requests is None or len(server.seen) == requests
    assert left is None or listing(folder) == left


def test_a_known_size_stands_in_for_a_length_that_is_not_said(server, folder):
    server.plan = [half(no_length=True)]
    fetch(server.url, folder / "f", sleep=Sleeps(), size=300_000)
    assert (folder / "f").read_bytes() == DATA and ranges(server) == [None, "bytes=150000-"]


def test_starting_again_does_not_count_as_coming_further(server, folder, monkeypatch):
    """A server without ranges that breaks at the same place each time: bounded all the same."""
    monkeypatch.setattr(download, "FURTHER", 10_000)
    server.plan = [{"cut": n, "ignore_range": True} for n in [150_000, 1_000] * 20]
    with pytest.raises(UserError, match="given up after 8"):
        fetch(server.url, folder / "f", sleep=Sleeps())
    assert len(server.seen) == 8


def test_nobody_at_home(server, folder):
    server.shutdown()
    server.server_close()
    sleeps = Sleeps()
    with pytest.raises(UserError, match="no connection.*refused.*given up after 8"):
        fetch(server.url, folder / "f", sleep=sleeps)
    assert listing(folder) == [] and len(sleeps) == 7


def test_waits_double_with_jitter_and_obey_the_server(server, folder, monkeypatch):
    server.plan = [{"code": 503}] * 7
    sleeps = Sleeps()
    fetch(server.url, folder / "f", sleep=sleeps)
    shares = [wait / most for wait, most in zip(sleeps, (1, 2, 4, 8, 16, 32, 60), strict=True)]
    assert all(0.5 <= share <= 1 for share in shares) and max(shares) - min(shares) > 0.01
    soon = formatdate(time.time() + 100, usegmt=True)
    server.plan = [{"code": 429, "headers": {"Retry-After": v}} for v in ("7", soon, "nonsense", formatdate(0, usegmt=True))]
    sleeps = Sleeps()
    fetch(server.url, folder / "g", sleep=sleeps)
    assert sleeps[0] == 7 and 95 < sleeps[1] <= 100 and 2 <= sleeps[2] <= 4 and sleeps[3] == 0


def test_attempts_that_come_further_do_not_count(server, folder, monkeypatch):
    monkeypatch.setattr(download, "FURTHER", 10_000)
    server.plan = [{"cut": 10_000}] * 25
    sleeps = Sleeps()
    fetch(server.url, folder / "f", sleep=sleeps)
    assert (folder / "f").read_bytes() == DATA and len(sleeps) == 25 and max(sleeps) <= 1
    server.plan = [{"cut": 9_999}] * 25
    with pytest.raises(UserError, match="given up after 8"):
        fetch(server.url, folder / "g", sleep=Sleeps())


def test_a_later_call_goes_on(server, folder):
    server.plan = [half(), {"code": 404}]
    with pytest.raises(UserError):
        fetch(server.url, folder / "f", sleep=Sleeps())
    assert (folder / "f.part").read_bytes() == DATA[:150_000]
    fetch(server.url, folder / "f", sleep=Sleeps())
    assert ranges(server)[-1] == "bytes=150000-" and server.seen[-1][1]["If-Range"] == f'"{digest(DATA)[:16]}"'
    assert (folder / "f").read_bytes() == DATA and listing(folder) == LISTING


@pytest.mark.parametrize("memory", [None, "", "[]", "{}", '{"url": 1}', '{"url": "URL", "validator": null, "total": 300000}', '{"url": "http://other/f", "validator": "x", "total": 300000}'])
def test_pieces_of_unknown_origin_are_not_used(server, folder, memory):
    (folder / "f.part").write_bytes(OTHER[:1000])
    if memory is not None:
        (folder / "f.part.json").write_text(memory.replace("URL", server.url))
    fetch(server.url, folder / "f", sleep=Sleeps())
    assert (folder / "f").read_bytes() == DATA and listing(folder) == LISTING and ranges(server) == [None]


def test_pieces_damaged_on_disk_are_thrown_away_once(server, folder):
    server.plan = [half(), {"code": 404}]
    with pytest.raises(UserError):
        fetch(server.url, folder / "f", sleep=Sleeps(), sha256=digest(DATA))
    with open(folder / "f.part", "r+b") as f:
        f.write(b"damage")
    sleeps = Sleeps()
    fetch(server.url, folder / "f", sleep=sleeps, sha256=digest(DATA))
    assert (folder / "f").read_bytes() == DATA and len(sleeps) == 1 and ranges(server)[-2:] == ["bytes=150000-", None]
    assert listing(folder) == ["f"]  # the hash was known: none is kept


def test_whole_but_not_renamed(server, folder):
    """Killed after the last byte: what is there is checked and used, and nothing is asked."""
    (folder / "f.part").write_bytes(DATA)
    (folder / "f.part.json").write_text(json.dumps({"url": server.url, "validator": '"x"', "total": 300_000}))
    fetch(server.url, folder / "f")
    assert not server.seen and (folder / "f").read_bytes() == DATA and listing(folder) == LISTING


def test_the_first_hash_is_kept_and_obeyed(server, folder, capsys):
    path = fetch(server.url, folder / "f")
    path.write_bytes(DATA[:-1])  # damaged on disk: set aside, and got again
    fetch(server.url, path)
    assert "set aside as f.damaged" in capsys.readouterr().out and path.read_bytes() == DATA
    assert listing(folder) == ["f", "f.damaged", "f.sha256"]
    path.unlink()
    server.data = OTHER  # changed at the server: not accepted
    with pytest.raises(UserError, match=r"as at the first download \(if a new version is wanted, delete .*f.sha256\)"):
        fetch(server.url, path)
    assert listing(folder) == ["f.damaged", "f.sha256"]
    (folder / "f.sha256").write_text("no hash")
    with pytest.raises(UserError, match="f.sha256 must begin with a sha256"):
        fetch(server.url, path)
    (folder / "f.sha256").unlink()
    assert fetch(server.url, path).read_bytes() == OTHER


def test_a_file_put_there_by_hand(server, folder):
    (folder / "f").write_bytes(OTHER)
    assert fetch(server.url, folder / "f").read_bytes() == OTHER and not server.seen and listing(folder) == LISTING
    (folder / "g").write_bytes(OTHER)
    fetch(server.url, folder / "g", sha256=digest(DATA))
    assert (folder / "g").read_bytes() == DATA and (folder / "g.damaged").read_bytes() == OTHER


def test_check_is_asked_before_anything_is_kept(server, folder):
    def check(file):
        if file.read_bytes() != OTHER:
            raise UserError("no otter")

    with pytest.raises(UserError, match="sends is not what is wanted: no otter; it was deleted"):
        fetch(server.url, folder / "f", check=check)
    assert listing(folder) == []
    (folder / "f").write_bytes(DATA)
    with pytest.raises(UserError, match="f is not what is wanted: no otter; delete it"):
        fetch(server.url, folder / "f", check=check)
    assert listing(folder) == ["f"] and len(server.seen) == 1  # it is not ours to move
    server.data = OTHER
    (folder / "f").unlink()
    fetch(server.url, folder / "f", check=check)
    assert listing(folder) == LISTING


def test_no_room_keeps_what_has_arrived(server, folder, monkeypatch):
    class Full:
        """The file of held(), on a disk that takes 123,456 bytes, the last write only in part."""

        def __init__(self, f):
            self.f = f

        def __getattr__(self, name):
            return getattr(self.f, name)

        def write(self, data):
            room = 123_456 - os.fstat(self.f.fileno()).st_size
            if room <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.f.write(data[:room])

    held = download.held

    @download.contextlib.contextmanager
    def full(part):
        with held(part) as f:
            yield Full(f)

    monkeypatch.setattr(download, "held", full)
    with pytest.raises(UserError, match=r"no room for .*f \(No space left on device\); what has arrived is kept in f.part"):
        fetch(server.url, folder / "f")
    assert (folder / "f.part").read_bytes() == DATA[:123_456] and listing(folder) == ["f.part", "f.part.json"]
    monkeypatch.setattr(download, "held", held)
    fetch(server.url, folder / "f")
    assert (folder / "f").read_bytes() == DATA and ranges(server) == [None, "bytes=123456-"]


def test_a_really_full_disk(server, tmp_path):
    disk = tmp_path / "small"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    try:
        with pytest.raises(UserError, match="no room for .*No space left"):
            fetch(server.url, disk / "f")
        have = (disk / "f.part").stat().st_size
        assert 100_000 < have < 200 * 1024 and (disk / "f.part").read_bytes() == DATA[:have]
        assert subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], capture_output=True).returncode == 0
        fetch(server.url, disk / "f")
        assert (disk / "f").read_bytes() == DATA and listing(disk) == LISTING and ranges(server) == [None, f"bytes={have}-"]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def child(server, path):
    code = f"from gpt2course.ops.download import fetch; fetch({server.url!r}, {str(path)!r}); print('done', flush=True)"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])


def test_killed_and_started_again(server, folder):
    server.plan = [{"pieces": 1000, "slow": 0.002}] * 3
    sizes = []
    for _ in range(3):
        process = child(server, folder / "f")
        deadline = time.monotonic() + 20
        part, before = folder / "f.part", sizes[-1] if sizes else 0
        while time.monotonic() < deadline and not (part.exists() and part.stat().st_size > before + 20_000):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        sizes.append(part.stat().st_size)
        assert listing(folder) == ["f.part", "f.part.json"] and part.read_bytes() == DATA[: sizes[-1]]
    fetch(server.url, folder / "f")
    assert (folder / "f").read_bytes() == DATA and listing(folder) == LISTING
    assert ranges(server) == [None, *(f"bytes={size}-" for size in sizes)]


def test_two_processes_and_many_threads_download_once(server, folder):
    server.plan = [{"pieces": 10_000, "slow": 0.02}]
    processes = [child(server, folder / "f") for _ in range(2)]
    threads = [threading.Thread(target=fetch, args=(server.url, folder / "f")) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = [process.communicate(timeout=30)[0] for process in processes]
    assert all(process.returncode == 0 and "done" in out for process, out in zip(processes, said))
    assert len(server.seen) == 1 and (folder / "f").read_bytes() == DATA and listing(folder) == LISTING


def test_mirror(server, folder, monkeypatch):
    monkeypatch.setenv("TEST_TOKEN", "secret")
    base = server.url.removesuffix("/some/f")
    monkeypatch.setenv("GPT2COURSE_MIRROR", f"{base}/prefix/")
    fetch("https://far.example/some/f?download=1", folder / "f", token="TEST_TOKEN")
    assert server.seen[0][0] == "/prefix/some/f?download=1" and "Authorization" not in server.seen[0][1]  # not for a mirror
    server.plan = [{"code": 404}]
    with pytest.raises(UserError, match=f"{base}/prefix/some/g answers HTTP 404 .*mend or unset GPT2COURSE_MIRROR"):
        fetch("https://far.example/some/g", folder / "g")
    for wrong in ("mirror.example", "file:///tmp", "https://"):
        monkeypatch.setenv("GPT2COURSE_MIRROR", wrong)
        with pytest.raises(UserError, match="must begin with http:// or https://"):
            mirrored("https://far.example/f")
    monkeypatch.delenv("GPT2COURSE_MIRROR")
    monkeypatch.setenv("OTHER", base)
    assert mirrored("https://far.example/f", "OTHER") == f"{base}/f" and mirrored("https://far.example/f") == "https://far.example/f"
    with pytest.raises(UserError, match="address 'file:///etc/passwd' is not allowed"):
        fetch("file:///etc/passwd", folder / "h")


def test_a_token_goes_to_its_host_alone(server, folder, monkeypatch):
    monkeypatch.setenv("TEST_TOKEN", " secret\n")
    server.plan = [{"code": 302, "headers": {"Location": "/same"}}, {"code": 302, "headers": {"Location": server.url.replace("127.0.0.1", "localhost")}}]
    fetch(server.url, folder / "f", token="TEST_TOKEN")
    assert [headers.get("Authorization") for _, headers in server.seen] == ["Bearer secret", "Bearer secret", None]
    fetch(server.url, folder / "g")
    assert "Authorization" not in server.seen[-1][1]


def test_progress_lines(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(download.time, "monotonic", lambda: now[0])
    progress = progress_line("f")
    for second in range(61):
        now[0] = float(second)
        progress(second * 1_000_000, 60_000_000, 1e6, 60.0 - second)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "f: 15.0 of 60.0 MB (25%)  1.0 MB/s  left 45.0 s" and len(lines) == 4
    progress(1_000_000, None, 0.0, None)
    now[0] += 15
    progress(2_000_000, None, 1e6, None)
    assert capsys.readouterr().out == "f: 2.0 MB  1.0 MB/s\n"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_mix_of_misbehaviour_ends_with_the_right_bytes_or_an_error(server, tmp_path_factory, data):
    """Never with other bytes, and never with a file where there was an error."""
    bend = st.fixed_dictionaries({}, optional={
        "cut": st.integers(0, 5000), "code": st.sampled_from([429, 500, 503, 404]), "ignore_range": st.booleans(), "drop": st.booleans(),
        "etag": st.sampled_from(["", 'W/"x"']), "chunked": st.booleans(), "data": st.just(OTHER[:4000]), "reset": st.booleans(),
    })  # fmt: skip
    server.data, server.plan = DATA[:5000], data.draw(st.lists(bend, max_size=6))
    folder = tmp_path_factory.mktemp("mix")
    for _ in range(4):
        try:
            fetch(server.url, folder / "f", sleep=Sleeps())
        except UserError:
            assert not (folder / "f").exists()
            continue
        assert (folder / "f").read_bytes() in (DATA[:5000], OTHER[:4000]) and listing(folder) == LISTING
        return
    assert server.plan  # only a plan that is not used up excuses four failures
