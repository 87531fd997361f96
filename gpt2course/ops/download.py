"""Files from the web: the shards of a corpus, and the CORE bundle. Lesson 14.

    python -m gpt2course.ops.download climbmix:30

`fetch` collects the bytes in `<path>.part`, checks them, then renames the file. After a broken connection or a killed
process, the next attempt asks the server for the missing bytes only (HTTP Range). If a file that was put together from
several attempts fails its check, `fetch` starts again from the first byte.

GPT2COURSE_MIRROR=https://mirror.example/prefix replaces the scheme and host of every address. HF_TOKEN is sent to
huggingface.co only, never to a mirror or to the target of a redirect.
"""

import contextlib
import http.client
import os
import random
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tyro.conf import Positional

from gpt2course import core_tasks
from gpt2course.data import SHARD_CORPORA, SHARD_DISK, parse_shards, shard_path
from gpt2course.files import EVERY, SYSTEM, UserError, command, duration, fsync_dir, home, locked
from gpt2course.files import sha256 as digest_of

HUB, MIRROR, TOKEN = "https://huggingface.co", "GPT2COURSE_MIRROR", "HF_TOKEN"
CORE_URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"  # where nanochat has it from
PROXY = "your proxy wants a name and a password: export https_proxy=http://NAME:PASSWORD@HOST:PORT"
HINTS = {401: f"it may need a token in {TOKEN}", 403: f"it may need a token in {TOKEN}", 407: PROXY}
TRIES = 8  # attempts in a row that bring nothing new; about two minutes with the waits
TIMEOUT = 30.0  # seconds without a byte
WORKERS = 8  # shards downloaded at a time
# Training shards that a tokenizer needs: it reads 2 billion characters and at most 10,000 of a document, which leaves
# about 95 % of a shard's 250 million.
FIRST = 10


# ---- one file


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but send the token to its own host only. `sha256`: what huggingface.co says of the file."""

    sha256: str | None = None

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        stated = re.fullmatch('"?([0-9a-f]{64})"?', headers.get("X-Linked-ETag", ""))
        self.sha256 = stated[1] if stated else self.sha256
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new and urllib.parse.urlsplit(newurl).netloc != urllib.parse.urlsplit(req.full_url).netloc:
            new.remove_header("Authorization")
        return new


def mirrored(url: str) -> str:
    """The address to ask: `url`, or the same path and query at the mirror."""
    base = os.environ.get(MIRROR, "").strip().rstrip("/")
    if base and not re.match(r"https?://[^/]", base):
        raise UserError(f"{MIRROR} = {base!r} is not allowed; it must start with http:// or https:// and name a host")
    return base + url[url.index("/", 8) :] if base else url


def ask(url: str, first: int = 0):
    """(open answer that starts at byte `first`, sha256 that the server states or None). Errors: those of urllib."""
    url, redirects = mirrored(url), Redirects()
    headers = {"User-Agent": "gpt2course", "Accept-Encoding": "identity"}
    if first:
        headers["Range"] = f"bytes={first}-"
    if url.startswith(f"{HUB}/") and (secret := os.environ.get(TOKEN, "").strip()):
        headers["Authorization"] = f"Bearer {secret}"
    request = urllib.request.Request(url, headers=headers)
    return urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT), redirects.sha256


def explain(error: Exception) -> tuple[int, str]:
    """(HTTP status or 0, what happened) for an error of urllib."""
    reason = str(getattr(error, "reason", error))
    status = 407 if "Tunnel connection failed: 407" in reason else getattr(error, "code", 0)
    if not status:
        return 0, f"no connection, or a broken one ({reason})"
    return status, f"HTTP {status} {reason}" + (f"; {HINTS[status]}" if status in HINTS else "")


def reach(url: str) -> str | None:
    """What is wrong with an address, None if its file can be had."""
    try:
        with ask(url)[0] as answer:
            return None if answer.read(1) else "the file is empty"
    except (OSError, http.client.HTTPException) as e:
        return explain(e)[1]


def receive(url: str, part: Path) -> str | None:
    """One attempt: append to `part` the bytes that it lacks. Returns the sha256 that the server states, or None."""
    # The last byte is asked for again: a request for nothing would be an error where `part` is whole.
    start = max(0, part.stat().st_size - 1) if part.exists() else 0
    try:
        answer, stated = ask(url, start)
    except urllib.error.HTTPError as e:
        if e.code != 416 or not start:
            raise
        part.unlink()
        raise ConnectionError("the file at the server is shorter than the part here; starting again") from None
    with answer, open(part, "r+b" if answer.status == 206 else "wb") as f:
        if answer.status == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            f.truncate(0)
            raise ConnectionError("the server sent other bytes than the missing ones; starting again")
        have = f.seek(start) if answer.status == 206 else 0  # 0: the first attempt, or a server that ignores Range
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        while chunk := answer.read1(1 << 20):
            f.write(chunk)
            have += len(chunk)
        f.flush()
        os.fsync(f.fileno())
    if total is not None and have < total:
        raise ConnectionError(f"the connection ended at {have:,} of {total:,} bytes")
    return stated


def wrong(file: Path, sha256: str | None, check) -> str | None:
    """What is wrong with the bytes of a file, None if nothing is."""
    if sha256 and (found := digest_of(file)) != sha256:
        return f"has sha256 {found}, expected {sha256}"
    try:
        if check:
            check(file)
    except UserError as e:
        return f"is not the right file: {e}"
    return None


def fetch(url: str, path, sha256: str | None = None, check=None) -> Path:
    """Download `url` to `path`, unless the right file is there. Afterwards the file is whole and checked, or absent.

    check(file) raises UserError for wrong content. HTTP 408, 425, 429, 5xx and broken connections are tried again after
    a wait that doubles; any other answer is a UserError, and so are TRIES attempts in a row without progress.
    """
    path, part = Path(path), Path(f"{path}.part")
    advice = f"set {MIRROR} to a mirror, or put the file at {path}"
    if path.exists():
        if (problem := wrong(path, sha256, check)) is None:
            return path
        print(f"{path} {problem}; downloading it again", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    furthest = failed = 0
    while True:
        resumed, delay = part.exists() and part.stat().st_size > 0, None
        try:
            stated = receive(url, part)
            if (problem := wrong(part, sha256 or stated, check)) is None:
                os.replace(part, path)
                fsync_dir(path.parent)
                return path
            part.unlink()
            if not resumed:
                raise UserError(f"the file that {mirrored(url)} sent {problem}; {advice}")
        except (OSError, http.client.HTTPException) as e:
            if getattr(e, "errno", None) in SYSTEM and not isinstance(e, ssl.SSLError):  # which has its own numbers
                raise  # the disk, not the connection
            status, problem = explain(e)
            if status and status < 500 and status not in (408, 425, 429):
                raise UserError(f"{mirrored(url)} answers {problem}; {advice}") from None
            seconds = e.headers.get("Retry-After", "") if isinstance(e, urllib.error.HTTPError) else ""
            delay = min(600.0, float(seconds)) if seconds.isdigit() else None
        have = part.stat().st_size if part.exists() else 0
        failed = 1 if have > furthest else failed + 1
        furthest = max(furthest, have)
        if failed == TRIES:
            again = "run the same command later, which keeps what has arrived"
            raise UserError(f"{mirrored(url)}: {problem}; gave up after {TRIES} attempts; {again}, or {advice}")
        delay = min(60.0, 2.0 ** (failed - 1)) * random.uniform(0.5, 1.0) if delay is None else delay
        print(f"{path.name}: {problem}; attempt {failed + 1} of {TRIES} in {delay:.1f} s", flush=True)
        time.sleep(delay)


# ---- the shards of a corpus


def shard_paths(name: str, shards: int) -> list[Path]:
    """The files of a corpus in the order of the download: the validation shard, then shard 0, 1, 2, ..."""
    return [shard_path(name, number) for number in (SHARD_CORPORA[name].last, *range(shards))]


def shard_url(name: str, path: Path) -> str:
    return f"{HUB}/datasets/{SHARD_CORPORA[name].repository}/resolve/main/{path.name}"


def check_shard(path: Path) -> None:
    """Read a shard to its last byte; UserError unless it is a parquet file with a column of text."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            kind = file.schema_arrow.field("text").type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise UserError(f"its column text holds {kind}, expected string")
            for _ in file.iter_batches(columns=["text"]):
                pass
    except (pa.ArrowException, OSError, KeyError) as e:
        raise UserError(f"it is not a whole parquet file with a column text ({' '.join(str(e).split())})") from None


def size_on_disk(path: Path) -> int:
    """Bytes of a file or of its part; the download may rename the one to the other at any moment."""
    for p in (path, Path(f"{path}.part"), path):
        with contextlib.suppress(FileNotFoundError):
            return p.stat().st_size
    return 0


def progress(corpus: str) -> dict:
    """How far the download of a corpus is, for example of "climbmix:30", its first 30 training shards.

    {"corpus"; "done" and "total": shards; "first": whether the validation shard and the FIRST training shards are
    there; "bytes": on disk}.
    """
    name, count = parse_shards(corpus)
    paths = shard_paths(name, count or SHARD_CORPORA[name].last)
    there, size = [path.exists() for path in paths], sum(map(size_on_disk, paths))
    first = all(there[: 1 + FIRST])
    return {"corpus": corpus, "done": sum(there), "total": len(there), "first": first, "bytes": size}


def progress_text(p: dict, speed: float = 0.0) -> str:
    """`progress` as a line for people. speed: bytes/s."""
    left = max(0, p["total"] * SHARD_DISK - p["bytes"]) if p["done"] < p["total"] else 0
    text = f"{p['corpus']}: {p['done']} of {p['total']} shards, {p['bytes'] / 1e9:.2f} GB"
    return text + (f", {speed / 1e6:.0f} MB/s, about {duration(left / speed)} left" if speed > 0 and left else "")


def get_shards(name: str, shards: int) -> None:
    """Download what is missing of the validation shard and the first `shards` training shards."""
    corpus, folder = f"{name}:{shards}", home() / "data" / name
    print(progress_text(progress(corpus)), flush=True)
    with locked(folder / ".lock", wait=True):  # a second downloader waits here, then finds the files
        pool, missing = ThreadPoolExecutor(WORKERS), [path for path in shard_paths(name, shards) if not path.exists()]
        jobs = [pool.submit(fetch, shard_url(name, path), path, check=check_shard) for path in missing]
        began, at_first, pending, error = time.monotonic(), progress(corpus)["bytes"], jobs, None
        while pending and not error:
            done, pending = wait(jobs, EVERY, FIRST_EXCEPTION)
            error = next((e for job in done if (e := job.exception())), None)
            p = progress(corpus)
            print(progress_text(p, (p["bytes"] - at_first) / (time.monotonic() - began)), flush=True)
        pool.shutdown(cancel_futures=True)  # after an error: shards that are on their way arrive, no other is started
    if error:
        raise error


# ---- the CORE bundle


def check_core(path: Path) -> None:
    """UserError unless this is the bundle of CORE; read_bundle compares each file with its sha256."""
    if (bundle := core_tasks.read_bundle(path)).name != "CORE":
        raise UserError(f"{path} is the bundle {bundle.name} with {len(bundle.tasks)} tasks, not CORE's")


def get_core() -> Path:
    """The bundle of CORE in home()/eval, checked; it is downloaded if it is not there."""
    path = home() / "eval" / "eval_bundle.zip"
    with locked(path.parent / ".lock", wait=True):
        return fetch(CORE_URL, path, check=check_core)


def main(what: Positional[str]) -> None:
    """Download shards of a corpus, or the questions of CORE, into $GPT2COURSE_HOME. Run again, it continues.

    python -m gpt2course.ops.download climbmix:30

    Args:
        what: climbmix:30 or fineweb-edu:30 for so many training shards (preflight shows how many a run needs); or core.
    """
    if what == "core":
        print(f"the CORE bundle is at {get_core()}; every file in it is the published one")
        return
    name, shards = parse_shards(what)
    if shards is None:
        raise UserError(f"how many training shards of {name}? Give for example {name}:30")
    print(f"{shards} training shards, about {shards * SHARD_DISK / 1e9:.1f} GB; {SHARD_CORPORA[name].licence}")
    get_shards(name, shards)


if __name__ == "__main__":
    try:
        command(main)
    except KeyboardInterrupt:  # without waiting for the threads: what has arrived is kept
        os._exit(130)
