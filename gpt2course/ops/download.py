"""Files from the web: resumed, checked, and either whole or not there. Lesson 02 uses it for shards, 10 for CORE.

`fetch(url, path)` gathers bytes in `path.part` and renames it when all of it has arrived and is what it should be. Run
again after any end, a kill too, it goes on where it was: it asks for the rest ("Range"), on condition that the file has
not changed since ("If-Range" with the server's ETag or date; RFC 9110, sections 13 and 14). `path.part.json` remembers
what that was.

Where no hash is known beforehand, that of the first download is kept beside the file, as `sha256sum -c` reads it
(`path.sha256`), and every later look at the file, or later download of it, must agree with it.

`piece` gives some bytes of a file alone, with what the server says of the whole: the footer of a parquet shard, say.

`GPT2COURSE_MIRROR=https://mirror.example/some/prefix` stands in for the scheme and host of every address.
"""

import contextlib
import email.utils
import errno
import http.client
import os
import random
import re
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from gpt2course.files import UserError, atomic_file, fsync_dir, read_json, write_json
from gpt2course.files import sha256 as digest_of
from gpt2course.ops.jobs import EVERY, duration

try:
    import fcntl
except ImportError:  # Windows: no locks
    fcntl = None

MIRROR = "GPT2COURSE_MIRROR"
TRIES = 8  # attempts in a row that come no further; with the waits between them about two minutes
FURTHER = 1 << 20  # bytes that make an attempt count as having come further
TIMEOUT = 30.0  # seconds without a byte
LONGEST_WAIT = 600.0  # seconds; a server that wants more is asked again by a person
CHUNK = 1 << 20

# bytes done, of (None: unknown), bytes/s, seconds left
Progress = Callable[[int, int | None, float, float | None], None]


class Again(Exception):
    """An attempt failed in a way that may pass; `wait`: seconds that the server asks for, or None; `code`: HTTP's."""

    def __init__(self, reason: str, wait: float | None = None, code: int | None = None):
        super().__init__(reason)
        self.wait, self.code = wait, code


def mirrored(url: str, mirror: str = MIRROR) -> str:
    """The address to ask: `url`, or the same path and query at the mirror that the variable `mirror` names."""
    base = os.environ.get(mirror, "").strip().rstrip("/")
    if base and not re.match(r"https?://[^/]", base):
        raise UserError(f"{mirror} = {base!r} is not allowed; it must begin with http:// or https:// and name a host")
    parts = urllib.parse.urlsplit(url)
    return f"{base}{parts.path}{'?' + parts.query if parts.query else ''}" if base else url


def progress_line(name: str) -> Progress:
    """A progress that rewrites one line of a terminal; to anything else it prints a line every 15 s and at the end."""
    said, tty = time.monotonic(), sys.stdout.isatty()
    every = 0.5 if tty else EVERY

    def progress(done, total, speed, left):
        nonlocal said
        now, over = time.monotonic(), done == total
        if now - said < every and not over:
            return
        said = now
        text = f"{name}: {done / 1e6:,.1f}"
        text += f" of {total / 1e6:,.1f} MB ({done / max(total, 1):.0%})" if total else " MB"
        text += f"  {speed / 1e6:.1f} MB/s"
        if left is not None:
            text += f"  left {duration(left)}"
        if tty:
            print(f"\r{text}\033[K", end="\n" if over else "", flush=True)
        else:
            print(text, flush=True)

    return progress


class SameHost(urllib.request.HTTPRedirectHandler):
    """Redirects are followed, but a token goes only to the host it was meant for. `linked` keeps the headers of the
    first answer that tells of the file behind it (X-Linked-Size, X-Linked-ETag: Hugging Face, whose ETag of a large
    file is its sha256)."""

    linked: dict = {}

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if "X-Linked-Size" in headers and not self.linked:
            self.linked = headers
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new and urllib.parse.urlsplit(newurl)[:2] != urllib.parse.urlsplit(req.full_url)[:2]:
            new.remove_header("Authorization")
        return new


def retry_after(headers) -> float | None:
    """Seconds that a server asks to wait: a number, or a date (RFC 9110, 10.2.3)."""
    value = headers.get("Retry-After", "")
    if value.strip().isdigit():
        return float(value)
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def validator(headers) -> str | None:
    """What tells one version of a file from another: its ETag if that is a strong one, else its date."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified")


def is_open(f, path: Path) -> bool:
    """Whether `path` is still the file that `f` has open, and not renamed or deleted."""
    try:
        return os.path.samestat(os.fstat(f.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def lock(f, name: str, told: bool = False) -> bool:
    """Lock an open file against other processes. If one has it, say so, unless that was told, and wait for it.
    Returns whether it has now been told."""
    if fcntl:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    print(f"{name} is being downloaded by another process; waiting for it", flush=True)
                told = True
                fcntl.flock(f, fcntl.LOCK_EX)
    return told


@contextlib.contextmanager
def held(part: Path):
    """Open `part` for appending, by one process at a time: others wait here. An empty one is not left behind."""
    told = False
    while True:
        f = open(part, "ab", buffering=0)  # unbuffered: its size is what has been stored
        told = lock(f, part.name, told)
        if is_open(f, part):
            break
        f.close()  # the other has finished and renamed it
    try:
        yield f
    finally:
        if is_open(f, part) and os.fstat(f.fileno()).st_size == 0:
            part.unlink()
            Path(f"{part}.json").unlink(missing_ok=True)
        f.close()


def ask(url: str, headers: dict, token: str | None, mend: str):
    """(the answer to one request for plain bytes, what a redirect said of the file). Errors: Again or UserError."""
    headers = {"User-Agent": "gpt2course", "Accept-Encoding": "identity"} | headers
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request, redirects = urllib.request.Request(url, headers=headers), SameHost()
    try:
        response = urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as e:
        e.close()
        answer = f"HTTP {e.code} {' '.join(str(e.reason).split())}"
        if e.code in (408, 416, 425, 429) or e.code >= 500:
            raise Again(answer, retry_after(e.headers), e.code) from None
        rights = "; it may need a token with the right to read it" if e.code in (401, 403) else ""
        raise UserError(f"{url} answers {answer}{rights}; {mend}") from None
    coding = response.headers.get("Content-Encoding", "identity")
    if response.status in (200, 206) and coding == "identity":
        return response, redirects.linked
    response.close()
    if coding != "identity":
        raise UserError(f"{url} sends {coding}-compressed bytes, must send plain ones; {mend}")
    raise UserError(f"{url} answers HTTP {response.status} {response.reason}; {mend}")


def attempt(url: str, f, memory: Path, size: int | None, token: str | None, mend: str, report) -> bool:
    """One request: append to `f` what it still lacks; returns whether earlier bytes were kept. Errors: as `ask`."""
    have = os.fstat(f.fileno()).st_size
    known = {}
    with contextlib.suppress(UserError):
        known = read_json(memory) if have else {}
    if not isinstance(known, dict) or known.get("url") != url or not known.get("validator"):
        f.truncate(0)  # nothing says that the bytes belong to this file
        have = 0
    elif have == known.get("total"):
        return True
    the_rest = {"Range": f"bytes={have}-", "If-Range": known["validator"]} if have else {}
    try:
        response, _ = ask(url, the_rest, token, mend)
    except Again as e:
        if e.code != 416:
            raise
        f.truncate(0)
        raise Again("the file at the server is shorter than what is here; from the start") from None
    with response:
        version = validator(response.headers)
        if response.status == 206:
            m = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            total = int(m[2]) if m else None
            as_before = total == known.get("total") and version == known.get("validator")
            if not m or int(m[1]) != have or not as_before:
                f.truncate(0)
                raise Again("the file at the server has changed; from the start")
        else:
            f.truncate(0)  # changed, or a server that always sends all
            have = 0
            stated = response.headers.get("Content-Length")
            total = int(stated) if stated and stated.isdigit() else size
        if size is not None and total != size:
            f.truncate(0)
            raise UserError(f"{url} has {total:,} bytes, must have {size:,}; {mend}")
        if total is None and not response.chunked:
            raise UserError(f"{url} does not say how long it is, so nobody can tell when it is whole; {mend}")
        write_json(memory, {"url": url, "validator": version, "total": total})
        kept = have > 0
        while total is None or have < total:
            chunk = response.read1(CHUNK if total is None else min(CHUNK, total - have))
            if not chunk:
                break
            rest = memoryview(chunk)
            while rest:
                rest = rest[f.write(rest) :]
            have += len(chunk)
            report(have, total)
    if total is not None and have < total:
        raise Again(f"the connection ended at {have:,} of {total:,} bytes")
    return kept


def keep_hash(path: Path, sha256: str) -> None:
    """Keep the hash of a file beside it."""
    with atomic_file(f"{path}.sha256") as f:
        f.write(f"{sha256}  {path.name}\n")


def recorded(path: Path) -> str | None:
    """The hash kept beside a file at its first download."""
    file = Path(f"{path}.sha256")
    if not file.exists():
        return None
    words = file.read_text(encoding="utf-8", errors="replace").split()
    if not words or not re.fullmatch("[0-9a-f]{64}", words[0]):
        raise UserError(
            f"{file} must begin with a sha256 of 64 hex digits; delete it, and that of the file as it is is kept"
        )
    return words[0]


def accept(file: Path, path: Path, sha256: str | None, size: int | None, check) -> str | None:
    """What is wrong with the bytes of `file`, meant for `path`, or None; a hash not known before is then kept."""
    want, found = sha256 or recorded(path), digest_of(file)
    if size is not None and file.stat().st_size != size:
        return f"has {file.stat().st_size:,} bytes, must have {size:,}"
    if want and found != want:
        which = "" if sha256 else f" as at the first download (if a new version is wanted, delete {path}.sha256)"
        return f"has sha256 {found}, must have {want}{which}"
    if not want:
        try:
            if check:
                check(file)
        except UserError as e:
            return f"is not what is wanted: {e}"
        keep_hash(path, found)
    return None


def address(url: str, path, mirror: str, token: str | None) -> tuple[str, str | None, str]:
    """(the address to ask for `url`, the token to send along, what mends a failure for the file meant for `path`)."""
    asked = mirrored(url, mirror)
    if not re.match(r"https?://[^/]", asked):
        raise UserError(f"address {url!r} is not allowed; it must begin with http:// or https://")
    if asked != url:
        return asked, None, f"mend or unset {mirror}, or put the file at {path}"
    secret = os.environ.get(token, "").strip() if token else None
    return asked, secret, f"set {mirror} to a mirror, or put the file at {path}"


def passing(e: Exception, url: str, mend: str) -> Again:
    """A failed attempt as one that may pass. UserError, or the error itself, where trying again is no use."""
    if isinstance(e, Again):
        return e
    reason = getattr(e, "reason", e)
    if isinstance(reason, ssl.SSLCertVerificationError):
        raise UserError(f"{url}: its certificate is not accepted ({reason.verify_message}); {mend}") from None
    if getattr(e, "filename", None) is not None:  # of a file, not of the connection
        raise e
    return Again(f"no connection, or a broken one ({reason if isinstance(e, OSError) else repr(e)})")


def pause(name: str, url: str, problem: Again, failed: int, mend: str, sleep) -> None:
    """Wait before the next attempt, after `failed` in a row; UserError if there is to be none."""
    if failed == TRIES:
        raise UserError(
            f"{url}: {problem}; given up after {TRIES} attempts, "
            f"what has arrived is kept: run the same again later, or {mend}"
        )
    wait = problem.wait
    if wait is None:
        wait = min(60.0, 2.0 ** (failed - 1)) * random.uniform(0.5, 1.0)
    if wait > LONGEST_WAIT:
        raise UserError(f"{url}: {problem} and asks to wait {duration(wait)}: run the same again then, or {mend}")
    print(f"{name}: {problem}; attempt {failed + 1} of {TRIES} in {wait:.1f} s", flush=True)
    sleep(wait)


def piece(
    url: str, path, first: int, last: int, *, mirror: str = MIRROR, token: str | None = None, sleep=time.sleep
) -> tuple[bytes, int, str | None] | None:
    """(bytes `first` to `last` of the file of `url`, its size, its sha256 where the server says so); None from a server
    that sends no pieces. `path` is where the file is to be, for messages. Tries again and fails as `fetch` does."""
    asked, secret, mend = address(url, path, mirror, token)
    length, failed = last + 1 - first, 0
    while True:
        try:
            response, linked = ask(asked, {"Range": f"bytes={first}-{last}"}, secret, mend)
            with response:
                if response.status == 200:
                    return None
                said = response.headers.get("Content-Range", "")
                m = re.fullmatch(rf"bytes {first}-{last}/(\d+)", said)
                if not m or int(m[1]) <= last:
                    raise UserError(f"{asked} sends {said!r} for bytes {first:,} to {last:,} of the file; {mend}")
                size, stated = int(m[1]), linked.get("X-Linked-Size", m[1])
                if stated != m[1]:
                    raise UserError(f"{asked} has {size:,} bytes, must have {stated} as it says itself; {mend}")
                data = response.read(length)
            if len(data) == length:
                found = re.fullmatch('"([0-9a-f]{64})"', linked.get("X-Linked-ETag", ""))
                return data, size, found[1] if found else None
            problem = Again(f"the connection ended at {len(data):,} of {length:,} bytes")
        except (Again, OSError, http.client.HTTPException) as e:
            if getattr(e, "code", None) == 416:
                raise UserError(f"{asked} is empty, or shorter than it was a moment ago; {mend}") from None
            problem = passing(e, asked, mend)
        failed += 1
        pause(Path(path).name, asked, problem, failed, mend, sleep)


def fetch(
    url: str,
    path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    check: Callable[[Path], None] | None = None,
    mirror: str = MIRROR,
    token: str | None = None,
    progress: Progress | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """The file of `url` at `path`, downloaded unless it is there; afterwards it is whole and checked, or not there.

    Args: sha256 (hex) and size (bytes) where they are known; check(file) raises UserError for bytes that are not what
    is wanted, and is asked where no hash is known yet; mirror and token name environment variables, of which the
    token's goes to the host of `url` alone, not to a mirror; progress as `Progress`, default a line now and then;
    sleep waits between attempts. A failure that may pass (HTTP 408, 425, 429, 5xx; a broken, silent or refused
    connection) is said in a line and tried again, after a wait that doubles, or the one the server asks for, at most
    TRIES times without coming further.
    Errors: UserError for any other answer, for wrong bytes (which are deleted), for no room (what has arrived is kept).
    """
    path, part = Path(path), Path(f"{path}.part")
    memory = Path(f"{part}.json")
    asked, secret, mend = address(url, path, mirror, token)
    if path.exists() and accept(path, path, sha256, size, check) is None:
        return path
    progress = progress or progress_line(path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with held(part) as f:
        if path.exists():
            wrong = accept(path, path, sha256, size, check)
            if wrong is None:
                f.truncate(0)
                return path
            if not sha256 and size is None and not recorded(path):  # never seen before: not ours to move
                raise UserError(f"{path} {wrong}; delete it or put the right file there")
            os.replace(path, f"{path}.damaged")
            print(f"{path} {wrong}; set aside as {path.name}.damaged, downloading it again", flush=True)
        began, at_first = time.monotonic(), os.fstat(f.fileno()).st_size
        furthest, failed = at_first, 0

        def report(done: int, total: int | None) -> None:
            speed = max(0, done - at_first) / max(time.monotonic() - began, 1e-6)
            left = (total - done) / speed if total is not None and speed else None
            progress(done, total, speed, left)

        while True:
            try:
                kept = attempt(asked, f, memory, size, secret, mend, report)
                os.fsync(f.fileno())
                wrong = accept(part, path, sha256, size, check)
                if wrong is None:
                    os.replace(part, path)
                    memory.unlink(missing_ok=True)
                    fsync_dir(path.parent)
                    return path
                f.truncate(0)
                if not kept:
                    raise UserError(f"what {asked} sends {wrong}; it was deleted: {mend}")
                problem = Again(f"the pieces together make a file that {wrong}; from the start")
            except (Again, OSError, http.client.HTTPException) as e:  # URLError and timeouts too
                if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT):
                    kept = f"what has arrived is kept in {part.name}: make room and run the same again"
                    raise UserError(f"no room for {path} ({e.strerror}); {kept}") from None
                problem = passing(e, asked, mend)
            have = os.fstat(f.fileno()).st_size
            failed = 1 if have >= furthest + FURTHER else failed + 1
            furthest = max(furthest, have)
            pause(path.name, asked, problem, failed, mend, sleep)
