"""Shards of the published corpora: planned, downloaded in the background, waited for, verified. Lesson 02 builds on it,
lesson 14 runs it.

    python -m gpt2course.ops.shards get climbmix --recipe record --depth 24

First comes a plan, `data/<corpus>/plan.json`: the pinned validation shard, then shard 0, 1, 2, ..., each with its size,
its sha256 where the server says so, and the documents of each row group. All that stands in a shard's footer, its last
few kB, so a plan takes seconds. From then on the corpus can be opened: which documents it has, and in what order, is
fixed by the plan and not by what has arrived, and whoever comes to a shard that is on its way waits for it
(data.sharded, documents.Late).

`get` then downloads what is missing, the validation shard first and the others in order, a few at a time
(download.fetch: resumed, checked, hash kept). It says in `.get/progress.json` who it is and how far it has come;
`ensure` starts it as a process of its own. GPT2COURSE_MIRROR names a mirror of huggingface.co, HF_TOKEN a token for it.
"""

import collections
import contextlib
import io
import math
import os
import re
import shutil
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from gpt2course.ops import jobs
from gpt2course.documents import file_footer, footer
from gpt2course.ops.download import MIRROR, accept, fetch, keep_hash, lock, mirrored, piece, recorded
from gpt2course.files import UserError, command, home, read_json, write_json
from gpt2course.ops.jobs import EVERY, duration

HUB = "https://huggingface.co"
TOKEN = "HF_TOKEN"
WORKERS = 8  # shards downloaded at a time
FAILURES = 3  # shards that may fail before no more are begun
END = 1 << 16  # bytes of a shard that are asked for its footer
LOOK = 0.5  # seconds between two looks of those who wait
PATIENCE = 10  # looks without anybody at work before a reader gives up: one downloader may be taking over from another
# What nanochat plans by (348fbb3): a shard is closed at 250 million characters or a little more
# (dev/repackage_data_reference.py) and has about 100 MB on disk; 4.8 characters to a token, and 35 % of the tokens are
# cropped in packing (runs/speedrun.sh).
SHARD_TEXT, SHARD_DISK = 250_000_000, 100_000_000
BYTES_PER_TOKEN, CROPPED = 4.8, 0.35
SPARE = 0.05  # shards beyond that, as a share, for text that packs worse; nanochat adds 20 to 150


@dataclass(frozen=True)
class Shards:
    """A published data set of parquet shards shard_00000 to shard_<last>; the last: validation (nanochat's layout)."""

    repository: str  # on huggingface.co/datasets
    last: int
    licence: str
    val_sha256: str | None = None  # of the validation shard, where it is known beforehand

    @property
    def val(self) -> str:
        return f"shard_{self.last:05d}"


# Last shards: nanochat's dataset.py at 030de3a (fineweb-edu) and 324e69c (climbmix). Licences: the cards of the data
# sets that were shuffled.
SHARD_CORPORA = {
    "climbmix": Shards(
        "karpathy/climbmix-400b-shuffle",
        6542,
        "ClimbMix: NVIDIA, CC BY-NC 4.0, for research (huggingface.co/datasets/nvidia/Nemotron-ClimbMix)",
    ),
    "fineweb-edu": Shards(
        "karpathy/fineweb-edu-100b-shuffle",
        1822,
        "FineWeb-Edu: Hugging Face, ODC-By 1.0 (huggingface.co/datasets/HuggingFaceFW/fineweb-edu)",
    ),
}


# ---- names, places, sizes


def parse(corpus: str) -> tuple[str, int | None]:
    """("climbmix", 30) of "climbmix:30", its first 30 training shards; ("climbmix", None) of "climbmix": all."""
    name, colon, count = corpus.partition(":")
    if name not in SHARD_CORPORA:
        raise UserError(
            f"corpus {corpus!r} does not come in shards; "
            f"it must be one of {', '.join(SHARD_CORPORA)}, with :N for the first N shards"
        )
    if not colon:
        return name, None
    last = SHARD_CORPORA[name].last
    if not re.fullmatch("[0-9]{1,5}", count) or not 1 <= int(count) <= last:
        raise UserError(
            f"corpus {corpus!r} is not allowed; the number of training shards must be from 1 to {last}, as in {name}:8"
        )
    return name, int(count)


def place(name: str) -> Path:
    """The folder of a corpus, which may be a link to another disk."""
    return home() / "data" / name


def path_of(name: str, entry: dict) -> Path:
    return place(name) / f"{entry['name']}.parquet"


def url_of(name: str, shard: str) -> str:
    return f"{HUB}/datasets/{SHARD_CORPORA[name].repository}/resolve/main/{shard}.parquet"


def there(name: str, entry: dict) -> bool:
    """Whether a shard of the plan is on disk (its size; `verify` reads every byte)."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return path_of(name, entry).stat().st_size == entry["bytes"]
    return False


def part_bytes(name: str, entry: dict) -> int:
    """Bytes that have arrived of a shard on its way."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"{path_of(name, entry)}.part").stat().st_size
    return 0


def text_bytes(entries: list[dict]) -> int:
    return sum(size for entry in entries for _, size in entry["groups"])


def needed(corpus: str, tokens: float) -> int:
    """Training shards to get for a run of `tokens` tokens, with some to spare. UserError if there are not as many."""
    name, _ = parse(corpus)
    each = SHARD_TEXT / BYTES_PER_TOKEN * (1 - CROPPED) / (1 + SPARE)  # tokens of a run that a shard is enough for
    last = SHARD_CORPORA[name].last
    if not 0 < tokens <= last * each:
        raise UserError(
            f"tokens = {tokens:g} is not allowed; "
            f"the {last:,} training shards of {name} are enough for 1 to {last * each:.3g}"
        )
    return math.ceil(tokens / each)


def enough(corpus, tokens: int) -> None:
    """UserError if a corpus in shards (data.Corpus) is so small that a run of `tokens` tokens would read some twice."""
    have, need = corpus.train.about / BYTES_PER_TOKEN, tokens / (1 - CROPPED)
    if have < need:
        n = needed(corpus.name, tokens)
        raise UserError(
            f"corpus {corpus.name!r} has about {have:.3g} tokens to train on ({BYTES_PER_TOKEN:g} bytes each), "
            f"and the run needs {need:.3g}: {tokens:,}, and {CROPPED:.0%} are cropped in packing; "
            f"get {n} shards with: python -m gpt2course.ops.shards get {corpus.name} --shards {n}"
        )


# ---- the plan


def read_plan(name: str) -> dict | None:
    """The plan of a corpus: {"val": entry, "shards": [entry, ...], "tokens": what a run asked for, or None}; or None.

    An entry is {"name", "bytes", "sha256" (or None), "groups": [[documents, bytes of text], ...]}.
    """
    path = place(name) / "plan.json"
    if not path.exists():
        return None
    plan = read_json(path, "download plan")
    try:
        names = [entry["name"] for entry in entries_of(plan)]
        fine = names == [SHARD_CORPORA[name].val, *(f"shard_{n:05d}" for n in range(len(names) - 1))] and len(names) > 1
        text_bytes(entries_of(plan))  # what these two lines compute is not wanted: they fail where a field is wrong
        [entry["bytes"] + len(entry["sha256"] or "") for entry in plan["shards"]]
    except (KeyError, TypeError, ValueError):
        fine = False
    if not fine:
        raise UserError(
            f"download plan {path} is not one of {name}; "
            f"delete it and make it again: python -m gpt2course.ops.shards get {name} --shards 8"
        )
    return plan


def entries_of(plan: dict, count: int | None = None) -> list[dict]:
    """The validation shard of a plan, then its first `count` training shards, or all."""
    return [plan["val"], *plan["shards"][:count]]


def the_plan(corpus: str) -> dict:
    """The plan of a corpus; UserError if there is none."""
    name, count = parse(corpus)
    plan = read_plan(name)
    if plan is None:
        raise UserError(
            f"corpus {corpus!r} has no download plan; "
            f"make it with: python -m gpt2course.ops.shards get {name} --shards {count or 8}"
        )
    return plan


def _at_server(url: str, path: Path, sleep) -> tuple[list[tuple[int, int]], int, str | None] | None:
    """(`footer`, size, sha256 where the server says so) of a shard; None from a server that sends no pieces."""
    got = piece(url, path, 0, 0, token=TOKEN, sleep=sleep)  # for the size, which comes with any piece
    ask, length = 0, END
    while got and length > ask:
        ask, size = length, got[1]
        got = piece(url, path, max(0, size - ask), size - 1, token=TOKEN, sleep=sleep)
        if got and got[0][-4:] == b"PAR1":  # before it stands how long the footer is
            length = int.from_bytes(got[0][-8:-4], "little") + 8
    if got is None:
        return None
    content, size, stated = got
    try:
        return footer(mirrored(url), io.BytesIO(content), size), size, stated
    except UserError as e:
        problem = str(e).partition("; ")[0]
        raise UserError(f"{problem}; set {MIRROR} to another mirror, or put the file at {path}") from None


def _entry(name: str, number: int, sleep) -> dict:
    """What a shard is, from its footer: that of the file on disk if it is whole, else from the server."""
    shard, known = f"shard_{number:05d}", SHARD_CORPORA[name]
    path, url = place(name) / f"{shard}.parquet", url_of(name, shard)
    pinned = known.val_sha256 if number == known.last else None
    if path.is_file() and accept(path, path, pinned, None, file_footer) is None:  # a damaged one is as if not there
        groups, size, stated = file_footer(path), path.stat().st_size, None
    elif found := _at_server(url, path, sleep):
        groups, size, stated = found
    else:
        print(
            f"{mirrored(url)}: the server sends no pieces of a file, so it is fetched whole to see what is in it",
            flush=True,
        )
        fetch(url, path, sha256=pinned, check=file_footer, token=TOKEN, sleep=sleep)
        return _entry(name, number, sleep)
    mend = f"set {MIRROR} to another mirror, or put the right file at {path}"
    first_seen = f"at the first download ({path}.sha256)"
    for which, old in (("the one pinned for validation", pinned), (first_seen, recorded(path))):
        if stated and old and stated != old:
            raise UserError(f"{mirrored(url)} has sha256 {stated}, must have {old}, {which}; {mend}")
    if not any(documents for documents, _ in groups):
        raise UserError(f"{mirrored(url)} holds no documents; {mend}")
    return {"name": shard, "bytes": size, "sha256": pinned or stated, "groups": [list(group) for group in groups]}


def parallel(work, items, workers: int, meanwhile=lambda: None, most: int = 1) -> dict:
    """Call work(item) for items in their order, by `workers` threads; returns {item: message} of those that ended in a
    UserError. After `most` of them no more are begun. Ctrl-C does not wait for the threads."""
    todo, failed, broken = collections.deque(items), {}, []

    def go():
        while len(failed) < most and not broken:
            try:
                item = todo.popleft()
            except IndexError:
                return
            try:
                work(item)
            except UserError as e:
                failed[item] = str(e)
            except BaseException as e:
                broken.append(e)

    threads = [threading.Thread(target=go, daemon=True) for _ in range(min(workers, len(todo)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            meanwhile()
            thread.join(0.1)
    if broken:
        raise broken[0]
    return failed


def make_plan(name: str, n: int, tokens: float | None = None, sleep=time.sleep) -> dict:
    """The plan of a corpus with its first n training shards at least: what is planned stays, the rest is asked for."""
    known, file = SHARD_CORPORA[name], place(name) / "plan.json"
    if not 1 <= n <= known.last:
        raise UserError(f"shards = {n} is not allowed; {name} has 1 to {known.last} to train on")
    with jobs.alone(place(name) / ".get"):
        entries = {}  # by their number
        if old := read_plan(name):
            entries = {known.last: old["val"], **dict(enumerate(old["shards"]))}
            tokens = max(tokens or 0, old["tokens"] or 0)

        def add(number: int) -> None:
            entries[number] = _entry(name, number, sleep)

        missing = [number for number in (known.last, *range(n)) if number not in entries]
        if failed := parallel(add, missing, WORKERS):
            raise UserError(next(iter(failed.values())))
        val = entries.pop(known.last)
        if known.val_sha256 and val["sha256"] != known.val_sha256:
            raise UserError(
                f"download plan {file} has another validation shard than the one pinned, {known.val_sha256}; "
                "delete it and make it again"
            )
        shards = [entries[number] for number in sorted(entries)]
        plan = {"corpus": name, "repository": known.repository, "tokens": tokens or None, "val": val, "shards": shards}
        write_json(file, plan)
        return plan


# ---- the download


class Meter:
    """How far a download has come: `.get/progress.json` for other processes, a line now and then for people."""

    def __init__(self, name: str):
        self.name, self.file, self.at = name, place(name) / ".get" / "progress.json", {}
        self.who = {"pid": os.getpid(), "birth": jobs.birth(os.getpid()), "host": socket.gethostname()}
        self.seen, self.written, self.said = collections.deque(), -math.inf, time.monotonic()
        self.write()

    def plan(self, entries: list[dict]) -> None:
        for entry in entries:
            whole = there(self.name, entry)
            self.at[entry["name"]] = entry["bytes"] if whole else part_bytes(self.name, entry)
        self.write()

    def write(self, failed: dict | None = None, over: bool = False) -> None:
        now, done = time.monotonic(), sum(self.at.values())
        self.seen.append((now, done))
        while now - self.seen[0][0] > 20 and len(self.seen) > 2:
            self.seen.popleft()
        then, had = self.seen[0]
        speed = max(0.0, (done - had) / (now - then)) if now > then else 0.0
        self.written = now
        state = {"updated": time.time(), "planned": len(self.at), "speed": round(speed), "failed": failed or {}}
        with contextlib.suppress(OSError):  # of a full disk the download itself will tell
            write_json(self.file, self.who | state | {"over": over})

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self.written >= 2:
            self.write()
        if now - self.said >= EVERY:
            self.said = now
            print(line(progress(self.name)), flush=True)


def check_room(name: str, entries: list[dict]) -> None:
    """UserError if the disk has no room for the shards that are missing."""
    missing = [entry for entry in entries if not there(name, entry)]
    need = sum(entry["bytes"] - part_bytes(name, entry) for entry in missing)
    free = shutil.disk_usage(place(name)).free
    if need > free:
        raise UserError(
            f"{place(name)} has no room for {len(missing)} more shards: "
            f"they need {need / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; "
            f"make room, or make {place(name)} a link to a folder on another disk"
        )


@contextlib.contextmanager
def only_one(name: str):
    """One download of a corpus at a time: a second one waits here, and then finds most of its work done."""
    folder = place(name) / ".get"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a") as f:
        lock(f, name)
        yield


def _plan_for(name: str, n: int, tokens: float | None, sleep) -> dict[str, dict]:
    """Every entry of the plan by name, validation first, once it is certain that there is room for them."""
    entries = entries_of(make_plan(name, n, tokens, sleep))
    check_room(name, entries)
    return {entry["name"]: entry for entry in entries}


def same_footer(entry: dict):
    """A check, for `fetch` and `accept`, that a file has the footer of the plan."""

    def check(file):
        if [list(group) for group in file_footer(file)] != entry["groups"]:
            raise UserError("its footer is not the one in plan.json")

    return check


def _fetch(name: str, entry: dict, meter: Meter, sleep) -> None:
    """One shard, whole and checked, with its hash beside it."""
    shard, path = entry["name"], path_of(name, entry)

    def progress(done: int, *_) -> None:
        meter.at[shard] = done

    url, check = url_of(name, shard), same_footer(entry)
    size = entry["bytes"]
    fetch(url, path, sha256=entry["sha256"], size=size, check=check, token=TOKEN, progress=progress, sleep=sleep)
    if not recorded(path):  # the hash that the server said; `fetch` has kept any other
        keep_hash(path, entry["sha256"])
    meter.at[shard] = entry["bytes"]


def get(corpus: str, n: int, *, tokens: float | None = None, workers: int = WORKERS, sleep=time.sleep) -> dict:
    """Download the validation shard and the first n training shards (and whatever else is planned), as far as they are
    not there; returns `progress`.

    A file that is there is read and compared with its hash; one that is damaged is set aside and fetched again. A shard
    that fails is tried again when the others are done. Errors: UserError, with what has arrived kept for the next time.
    """
    name, _ = parse(corpus)
    if workers < 1:
        raise UserError(f"workers = {workers} is not allowed; it must be a whole number from 1")
    with only_one(name):
        meter, failed = Meter(name), {}
        try:
            entries = _plan_for(name, n, tokens, sleep)
            meter.plan(list(entries.values()))
            one = lambda shard: _fetch(name, entries[shard], meter, sleep)
            val, *others = entries
            failed = parallel(one, [val], 1, meter) or parallel(one, others, workers, meter, FAILURES)
            if failed and len(failed) < FAILURES and val not in failed:
                print(f"once more: {', '.join(failed)}", flush=True)
                failed = parallel(one, sorted(failed), workers, meter, FAILURES)
        finally:
            meter.write(failed, over=True)
    if failed:
        missing = sum(not there(name, entry) for entry in entries.values())
        more = f" ({missing} of {len(entries)} shards are missing)" if missing > 1 else ""
        raise UserError(next(iter(failed.values())) + more)
    return progress(name)


def _alive(name: str) -> dict | None:
    """The progress record of the process that downloads a corpus now: one here is known by pid and birth, one on
    another machine by its last sign of life."""
    folder = place(name) / ".get"
    with contextlib.suppress(UserError, KeyError, TypeError):
        record = read_json(folder / "progress.json")
        if record["host"] == socket.gethostname():
            lives = jobs.birth(record["pid"]) == record["birth"] is not None
        else:
            lives = time.time() - record["updated"] < 60
        if lives and not record["over"]:
            return record
    return {"planned": math.inf} if jobs.living(folder, "download") else None


def fingerprint(corpus: str) -> str:
    """Of what a corpus holds by its plan, whatever has arrived of it; "" without a plan."""
    name, count = parse(corpus)
    plan = read_plan(name)
    if plan is None:
        return ""
    return jobs.digest([[entry["name"], entry["bytes"], entry["groups"]] for entry in entries_of(plan, count)])


def progress(corpus: str) -> dict:
    """How far the download of a corpus is: state (none, complete, downloading, failed or stopped), shards and bytes
    done and in all, speed (bytes/s), left (seconds), tokens_on_disk and tokens_needed (of training text, cropping
    included), bytes_per_token, failed {shard: message}."""
    name, count = parse(corpus)
    plan, alive, record = read_plan(name), _alive(name), {}
    with contextlib.suppress(UserError):
        record = read_json(place(name) / ".get" / "progress.json")
    entries = entries_of(plan, count) if plan else []
    have = [entry for entry in entries if there(name, entry)]
    failed = record.get("failed", {}) if plan and not alive else {}
    if plan and len(have) == len(entries):
        state = "complete"
    elif alive:
        state = "downloading"
    elif not plan:
        state = "none"
    else:
        state = "failed" if failed else "stopped"
    done, total, speed = sum(entry["bytes"] for entry in have), sum(entry["bytes"] for entry in entries), 0.0
    if plan and state == "downloading":
        done += sum(part_bytes(name, entry) for entry in entries if entry not in have)
        speed = record.get("speed", 0)
    train = [entry for entry in have if entry["name"] != SHARD_CORPORA[name].val]
    wanted = plan["tokens"] if plan else None
    return {
        "corpus": corpus,
        "state": state,
        "shards_done": len(have),
        "shards": len(entries),
        "bytes_done": done,
        "bytes": total,
        "speed": speed,
        "left": (total - done) / speed if speed else None,
        "tokens_on_disk": round(text_bytes(train) / BYTES_PER_TOKEN),
        "tokens_needed": round(wanted / (1 - CROPPED)) if wanted else None,
        "bytes_per_token": BYTES_PER_TOKEN,
        "failed": failed,
    }


def line(p: dict) -> str:
    """A `progress` for people."""
    text = f"{p['corpus']}: {p['shards_done']:,} of {p['shards']:,} shards, "
    text += f"{p['bytes_done'] / 1e9:.2f} of {p['bytes'] / 1e9:.2f} GB, {p['state']}"
    if p["state"] == "downloading":
        text += f" at {p['speed'] / 1e6:.1f} MB/s"
        if p["left"] is not None:
            text += f", left {duration(p['left'])}"
    need, how = "", f"at {p['bytes_per_token']:g} bytes a token"
    if p["tokens_needed"]:
        need = f", {p['tokens_needed'] / 1e9:.3g} are needed"
        how += ", what packing crops included"
    return f"{text}; {p['tokens_on_disk'] / 1e9:.3g} billion tokens to train on are on disk{need} ({how})"


def ensure(corpus: str, tokens: float | None = None, *, workers: int = WORKERS, sleep=time.sleep) -> dict:
    """See to it that a corpus is there, or on its way, for a run of `tokens` tokens: makes the plan, then starts the
    download in a process of its own if something is missing and nobody is at it. Returns `progress`, with the name of
    just these shards as its corpus ("climbmix:182").

    With "climbmix:30" it is these 30, whatever is needed; `enough` says if they will not do. The log is
    .get/stages/download.log.
    """
    name, count = parse(corpus)
    if count is None and tokens is None:
        raise UserError(
            f"corpus {corpus!r}: say how much is wanted, by the tokens of the run or as {corpus}:8, its first 8 shards"
        )
    n = count or needed(name, tokens)
    folder = place(name) / ".get"
    entries = list(_plan_for(name, n, tokens, sleep).values())
    corpus, alive = f"{name}:{n}", _alive(name)
    if all(there(name, entry) for entry in entries[: n + 1]) or alive and alive["planned"] >= len(entries):
        return progress(corpus)
    if not alive:
        (folder / "progress.json").unlink(missing_ok=True)  # of an earlier one, which may have failed
    arguments = ["get", name, "--shards", str(n), "--workers", str(workers)]
    jobs.launch(folder, "download", ["gpt2course.ops.shards", *arguments], corpus)
    return progress(corpus)


def wait(corpus: str, shards: list[str] | int | None = None, *, every: float | None = EVERY) -> dict:
    """Wait until shards of the plan are on disk: these by name, or validation and the first so many, or all.
    Returns `progress`.

    Says once what it waits for, then how far it is every `every` seconds (None: no more). UserError if one could not be
    fetched, or nobody is at it.
    """
    name, count = parse(corpus)
    plan = the_plan(corpus)
    if isinstance(shards, list):
        entries = [entry for entry in entries_of(plan) if entry["name"] in shards]
    else:
        entries = entries_of(plan, count if shards is None else shards)
    said, nobody, began = None, 0, time.monotonic()
    speaks = os.environ.get("RANK", "0") == "0"  # of the ranks of torchrun one says it
    while missing := [entry for entry in entries if not there(name, entry)]:
        p, first, now = progress(name), missing[0]["name"], time.monotonic()
        if p["state"] in ("failed", "stopped"):
            nobody += 1
            reason = p["failed"].get(first) or next(iter(p["failed"].values()), None)
            if reason or nobody >= PATIENCE:
                reason = f"the download failed: {reason}" if reason else "nobody is downloading it"
                raise UserError(
                    f"{place(name) / first}.parquet is not there, and {reason}; "
                    f"then, to go on: python -m gpt2course.ops.shards get {name} --shards {len(plan['shards'])}"
                )
        else:
            nobody = 0
        if said is None or every is not None and now - said >= every:
            said = now
            if speaks:
                print(f"waiting for {first}: {line(p)}", flush=True)
        time.sleep(LOOK)
    if said is not None and speaks:
        print(f"{entries[-1]['name']} is there, after {duration(time.monotonic() - began)} of waiting", flush=True)
    return progress(corpus)


# ---- care


def verify(name: str, workers: int = WORKERS) -> dict[str, str]:
    """What is wrong with the shards of the plan, read to the last byte: {name: problem}; one not on disk is wrong."""
    entries, wrong = entries_of(the_plan(name)), {}

    def one(number: int) -> None:
        entry = entries[number]
        path, problem = path_of(name, entry), "is missing"
        if path.exists():
            problem = accept(path, path, entry["sha256"], entry["bytes"], same_footer(entry))
        if problem:
            wrong[entry["name"]] = problem

    parallel(one, range(len(entries)), workers)
    return {entry["name"]: wrong[entry["name"]] for entry in entries if entry["name"] in wrong}


def clean(name: str, shards: int | None = None) -> tuple[int, int]:
    """Delete what is left of broken downloads, and with `shards` all training shards after the first so many (0:
    everything); returns (files, bytes)."""
    name, _ = parse(name)
    if _alive(name):
        pid = read_json(place(name) / ".get" / "progress.json").get("pid")
        raise UserError(f"{name} is being downloaded; wait for the end, or stop it: kill {pid}")
    last = SHARD_CORPORA[name].last
    if shards is not None and not 0 <= shards <= last:
        raise UserError(f"shards = {shards} is not allowed; it must be from 0 to {last}")
    plan, gone = read_plan(name), []
    for path in sorted(place(name).glob("*shard_*.parquet*")):
        m = re.fullmatch(
            r"\.?shard_([0-9]{5})\.parquet(\.part|\.part\.json|\.damaged|\.sha256)?(\..*\.tmp)?", path.name
        )
        if not m:
            continue
        beyond = shards is not None and (shards == 0 or shards <= int(m[1]) < last)
        if beyond or m[3] or m[2] in (".part", ".part.json", ".damaged"):
            gone.append((path, path.stat().st_size))
    if plan and shards is not None:  # first the promise, then the files
        if shards:
            write_json(place(name) / "plan.json", plan | {"shards": plan["shards"][:shards], "tokens": None})
        else:
            (place(name) / "plan.json").unlink()
    for path, _ in gone:
        path.unlink()
    return len(gone), sum(size for _, size in gone)


# ---- the commands


@dataclass
class Get:
    """Download shards, the validation shard first; run again, it goes on. Say how many, or what for."""

    corpus: tyro.conf.Positional[str]  # climbmix or fineweb-edu
    shards: int | None = None  # training shards, the first so many
    tokens: float | None = None  # tokens of the run that they are for, for example 5.8e9
    recipe: str | None = None  # recipe of the run that they are for, with --depth
    depth: int = 24  # its depth
    workers: int = WORKERS  # shards downloaded at a time
    background: bool = False  # in a process of its own; see it with: python -m gpt2course.ops.shards status


@dataclass
class Verify:
    """Read every shard that is planned to the last byte and compare it with its hash and its footer."""

    corpus: tyro.conf.Positional[str]  # climbmix or fineweb-edu
    workers: int = WORKERS  # shards read at a time


@dataclass
class Clean:
    """Delete parts and damaged files of broken downloads, and on request shards."""

    corpus: tyro.conf.Positional[str]  # climbmix or fineweb-edu
    shards: int | None = None  # keep only the first so many training shards; 0 deletes the whole corpus


@dataclass
class Status:
    """Say how far the download of a corpus is."""

    corpus: tyro.conf.Positional[str]  # climbmix or fineweb-edu


def main(action: Get | Verify | Clean | Status) -> None:
    """The shards of climbmix and fineweb-edu, in $GPT2COURSE_HOME/data: get, verify, clean, status.

    HF_TOKEN is sent to huggingface.co if it is set; GPT2COURSE_MIRROR names a mirror to ask instead.

    python -m gpt2course.ops.shards get climbmix --recipe record --depth 24
    """
    name, count = parse(action.corpus)
    if isinstance(action, Get):
        if sum(x is not None for x in (action.shards, action.tokens, action.recipe, count)) != 1:
            raise UserError(
                f"get {action.corpus}: say how much with one of --shards 8, --tokens 5.8e9, "
                "or --recipe record --depth 24"
            )
        tokens = action.tokens
        if action.recipe is not None:
            from gpt2course.recipes import resolve

            tokens = resolve(action.recipe, depth=action.depth).tokens
        n = action.shards if action.shards is not None else count
        if tokens is not None:
            n = needed(name, tokens)
            print(
                f"{tokens:.4g} tokens to train on: {n} shards of {SHARD_TEXT / 1e6:g} MB of text, "
                f"at {BYTES_PER_TOKEN:g} bytes a token, {CROPPED:.0%} cropped in packing and {SPARE:.0%} to spare; "
                f"about {n * SHARD_DISK / 1e9:.1f} GB on disk"
            )
        print(f"licence: {SHARD_CORPORA[name].licence}, as huggingface.co/datasets/{SHARD_CORPORA[name].repository}")
        if action.background:
            p = ensure(f"{name}:{n}", tokens, workers=action.workers)
        else:
            p = get(name, n, tokens=tokens, workers=action.workers)
        print(line(p))
    elif isinstance(action, Verify):
        wrong = verify(name, action.workers)
        for shard, problem in wrong.items():
            print(f"{shard} {problem}")
        if wrong:
            n, some = len(read_plan(name)["shards"]), ", ".join(list(wrong)[:5])
            raise UserError(
                f"{len(wrong)} of {n + 1} shards of {name} are wrong or missing: {some}; "
                f"mend them with: python -m gpt2course.ops.shards get {name} --shards {n}"
            )
        print(f"{line(progress(name))}; every byte is as it was at the first download")
    elif isinstance(action, Clean):
        files, size = clean(name, action.shards)
        print(f"deleted {files} files, {size / 1e9:.2f} GB, in {place(name)}")
    else:
        p = progress(action.corpus)
        print(line(p))
        for shard, problem in p["failed"].items():
            print(f"{shard}: {problem}")


if __name__ == "__main__":
    command(main)
