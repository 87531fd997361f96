"""Shards from a server on this machine that misbehaves: the right bytes or the right error, never a silently short corpus.

`CASES` is a table of (what the server does to which request, what must come of it). After every error the same download, from a
server that has come to its senses, must end with the right bytes.
"""

import collections
import dataclasses
import errno
import hashlib
import http.server
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2course import data, recipes
from gpt2course.ops import download, jobs, shards
from gpt2course.batches import Batches, Prefetch
from gpt2course.files import UserError, read_json, write_json
from gpt2course.tokenizer import Tokenizer

REPOSITORY = "/datasets/karpathy/climbmix-400b-shuffle/resolve/main/"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def shard(number: int, documents: int = 120, characters: int = 500) -> bytes:
    """A small shard of its own text that does not compress well."""
    r, out = random.Random(number), io.BytesIO()
    texts = [f"shard {number} document {i} " + r.randbytes(r.randrange(characters)).hex() for i in range(documents)]
    pq.write_table(pa.table({"text": texts}), out, row_group_size=30, compression="zstd", use_dictionary=False, write_statistics=False)
    return out.getvalue()


def table(**columns) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


FILES = {f"shard_{n:05d}": shard(n) for n in (0, 1, 2, 3, 4, 6542)}
ONE, VAL = "shard_00001", "shard_06542"
SIZE = len(FILES[ONE])


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves server.files with ETags and ranges, the last bytes too; server.plan bends requests, by shard and kind (end or all)."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range", "")
        name, kind = self.path.rpartition("/")[2].removesuffix(".parquet"), "end" if re.fullmatch(r"bytes=\d+-\d+", wanted) else "all"
        server.seen.append((name, kind, self.path, dict(self.headers)))
        plan = server.plan.get((name, kind), [])
        step = (plan.pop(0) if isinstance(plan, list) and plan else plan) or {}
        step = {} if self.path.startswith("/cdn/") and step.get("code") == 302 else step
        content = step.get("data", server.files.get(name, b""))
        etag, size, headers = f'"{digest(content)[:16]}"', len(content), {}
        if "hold" in step:
            step["hold"].wait(30)
        if step.get("drop"):
            return self.reset()
        if name not in server.files or "code" in step:
            return self.answer(step.get("code", 404), step.get("headers", {}), b"")
        start, stop = 0, size
        if (m := re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)) and not step.get("no_ranges"):
            start, stop = int(m[1]), min(size, int(m[2]) + 1)
        elif (m := re.fullmatch(r"bytes=(\d+)-", wanted)) and not step.get("no_ranges") and self.headers.get("If-Range") == etag:
            start = int(m[1])
        if m and (start >= size):
            return self.answer(416, {}, b"")
        ranged = m and not step.get("no_ranges") and (kind == "end" or start)
        if ranged:
            headers["Content-Range"] = step.get("content_range", f"bytes {start}-{stop - 1}/{size + step.get('total', 0)}")
        headers |= {"ETag": etag} | ({"Content-Encoding": step["encoding"]} if "encoding" in step else {})
        self.answer(206 if ranged else 200, headers, content[start:stop], step)

    def answer(self, code, headers, body, step=None):
        step = step or {}
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key, value)
        if step.get("chunked"):
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body) + step.get("lie", 0)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        body = body[: step.get("cut", len(body))]
        try:
            for at in range(0, len(body), pieces := step.get("pieces", 1 << 16)):
                piece = body[at : at + pieces]
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
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() sends RST
        self.close_connection = True


def serve(handler=Hub):
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    httpd.daemon_threads = True
    httpd.files, httpd.plan, httpd.seen = dict(FILES), {}, []
    httpd.url = f"http://127.0.0.1:{httpd.server_port}"
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    return httpd


@pytest.fixture
def hub(monkeypatch, course_home):
    """A server in the place of huggingface.co, for this process and those it starts, and an empty home."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", shards.TOKEN):
        monkeypatch.delenv(name, raising=False)
    httpd = serve()
    monkeypatch.setenv(download.MIRROR, httpd.url)
    monkeypatch.setattr(shards, "END", 300)  # less than the footers of these shards, so that they are asked for twice
    monkeypatch.setattr(shards, "LOOK", 0.02)
    monkeypatch.setattr(download, "TIMEOUT", 1.0)
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # nobody pulls the plug here, and it takes most of the time
    yield httpd
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def folder(course_home):
    return course_home / "data" / "climbmix"


def quick(seconds):
    """A sleep that does not."""


def get(n=3, **more):
    return shards.get("climbmix", n, sleep=quick, **more)


def on_disk(folder) -> dict:
    return {p.stem: p.read_bytes() for p in folder.glob("shard_*.parquet")}


def whole(folder, n=3, files=FILES) -> None:
    """Exactly the right bytes under the right names, with their hashes, and nothing half-made."""
    names = [f"shard_{i:05d}" for i in range(n)] + [VAL]
    assert on_disk(folder) == {name: files[name] for name in names}
    for name in names:
        assert (folder / f"{name}.parquet.sha256").read_text() == f"{digest(files[name])}  {name}.parquet\n"
    assert not list(folder.glob("shard_*.part*")) and read_json(folder / "plan.json")["val"]["name"] == VAL
    texts = [text for name in names[:-1] for text in pq.read_table(io.BytesIO(files[name])).column("text").to_pylist()]
    corpus = data.load_corpus("climbmix")
    assert list(corpus.train) == texts and list(corpus.val) == pq.read_table(io.BytesIO(files[VAL])).column("text").to_pylist()


OTHER = shard(77)
SWAPPED = shard(1)[:200] + bytes(20) + shard(1)[220:]  # same size, same footer, damaged within
HTML = b"<!doctype html><title>Sign in to the network</title>" * 30
half = {"cut": SIZE // 2}
RIGHT = None
MENDED = "once more"  # right in the end, after a shard was tried again
linked = lambda content, size=None: {"X-Linked-Size": str(size or len(content)), "X-Linked-ETag": f'"{digest(content)}"'}  # noqa: E731
away = lambda content, size=None: {"code": 302, "headers": {"Location": "/cdn/shard_00001.parquet", **linked(content, size)}}  # noqa: E731

# Each case: steps for the requests for the end of shard 1 (its footer), steps for those for all of it (a dict: always), and what must
# come of it: RIGHT, or MENDED, or what the error says. Steps for another shard stand in a fourth place.
CASES = {
    # --- the shard itself: what passes
    "slow": ([], [{"slow": 0.01, "pieces": 8000}], RIGHT),
    "silent half-way": ([], [{**half, "silent": 1.5}], RIGHT),
    "reset half-way": ([], [{**half, "reset": True}], RIGHT),
    "reset again and again": ([], [{"cut": 3000, "reset": True}] * 6, RIGHT),
    "closed half-way": ([], [half], RIGHT),
    "closed three times": ([], [{"cut": 9000}] * 3, RIGHT),
    "closed at once": ([], [{"cut": 0}], RIGHT),
    "dropped before an answer": ([], [{"drop": True}] * 2, RIGHT),
    "429": ([], [{"code": 429}] * 2, RIGHT),
    "429 with Retry-After": ([], [{"code": 429, "headers": {"Retry-After": "7"}}], RIGHT),
    "503": ([], [{"code": 503}] * 3, RIGHT),
    "503 with Retry-After as a date": ([], [{"code": 503, "headers": {"Retry-After": formatdate(time.time() + 60, usegmt=True)}}], RIGHT),
    "503 half-way": ([], [half, {"code": 503}], RIGHT),
    "500, 502, 504": ([], [{"code": 500}, {"code": 502}, {"code": 504}], RIGHT),
    "chunked": ([], [{"chunked": True}], RIGHT),
    "ranges ignored half-way": ([], [half, {"no_ranges": True}], RIGHT),
    "changed between two parts, and back": ([], [{**half, "data": SWAPPED}], RIGHT),
    "redirect": ([], [{"code": 302, "headers": {"Location": "/cdn/shard_00001.parquet"}}], RIGHT),
    "redirect, then reset": ([], [{"code": 307, "headers": {"Location": "/cdn/shard_00001.parquet"}}, {**half, "reset": True}], RIGHT),
    # --- what is wrong once, and right when the shard is tried again after the others
    "Content-Length too long, once": ([], [{"lie": 5}], MENDED),
    "Content-Length too short, once": ([], [{"lie": -5}], MENDED),
    "too short, once": ([], [{"data": FILES[ONE][:-1000]}], MENDED),
    "too long, once": ([], [{"data": FILES[ONE] + b"x"}], MENDED),
    "another shard, once": ([], [{"data": OTHER}], MENDED),
    "truncated footer, once": ([], [{"data": FILES[ONE][:-4]}], MENDED),
    "damaged footer, once": ([], [{"data": FILES[ONE][:-8] + bytes(8)}], MENDED),
    "HTML, once": ([], [{"data": HTML}], MENDED),
    "gzip, once": ([], [{"encoding": "gzip"}], MENDED),
    "404, once": ([], [{"code": 404}], MENDED),
    "redirect to nowhere, once": ([], [{"code": 302, "headers": {"Location": "/cdn/none"}}], MENDED),
    "wait an hour, once": ([], [{"code": 429, "headers": {"Retry-After": "3600"}}], MENDED),
    # --- what stays wrong
    "503 for ever": ([], {"code": 503}, "HTTP 503 .*given up after 8 attempts"),
    "429 for ever": ([], {"code": 429}, "HTTP 429 .*given up after 8 attempts"),
    "wait an hour": ([], {"code": 503, "headers": {"Retry-After": "3600"}}, "asks to wait 1:00:00"),
    "reset for ever": ([], {"cut": 10, "reset": True}, "given up after 8 attempts"),
    "404": ([], {"code": 404}, "HTTP 404 .*mend or unset GPT2COURSE_MIRROR"),
    "403": ([], {"code": 403}, "HTTP 403 .*token with the right"),
    "Content-Length too long": ([], {"lie": 5}, f"has {SIZE + 5:,} bytes, must have {SIZE:,}"),
    "Content-Length too short": ([], {"lie": -5}, f"has {SIZE - 5:,} bytes, must have {SIZE:,}"),
    "too short": ([], {"data": FILES[ONE][: SIZE // 2]}, f"has {SIZE // 2:,} bytes, must have {SIZE:,}"),
    "too long": ([], {"data": FILES[ONE] * 2}, f"has {2 * SIZE:,} bytes, must have {SIZE:,}"),
    "truncated footer": ([], {"data": FILES[ONE][:-4]}, f"has {SIZE - 4:,} bytes, must have"),
    "damaged footer": ([], {"data": FILES[ONE][:-8] + bytes(8)}, "is not what is wanted: .*is not a whole parquet file"),
    "changed for good between two parts": ([], [half] + [{"data": OTHER}] * 9, f"has {len(OTHER):,} bytes, must have {SIZE:,}"),
    "changed to the same size, hash known": (away(FILES[ONE]), {"data": SWAPPED}, f"has sha256 {digest(SWAPPED)}, must have {digest(FILES[ONE])}; it was deleted"),
    "HTML": ([], {"data": HTML}, "bytes, must have"),
    "HTML of the right size": ([], {"data": (HTML * 99)[:SIZE]}, "is not a whole parquet file"),
    "gzip": ([], {"encoding": "gzip"}, "sends gzip-compressed bytes, must send plain ones"),
    "br": ([], {"encoding": "br"}, "sends br-compressed bytes"),
    "redirect in a loop": ([], {"code": 302, "headers": {"Location": REPOSITORY + "shard_00001.parquet"}}, "HTTP 302"),
    "redirect to nowhere": ([], {"code": 302, "headers": {"Location": "/cdn/none"}}, "HTTP 404"),
    # --- the footer: what passes
    "end: slow": ([{"slow": 0.01, "pieces": 100}], [], RIGHT),
    "end: reset": ([{}] + [{"cut": 100, "reset": True}] * 3, [], RIGHT),
    "end: closed": ([{"cut": 0}, {}, {"cut": 100}], [], RIGHT),
    "end: dropped": ([{"drop": True}], [], RIGHT),
    "end: 429 with Retry-After": ([{"code": 429, "headers": {"Retry-After": "3"}}], [], RIGHT),
    "end: 503": ([{"code": 503}] * 3, [], RIGHT),
    "end: redirect that knows size and hash": (away(FILES[ONE]), [away(FILES[ONE])], RIGHT),
    "end: no parts of a file": ({"no_ranges": True}, [], RIGHT),
    "end: no parts, reset": ({"no_ranges": True}, [{**half, "reset": True, "no_ranges": True}], RIGHT),
    # --- the footer: what does not pass
    "end: 503 for ever": ({"code": 503}, [], "HTTP 503 .*given up after 8 attempts"),
    "end: wait an hour": ({"code": 429, "headers": {"Retry-After": "3600"}}, [], "asks to wait 1:00:00"),
    "end: 404": ({"code": 404}, [], "HTTP 404"),
    "end: 401": ({"code": 401}, [], "HTTP 401 .*token with the right"),
    "end: truncated footer": ({"data": FILES[ONE][:-4]}, [], "shard_00001.parquet is not a whole parquet file .*; set GPT2COURSE_MIRROR to another mirror"),
    "end: half a shard": ({"data": FILES[ONE][: SIZE // 2]}, [], "is not a whole parquet file"),
    "end: bytes missing in the middle": ({"data": FILES[ONE][:4] + FILES[ONE][5000:]}, [], "bytes are missing in row group"),
    "end: empty": ({"data": b""}, [], "shard_00001.parquet is empty"),
    "end: HTML": ({"data": HTML}, [], "is not a whole parquet file"),
    "end: HTML, no parts": ({"data": HTML, "no_ranges": True}, {"data": HTML}, "is not what is wanted: .*is not a whole parquet file"),
    "end: gzip": ({"encoding": "gzip"}, [], "sends gzip-compressed bytes"),
    "end: another range": ({"content_range": f"bytes 0-299/{SIZE}"}, [], "sends 'bytes 0-299/.* for bytes 0 to 0 of the file"),
    "end: a total that lies": ({"total": 5}, [], "sends 'bytes .* for bytes .* of the file"),
    "end: a range that says nothing": ({"content_range": "items 1-2"}, [], "sends 'items 1-2'"),
    "end: grows while it is looked at": ([{}, {"data": FILES[ONE] + FILES[ONE]}], [], "is empty, or shorter than it was a moment ago"),
    "end: shrinks while it is looked at": ([{}] + [{"data": FILES[ONE][:1000]}] * 2, [], "is empty, or shorter than it was a moment ago"),
    "end: two sizes": (away(FILES[ONE], SIZE + 1), [], f"has {SIZE:,} bytes, must have {SIZE + 1} as it says itself"),
    "end: a hash that is not the file's": (away(OTHER, SIZE), [], f"has sha256 {digest(FILES[ONE])}, must have {digest(OTHER)}"),
    "end: no column text": ({"data": table(body=["x"])}, [], "has no column 'text'"),
    "end: a column of numbers": ({"data": table(text=[1])}, [], "column 'text' is of type int64"),
    "end: no documents": ({"data": table(text=pa.array([], pa.string()))}, [], "holds no documents"),
    "end: redirect in a loop": ({"code": 302, "headers": {"Location": REPOSITORY + "shard_00001.parquet"}}, [], "HTTP 302"),
    # --- the validation shard comes first and is needed
    "validation: reset": ([], [], RIGHT, {(VAL, "all"): [{"cut": 5000, "reset": True}] * 3}),
    "validation: 404": ([], [], "HTTP 404", {(VAL, "end"): {"code": 404}}),
    "validation: 404 when it is fetched": ([], [], "HTTP 404", {(VAL, "all"): {"code": 404}}),
    "validation: damaged": ([], [], "is not what is wanted", {(VAL, "all"): {"data": FILES[VAL][:-8] + bytes(8)}}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_right_bytes_or_the_right_error(hub, folder, capsys, case):
    end, all_, says, *others = CASES[case]
    copy = lambda plan: list(plan) if isinstance(plan, list) else plan  # noqa: E731
    hub.plan = {(ONE, "end"): copy(end), (ONE, "all"): copy(all_), **(others[0] if others else {})}
    hub.plan = {key: copy(plan) for key, plan in hub.plan.items()}
    if says in (RIGHT, MENDED):
        p = get()
        assert (p["state"], p["shards_done"], p["shards"], p["failed"]) == ("complete", 4, 4, {}) and p["bytes_done"] == p["bytes"]
        assert ("once more: shard_00001" in capsys.readouterr().out) == (says == MENDED)
    else:
        with pytest.raises(UserError, match=says) as e:
            get()
        assert "\n" not in str(e.value)
        assert all(FILES[name] == content for name, content in on_disk(folder).items()) and not (folder / f"{ONE}.parquet").exists() * (VAL not in case)
        hub.plan = {}
        if (folder / "plan.json").exists() and "hash" in case:
            assert shards.progress("climbmix")["state"] == "failed"
        if "hash that is not" in case:  # the plan itself is wrong then
            (folder / "plan.json").unlink()
        get()
    whole(folder)


def test_cases_are_counted(capsys):
    kinds = collections.Counter("right bytes" if says is RIGHT else "right bytes at the second go" if says is MENDED else "right error" for _, _, says, *_ in CASES.values())
    with capsys.disabled():
        print(f"\n{len(CASES)} ways of a server to misbehave: {', '.join(f'{n} {kind}' for kind, n in kinds.items())}")
    assert len(CASES) >= 80


def test_what_a_server_is_asked(hub, folder, monkeypatch, capsys):
    get(2)
    whole(folder, 2)
    assert {(name, kind) for name, kind, *_ in hub.seen} == {(name, kind) for name in ("shard_00000", ONE, VAL) for kind in ("end", "all")}
    assert next(name for name, kind, *_ in hub.seen if kind == "all") == VAL  # validation first
    assert all(path == f"{REPOSITORY}{name}.parquet" for name, _, path, _ in hub.seen)
    asked = len(hub.seen)
    get(2)  # all there: nothing is asked
    assert len(hub.seen) == asked
    get(3)  # more: only what is new
    assert [name for name, *_ in hub.seen[asked:]] == ["shard_00002"] * 4 and len(read_json(folder / "plan.json")["shards"]) == 3
    get(1)  # less: what was promised stays
    whole(folder, 3)
    if shutil.which("sha256sum"):
        assert subprocess.run("sha256sum -c *.sha256", shell=True, cwd=folder, capture_output=True).returncode == 0


def test_a_token_goes_to_its_host_alone(hub, folder, monkeypatch):
    """HF_TOKEN for the hub; not for where it sends us, nor for a mirror."""
    cdn = serve()
    monkeypatch.setenv(shards.TOKEN, "secret")
    get(1)
    assert {headers.get("Authorization") for *_, headers in hub.seen} == {None}  # a mirror so far
    monkeypatch.delenv(download.MIRROR)
    monkeypatch.setattr(shards, "HUB", hub.url)
    step = {"code": 302, "headers": {"Location": cdn.url.replace("127.0.0.1", "localhost") + "/cdn/shard_00001.parquet", **linked(FILES[ONE])}}
    hub.plan, hub.seen = {(ONE, "end"): step, (ONE, "all"): step}, []
    get(2)
    whole(folder, 2)
    assert {headers.get("Authorization") for *_, headers in hub.seen} == {"Bearer secret"} and {headers.get("Authorization") for *_, headers in cdn.seen} == {None}
    assert {name for name, *_ in cdn.seen} == {ONE} and read_json(folder / "plan.json")["shards"][1]["sha256"] == digest(FILES[ONE])
    cdn.shutdown(), cdn.server_close()


def test_the_pinned_validation_shard(hub, folder, monkeypatch):
    """A hash known beforehand: no other validation shard is taken, from a server that says its hash, one that does not, or from disk."""
    known = shards.SHARD_CORPORA["climbmix"]

    def pin(content):
        monkeypatch.setitem(shards.SHARD_CORPORA, "climbmix", dataclasses.replace(known, val_sha256=digest(content)))

    pin(OTHER)
    with pytest.raises(UserError, match=f"has sha256 {digest(FILES[VAL])}, must have {digest(OTHER)}; it was deleted"):
        get()
    assert on_disk(folder) == {}  # nothing to train on without it
    (folder / "plan.json").unlink()
    hub.plan[VAL, "end"] = {"code": 302, "headers": {"Location": f"/cdn/{VAL}.parquet", **linked(FILES[VAL])}}
    with pytest.raises(UserError, match=f"has sha256 {digest(FILES[VAL])}, must have {digest(OTHER)}, the one pinned for validation"):
        get()
    hub.plan = {}
    folder.joinpath(f"{VAL}.parquet").write_bytes(OTHER)
    pin(FILES[VAL])
    get()
    assert (folder / f"{VAL}.parquet").read_bytes() == FILES[VAL] and not (folder / f"{VAL}.parquet.part").exists()
    pin(OTHER)
    with pytest.raises(UserError, match="another validation shard than the one pinned"):
        get()


def test_a_changed_data_set_is_not_taken_for_the_old_one(hub, folder):
    get(1)
    hub.files["shard_00000"] = swapped = FILES["shard_00000"][:200] + bytes(20) + FILES["shard_00000"][220:]
    (folder / "shard_00000.parquet").unlink()
    with pytest.raises(UserError, match="as at the first download"):
        get(1)
    (folder / "plan.json").unlink()
    hub.plan = {("shard_00000", "end"): {"code": 302, "headers": {"Location": "/cdn/shard_00000.parquet", **linked(swapped)}}}
    with pytest.raises(UserError, match=r"must have .*, at the first download \(.*shard_00000.parquet.sha256\)"):
        get(1)


def test_damage_on_disk_is_found_and_mended(hub, folder, capsys):
    get()
    assert shards.verify("climbmix") == {}
    path = folder / f"{ONE}.parquet"
    path.write_bytes(SWAPPED)  # size and footer as they were
    (folder / "shard_00002.parquet").write_bytes(FILES["shard_00002"][:-5])
    (folder / f"{VAL}.parquet").unlink()
    p = shards.progress("climbmix")
    assert (p["state"], p["shards_done"], p["shards"]) == ("stopped", 2, 4)  # of the wrong size, or not there
    wrong = shards.verify("climbmix")
    assert list(wrong) == [VAL, ONE, "shard_00002"] and "has sha256" in wrong[ONE] and "bytes, must have" in wrong["shard_00002"] and wrong[VAL] == "is missing"
    with pytest.raises(UserError, match="3 of 4 shards of climbmix are wrong or missing: .*shards get climbmix --shards 3"):
        shards.main(shards.Verify("climbmix"))
    get()
    assert on_disk(folder).items() >= {name: FILES[name] for name in (ONE, VAL, "shard_00002")}.items() and shards.verify("climbmix") == {}
    assert "set aside as shard_00001.parquet.damaged" in capsys.readouterr().out
    assert shards.clean("climbmix") == (2, len(SWAPPED) + len(FILES["shard_00002"]) - 5)
    whole(folder)


# ---- room, kills, company


def test_room_is_looked_at_before(hub, folder, monkeypatch):
    total = sum(len(FILES[name]) for name in (VAL, "shard_00000", ONE, "shard_00002"))
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda path: usage(10**9, 0, total - 1))
    with pytest.raises(UserError, match="has no room for 4 more shards: they need .* GB, .* GB are free; make room"):
        get()
    with pytest.raises(UserError, match="has no room"):
        shards.ensure("climbmix:3")
    assert on_disk(folder) == {} and all(kind == "end" for _, kind, *_ in hub.seen)
    (folder / f"{ONE}.parquet.part").write_bytes(b"x")  # what has arrived need not arrive again
    assert get()["state"] == "complete"


def test_a_disk_that_fills_up(hub, folder, monkeypatch):
    room, held = [4000], download.held

    class Full:
        def __init__(self, f):
            self.f = f

        def __getattr__(self, name):
            return getattr(self.f, name)

        def write(self, content):
            if room[0] <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            room[0] -= (n := self.f.write(content[: room[0]]))
            return n

    @download.contextlib.contextmanager
    def full(part):
        with held(part) as f:
            yield Full(f)

    monkeypatch.setattr(download, "held", full)
    for room[0] in (4000, 4 * SIZE // 3):  # in the validation shard, and in the others
        with pytest.raises(UserError, match=r"no room for .*parquet \(No space left on device\); what has arrived is kept"):
            get(workers=2)
        assert shards.progress("climbmix")["state"] == "failed" and all(FILES[name] == content for name, content in on_disk(folder).items())
    monkeypatch.setattr(download, "held", held)
    before = len(hub.seen)
    get()
    whole(folder)
    assert any("Range" in headers for *_, headers in hub.seen[before:])


def test_a_really_full_disk(hub, folder, monkeypatch):
    folder.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    try:
        with pytest.raises(UserError, match="has no room for 4 more shards"):
            get()
        with monkeypatch.context() as m, pytest.raises(UserError, match="no room for .*No space left"):  # somebody else fills it
            m.setattr(shards, "check_room", lambda *_: None)
            get()
        assert all(FILES[name] == content for name, content in on_disk(folder).items())
        assert subprocess.run(["mount", "-o", "remount,size=4m", str(folder)], capture_output=True).returncode == 0
        get()
        whole(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def child(*argv):
    return subprocess.Popen([sys.executable, "-m", "gpt2course.ops.shards", *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=Path(__file__).parents[1],
                            env=jobs.environment())  # fmt: skip


def test_killed_at_random_moments_and_run_again(hub, folder):
    hub.files = {name: shard(int(name[6:]), 400, 2000) for name in FILES}  # about half a megabyte each
    slow = {"slow": 0.01, "pieces": 10_000}
    hub.plan = {(name, "all"): slow for name in FILES}
    r, before = random.Random(5), -1
    for _ in range(6):
        process = child("get", "climbmix", "--shards", "4", "--workers", "3")
        deadline, more = time.monotonic() + 30, r.randrange(20_000, 300_000)
        arrived = lambda: sum(p.stat().st_size for p in folder.glob("shard_*.parquet*") if not p.name.endswith((".sha256", ".json")))  # noqa: E731
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if arrived() > before + more:
                    break
            except FileNotFoundError:  # renamed while we looked
                pass
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert all(hub.files[name] == content for name, content in on_disk(folder).items())
        before = arrived()
    assert before > 100_000 and shards.progress("climbmix")["state"] in ("stopped", "complete")
    hub.plan, asked = {}, len(hub.seen)
    get(4)
    whole(folder, 4, hub.files)
    assert any(headers.get("Range", "").startswith("bytes=") for _, kind, _, headers in hub.seen if kind == "all")  # resumed
    assert not [name for name, kind, *_ in hub.seen[asked:] if kind == "end"]  # the plan had been kept
    shards.clean("climbmix")
    assert not list(folder.glob(".shard_*.tmp"))  # left where a kill fell between writing and renaming


def test_two_downloaders_at_once(hub, folder):
    hub.plan = {(name, "all"): [{"slow": 0.02, "pieces": 5000}] for name in FILES}
    processes = [child("get", "climbmix", "--shards", str(n)) for n in (2, 4)]
    outs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outs
    whole(folder, 4)
    assert collections.Counter(name for name, kind, *_ in hub.seen if kind == "all").most_common(1)[0][1] == 1  # nothing twice
    assert any("waiting for it" in out for out in outs)


# ---- a corpus that is on its way


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([f"shard {i} document {i} " + random.Random(i).randbytes(50).hex() for i in range(50)], 280)


def rows_of(tokenizer, n=150, state=None):
    loader = Batches(data.load_corpus("climbmix").train, tokenizer, 64, streams=2, buffer_docs=20)
    if state:
        loader.load_state_dict(state)
    return loader.next_rows(n), loader


def test_rows_do_not_depend_on_what_has_arrived(hub, folder, tokenizer, capsys):
    """The same rows and states from a corpus that arrives in any order while it is read, and a resume in the middle of it."""
    get()
    rows, loader = rows_of(tokenizer)
    state, more = loader.state_dict(), loader.next_rows(50)
    length = len(data.load_corpus("climbmix").train)
    for path in folder.glob("shard_*"):
        path.unlink()
    with pytest.raises(UserError, match="shard_00000.parquet is not there, and nobody is downloading it; .*shards get climbmix --shards 3"):
        rows_of(tokenizer)
    capsys.readouterr()

    def arrive():
        for name in ("shard_00002", VAL, ONE, "shard_00000"):
            time.sleep(0.1)
            (folder / f"{name}.parquet").write_bytes(FILES[name])

    meter = shards.Meter("climbmix")  # somebody is at work: this process
    meter.plan([])
    thread = threading.Thread(target=arrive)
    thread.start()
    opened = data.load_corpus("climbmix")
    assert len(opened.train) == length and "4 shards were still on the way" in str(opened.notes)
    assert (rows_of(tokenizer)[0] == rows).all() and not (thread.join())
    said = [text for text in capsys.readouterr().out.splitlines() if text.startswith("waiting for shard_00000")]
    assert len(said) == 1 and re.search(r"\d of 4 shards, .* GB, downloading at \d+\.\d MB/s; .* tokens to train on are on disk", said[0])
    for path in folder.glob("shard_*"):
        path.unlink()
    thread = threading.Thread(target=arrive)
    thread.start()
    again, loader = rows_of(tokenizer, 50, state)
    assert (again == more).all()
    thread.join()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations([0, 1, 2, 6542]), st.integers(0, 4))
def test_any_order_of_arrival_gives_the_documents_of_the_plan(hub, folder, order, here):
    shutil.rmtree(folder, ignore_errors=True)
    shards.make_plan("climbmix", 3)
    shards.Meter("climbmix").plan([])
    for n in order[:here]:
        (folder / f"shard_{n:05d}.parquet").write_bytes(FILES[f"shard_{n:05d}"])
    corpus, found = data.load_corpus("climbmix"), []
    reader = threading.Thread(target=lambda: found.extend([*corpus.train, *corpus.val]))
    reader.start()
    for n in order[here:]:
        time.sleep(0.01)
        (folder / f"shard_{n:05d}.parquet").write_bytes(FILES[f"shard_{n:05d}"])
    reader.join()
    assert found == [text for name in ("shard_00000", ONE, "shard_00002", VAL) for text in pq.read_table(io.BytesIO(FILES[name])).column("text").to_pylist()]


def test_ensure_downloads_in_the_background(hub, folder, tokenizer):
    """A reader waits for what it needs next and for no more: the last shard is held back until the others have been read."""
    hold = threading.Event()
    hub.plan = {("shard_00003", "all"): {"hold": hold}}
    p = shards.ensure("climbmix:4")
    assert (p["corpus"], p["state"], p["shards"]) == ("climbmix:4", "downloading", 5) and p["shards_done"] < 5
    pid = jobs.living(folder / ".get", "download")["pid"]
    corpus = data.load_corpus("climbmix:4")
    feed = Prefetch(Batches(corpus.train, tokenizer, 64, streams=2, buffer_docs=20), 8)
    before = [feed.next()[0] for _ in range(20)]
    p = shards.progress("climbmix:4")
    assert (p["state"], p["shards_done"]) == ("downloading", 4) and not (folder / "shard_00003.parquet").exists()
    assert shards.ensure("climbmix:4")["state"] == "downloading"  # somebody is at it already
    hold.set()
    after = [feed.next()[0] for _ in range(60)]
    feed.close()
    assert shards.wait("climbmix:4")["state"] == "complete"
    jobs.children[pid].wait(30)
    assert sum(kind == "all" for _, kind, *_ in hub.seen) == 5  # one process did it all
    whole(folder, 4)
    now = Batches(data.load_corpus("climbmix:4").train, tokenizer, 64, streams=2, buffer_docs=20).next_rows(8 * 80)
    assert (now == [row.tolist() for batch in before + after for row in batch]).all()
    assert "not read" not in str(corpus.notes) and "not read" not in str(data.load_corpus("climbmix").notes)  # what is kept beside the shards is known


def test_training_on_a_corpus_that_is_on_its_way(hub, folder):
    """A run begun while the shards arrive, stopped and resumed, is the run on a corpus that is all there."""
    from gpt2course.train import Train, read_metrics, train

    size = ("depth=1", "width=32", "head_dim=16", "sequence_len=32", "vocab_size=300", "batch_tokens=128", "steps=6", "eval_bytes=2000")
    make = lambda **more: train(Train("modern", corpus="climbmix:3", set=size, streams=2, device="cpu", eval_every=2, log_seconds=1e9, **more))  # noqa: E731
    hub.plan = {(name, "all"): {"slow": 0.05, "pieces": 8000} for name in FILES}
    shards.ensure("climbmix:3")
    make(name="early", stop_after=3)
    runs = [read_metrics(make(name=name)) for name in ("early", "late")]
    curves = [[(m["kind"], m["step"], m.get("loss"), m.get("val_bpb")) for m in run if m["kind"] in ("train", "eval")] for run in runs]
    assert curves[0] == curves[1] and len(curves[0]) > 6
    assert "still on the way" in str(read_json(folder.parents[1] / "runs" / "early" / "config.json")["corpus_notes"])
    jobs.children[read_json(folder / ".get" / "stages" / "download.pid")["pid"]].wait(30)


def test_a_download_that_fails_ends_the_wait(hub, folder):
    hub.plan = {("shard_00002", "all"): {"code": 404}}
    shards.ensure("climbmix:3")
    corpus = data.load_corpus("climbmix:3")
    with pytest.raises(UserError, match="shard_00002.parquet is not there, and the download failed: .*HTTP 404 .*to go on: python -m gpt2course.ops.shards get climbmix --shards 3"):
        list(corpus.train)
    assert shards.progress("climbmix")["failed"].keys() == {"shard_00002"}
    hub.plan = {}
    assert shards.wait(shards.ensure("climbmix:3")["corpus"])["state"] == "complete"
    assert list(corpus.train) == list(data.load_corpus("climbmix").train)  # the reader that was open goes on


def test_a_downloader_that_was_killed_ends_the_wait(hub, folder):
    hub.plan = {(ONE, "all"): {"slow": 1, "pieces": 1000}}
    shards.ensure("climbmix:2")
    pid = jobs.living(folder / ".get", "download")["pid"]
    shards.wait("climbmix", ["shard_00000"])
    os.killpg(pid, signal.SIGKILL)
    jobs.children[pid].wait()
    with pytest.raises(UserError, match="shard_00001.parquet is not there, and nobody is downloading it"):
        shards.wait("climbmix")
    assert shards.progress("climbmix")["state"] == "stopped"


def test_another_machine_is_known_by_its_last_sign_of_life(hub, folder):
    shards.make_plan("climbmix", 1)
    record = {"pid": 1, "birth": "x", "host": "elsewhere", "updated": time.time(), "planned": 2, "speed": 5, "failed": {}, "over": False}
    write_json(folder / ".get" / "progress.json", record)
    assert shards.progress("climbmix")["state"] == "downloading"
    write_json(folder / ".get" / "progress.json", record | {"updated": time.time() - 61})
    assert shards.progress("climbmix")["state"] == "stopped"
    write_json(folder / ".get" / "progress.json", record | {"host": socket.gethostname()})
    assert shards.progress("climbmix")["state"] == "stopped"  # a process of that number, but of another birth


# ---- how much is wanted


def test_shards_needed_are_those_of_nanochat():
    """References: about 13.5B source tokens and 260+ shards for the Jan29 run; nanochat downloads 150 + 20 for its newest."""
    jan29, record = recipes.resolve("jan29", depth=24).tokens, recipes.resolve("record", depth=24).tokens
    assert abs(jan29 / (1 - shards.CROPPED) - 13.5e9) < 0.1e9 and shards.needed("fineweb-edu", jan29) == 272 and shards.needed("climbmix", record) == 182
    assert shards.needed("climbmix", 1) == 1
    for tokens in (0, -1, float("nan"), 1e12, float("inf")):
        with pytest.raises(UserError, match="is not allowed; the 6,542 training shards of climbmix are enough for"):
            shards.needed("climbmix", tokens)


def test_too_few_shards_is_an_error_that_says_how_many(hub, folder, monkeypatch):
    get(2)
    corpus = data.load_corpus("climbmix")
    source = corpus.train.about / shards.BYTES_PER_TOKEN
    shards.enough(corpus, int(source * (1 - shards.CROPPED)))
    with pytest.raises(UserError, match="get 1 shards with"):
        shards.enough(corpus, int(source * (1 - shards.CROPPED)) + 2)
    with pytest.raises(
        UserError, match=r"corpus 'climbmix' has about .* tokens to train on \(4.8 bytes each\), and the run needs .*35% are cropped in packing; get 182 shards with: .*--shards 182"
    ):
        shards.enough(corpus, 5_838_471_168)
    with pytest.raises(
        UserError, match="'climbmix:3' needs its validation shard shard_06542.parquet and shard_00000 to shard_00002, .*which holds only 0-1, 6542; .*--shards 3 .*shard_00002.parquet"
    ):
        data.load_corpus("climbmix:3")
    assert len(data.load_corpus("climbmix:1").train) == 120 and data.load_corpus("climbmix:1").name == "climbmix"
    (folder / "plan.json").unlink()  # the same without a plan
    assert len(data.load_corpus("climbmix:1").train) == 120 and len(data.load_corpus("climbmix").train) == 240
    with pytest.raises(UserError, match="'climbmix:3' needs"):
        data.load_corpus("climbmix:3")


@pytest.mark.parametrize("name", ["climbmix:", "climbmix:0", "climbmix:x", "climbmix:6543", "climbmix:-1", "climbmix:1:2"])
def test_numbers_of_shards_that_make_no_sense(name, course_home):
    with pytest.raises(UserError, match="the number of training shards must be from 1 to 6542"):
        data.load_corpus(name)


def test_bad_requests(hub, folder):
    for call, says in [
        (lambda: shards.ensure("embedded"), "'embedded' does not come in shards; it must be one of climbmix, fineweb-edu"),
        (lambda: shards.ensure("climbmix"), "say how much is wanted"),
        (lambda: get(0), "shards = 0 is not allowed; climbmix has 1 to 6542"),
        (lambda: get(6543), "shards = 6543 is not allowed"),
        (lambda: get(1, workers=0), "workers = 0 is not allowed"),
        (lambda: shards.wait("climbmix"), "has no download plan"),
        (lambda: shards.verify("climbmix"), "has no download plan"),
        (lambda: shards.clean("climbmix", -1), "shards = -1 is not allowed"),
        (lambda: shards.main(shards.Get("climbmix")), "say how much with one of --shards 8"),
        (lambda: shards.main(shards.Get("climbmix", shards=1, tokens=2.0)), "say how much with one of"),
    ]:
        with pytest.raises(UserError, match=says):
            call()
    get(1)
    plan = read_json(folder / "plan.json")
    for wrong in ([], {}, plan | {"val": plan["shards"][0]}, plan | {"shards": []}, plan | {"shards": plan["shards"] * 2}, plan | {"val": {"name": VAL}}):
        write_json(folder / "plan.json", wrong)
        with pytest.raises(UserError, match="plan.json is not one of climbmix; delete it"):
            data.load_corpus("climbmix")
    (folder / "plan.json").write_text("{")
    with pytest.raises(UserError, match="download plan .* is not valid JSON"):
        data.load_corpus("climbmix")


def test_a_shard_that_is_not_the_planned_one(hub, folder):
    get(2)
    entry = read_json(folder / "plan.json")
    entry["shards"][1]["groups"][0][0] += 1
    write_json(folder / "plan.json", entry)
    with pytest.raises(UserError, match="shard_00001.parquet is not the shard of the plan; mend it with"):
        data.load_corpus("climbmix")


def test_clean(hub, folder, monkeypatch):
    get(3)
    (folder / f"{ONE}.parquet.part").write_bytes(b"x" * 100)
    (folder / f"{ONE}.parquet.part.json").write_bytes(b"{}")
    (folder / "mine.txt").write_text("mine")
    shards.Meter("climbmix")
    with pytest.raises(UserError, match=f"climbmix is being downloaded; .*kill {os.getpid()}"):
        shards.clean("climbmix")
    (folder / ".get" / "progress.json").unlink()
    assert shards.clean("climbmix") == (2, 102)
    whole(folder, 3)
    assert shards.clean("climbmix", 2)[0] == 2
    whole(folder, 2)
    assert data.load_corpus("climbmix").notes[-1] == "1 other file is not read: mine.txt"
    shards.clean("climbmix", 0)
    assert [p.name for p in folder.iterdir() if p.name != ".get"] == ["mine.txt"]


def test_commands(hub, folder, capsys):
    shards.main(shards.Get("climbmix", tokens=20.0))
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "20 tokens to train on: 1 shards of 250 MB of text, at 4.8 bytes a token, 35% cropped in packing and 5% to spare; about 0.1 GB on disk"
    assert (
        "CC BY-NC 4.0" in out[1]
        and out[-1].startswith("climbmix: 2 of 2 shards, 0.00 of 0.00 GB, complete; ")
        and " billion tokens to train on are on disk, 3.1e-08 are needed (at 4.8 bytes" in out[-1]
    )
    shards.main(shards.Verify("climbmix"))
    shards.main(shards.Status("climbmix:1"))
    shards.main(shards.Get("climbmix", shards=2, background=True))
    jobs.children[jobs.living(folder / ".get", "download")["pid"]].wait(30)
    shards.main(shards.Clean("climbmix"))
    out = capsys.readouterr().out
    assert "every byte is as it was at the first download" in out and "climbmix:1: 2 of 2 shards" in out and "deleted 0 files" in out
    done = child("--help")
    said = done.communicate()[0]
    assert done.returncode == 0 and "HF_TOKEN" in said and "GPT2COURSE_MIRROR" in said


def test_real_shards(hub, folder, dev_data):
    """Real text, from a server that breaks off again and again."""
    names = ["shard_00000", ONE, "shard_00002", "shard_00003", VAL]
    hub.files = {name: (dev_data / "corpus-small" / f"shard_{n:05d}.parquet").read_bytes() for n, name in enumerate(names)}
    hub.plan = {(name, "all"): [{"cut": 300_000, "reset": True}, {"code": 503}, {"cut": 200_000}] for name in names}
    get(4, workers=3)
    whole(folder, 4, hub.files)
    assert json.loads((folder / "plan.json").read_text())["shards"][0]["bytes"] == 1_216_471


# ---- in the runbook


@pytest.mark.slow
@pytest.mark.parametrize("profile,devices", [("1gpu", 1), ("8xh100", 2)])
def test_the_runbook_fetches_what_it_lacks(hub, folder, monkeypatch, capsys, profile, devices):
    """On an empty machine: shards in the background from the data stage on, CORE's questions before training, and then the whole run."""
    from gpt2course.course import plots
    from gpt2course.ops import runbook as speedrun

    real = Path(os.environ.get("GPT2COURSE_DEV_DATA", "/none")) / "core" / "eval_bundle.zip"
    bundle = {} if real.is_file() else {"core_bundle": "mini"}
    if real.is_file():
        hub.files["eval_bundle.zip"] = real.read_bytes()
    hold = threading.Event()
    hub.plan = {("shard_00003", "all"): {"hold": hold}}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(plots, "show", lambda fig, dpi=100: None)
    size = "depth=1 width=32 head_dim=16 sequence_len=32 vocab_size=300 batch_tokens=512 steps=200 eval_bytes=2000"
    given = dict(profile=profile, devices=devices, name="far", corpus="climbmix:4", settings=size, smoke=False, core_examples=1, save_minutes=0.01) | bundle
    run = speedrun.open_run(speedrun.Params.check(**given))
    assert run.corpus == "climbmix:4" and set(run.download) == {"corpus"} | ({"bundle"} if not bundle else set())
    monkeypatch.setattr(speedrun, "_stage", (lambda stage: lambda r, name, request, **more: stage(r, name, request | ({"price": None} if name == "preflight" else {}), **more))(speedrun._stage))
    found = {what: level for level, what, _ in speedrun.preflight(run)["findings"]}
    assert found["addresses"] == "ok" and found["corpus"] == "ok"  # it can be had
    speedrun.data(run)
    assert shards.progress("climbmix:4")["state"] == "downloading" and "4 of 5 shards" in capsys.readouterr().out.replace("\n", " ")  # the last is held back
    assert bundle or (folder.parents[1] / "eval" / "eval_bundle.zip").is_file()
    threading.Timer(3, hold.set).start()
    speedrun.tokenizer(run)
    assert speedrun.train(run, every=1)["step"] == 200
    assert shards.wait("climbmix:4")["state"] == "complete"
    whole(folder, 4)
    speedrun.evaluate(run)
    scored = speedrun.core(run)
    assert (scored["result"]["name"], scored["result"]["n"]) == (("mini-CORE", 7) if bundle else ("CORE", 22))
    speedrun.samples(run), speedrun.export(run)
    assert speedrun.report(run)["leaderboard"]["train_data"] == "climbmix:4"
    assert "then give it back: it costs until then" in capsys.readouterr().out
    # everything is there now, so nothing is done again
    asked = len(hub.seen)
    again = speedrun.open_run(speedrun.Params.check(**given))
    for stage in ("data", "tokenizer", "train", "evaluate", "core", "samples", "export"):
        getattr(speedrun, stage)(again)
        assert f"{stage}: done already" in capsys.readouterr().out, stage
    assert len(hub.seen) == asked
