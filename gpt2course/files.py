"""Where files live and how they are written and read. Everything else stands on it; no lesson is about it.

Everything the course makes lies under one folder, `home()`. A file is written to a temporary name beside its target,
flushed to disk, then renamed: a reader sees the old file or the new one, never half of one.
"""

import contextlib
import dataclasses
import difflib
import errno
import hashlib
import inspect
import io
import json
import math
import os
import re
import shutil
import sys
import tempfile
import time
import types
import typing
from decimal import Decimal
from pathlib import Path

# Errors of the system that only a person can fix: no right, no room, a file where a folder should be
SYSTEM = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.ENAMETOOLONG}
EVERY = 15.0  # seconds between two lines of progress


class UserError(Exception):
    """An error that the person at the keyboard can fix.

    The message is one line: what is wrong, the value, what is allowed, and the command that fixes it.
    """


class Busy(UserError):
    """Another process is at work on the same thing: an error of the second start, not of the first."""


def home() -> Path:
    """The folder for data, tokenizers, evaluation bundles and runs: `$GPT2COURSE_HOME`, or `~/.cache/gpt2course`.

    Always an absolute path.
    """
    given = os.environ.get("GPT2COURSE_HOME", "").strip()
    try:
        path = Path(given or "~/.cache/gpt2course").expanduser().absolute()
        if path.is_file():
            raise OSError("it is a file")
        if given:  # the same for child processes, which may run in another folder
            os.environ["GPT2COURSE_HOME"] = str(path)
    except (OSError, RuntimeError, ValueError) as e:  # a folder that may not be entered, "~nobody", a name with a NUL
        what = f"GPT2COURSE_HOME = {given!r}" if given else "GPT2COURSE_HOME is not set, and ~/.cache/gpt2course"
        fix = "set it to a folder that you may write to, for example: export GPT2COURSE_HOME=/tmp/gpt2course"
        raise UserError(f"{what} cannot be used ({getattr(e, 'strerror', None) or e}); {fix}") from None
    return path


def in_clone(path) -> Path:
    """`path`, which is in the clone of the course; UserError if this package is installed apart from the clone."""
    root = Path(__file__).resolve().parent.parent
    if not (root / "lessons").is_dir():
        what = f"gpt2course is installed apart from the clone of the course, in {root}"
        raise UserError(f"{what}; in the clone, run: pip install -e .")
    return Path(path)


def run_folder(name: str) -> Path:
    """`home()/runs/<name>`; UserError for a name that is no plain folder name, such as "../x"."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        allowed = "letters, digits, '.', '_' and '-', at most 100, the first a letter or digit"
        raise UserError(f"run name {shown(name)} is not allowed; it must be {allowed}")
    return home() / "runs" / name


# ---- values from people


def shown(value) -> str:
    """A value as Python writes it, on one line and at most 100 characters long, for a message."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write very long numbers
        text = hex(value)
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text):,} characters)"


def closest(name: str, known) -> str:
    """A hint for a name that does not exist: "did you mean depth?", or the list of what exists."""
    near = difflib.get_close_matches(name, list(known), n=2, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"


def coerce(name: str, value, kind, low: float = -math.inf, high: float = math.inf, choices=()):
    """`value` as a value of type `kind`; it may come as text, as papermill, YAML and command lines pass it.

    kind: bool, int, float, str, tuple[float, float], or one of these with `| None`. low, high: the range of a number,
    both ends allowed. choices: the values of a text. UserError names the setting, the value and what is allowed.
    """
    optional = isinstance(kind, types.UnionType)
    kind = typing.get_args(kind)[0] if optional else kind
    try:
        if optional and (value is None or str(value).strip().lower() in ("", "none", "null")):
            return None
        found = _converted(value, kind, low, high)
        if not choices or found in choices:
            return found
    except (ValueError, TypeError, LookupError, ArithmeticError):
        pass
    allowed = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}.get(kind, "two numbers")
    if choices:
        allowed = f"one of {', '.join(choices)}"
    elif (low, high) != (-math.inf, math.inf):
        allowed += f" from {low:g}" + (f" to {high:,}" if high < math.inf else " on")
    or_none = ", or none" if optional else ""
    raise UserError(f"{name} = {shown(value)} is not allowed; it must be {allowed}{or_none}")


def _converted(value, kind, low: float, high: float):
    """`value` as a value of type `kind`. A value that cannot be one raises a ValueError, TypeError or the like."""
    if kind is str and isinstance(value, str):
        return value
    if kind is bool:
        return {"true": True, "false": False}[str(value).strip().lower()]
    if typing.get_origin(kind) is tuple:
        first, second = value.strip().strip("()[]").split(",") if isinstance(value, str) else value
        return _converted(first, float, low, high), _converted(second, float, low, high)
    if kind is str or not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise TypeError
    exact = Decimal(str(value).strip())  # exact, so that a seed of 19 digits stays what it is
    if not low <= exact <= high or abs(exact) > 10**30 or kind is int and exact != int(exact):
        raise ValueError
    return kind(exact)


def duration(seconds: float) -> str:
    """0.42 -> "0.4 s", 75 -> "1:15", 3725 -> "1:02:05"."""
    if seconds < 59.95:
        return f"{max(0.0, seconds):.1f} s"
    minutes, s = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{s:02d}" if minutes >= 60 else f"{minutes}:{s:02d}"


class Progress:
    """Prints how much of a long job is done and how long the rest will take, at most once in EVERY seconds."""

    def __init__(self):
        self.began = self.printed = time.monotonic()

    def __call__(self, done: float, total: float, what: str = "") -> None:
        now = time.monotonic()
        if now - self.printed >= EVERY:
            self.printed = now
            left = duration((now - self.began) * (total - done) / max(1, done))
            print(f"{done / total:.0%} done, {what + ', ' if what else ''}left {left}", flush=True)


# ---- files


def sha256(path) -> str:
    """The sha256 of a file, as 64 hex digits, read in pieces."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def fsync_dir(path) -> None:
    """Make a rename inside `path` durable (POSIX; other systems have no such call)."""
    if os.name == "posix":
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def ordinary_rights(path) -> None:
    """Give a file or folder the rights that the umask allows: tempfile and safetensors make it its owner's alone."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, (0o777 if os.path.isdir(path) else 0o666) & ~umask)


@contextlib.contextmanager
def atomic_file(path, mode: str = "w"):
    """Open a temporary file beside `path`; on success flush it and rename it to `path`, on any error delete it.

    Args: mode is "w" (UTF-8 text) or "wb". Missing parent folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, tmp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with os.fdopen(fd, mode, **text) as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        ordinary_rights(tmp)
        os.replace(tmp, path)
        fsync_dir(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(tmp)
        raise


@contextlib.contextmanager
def atomic_dir(path):
    """Yield a temporary folder beside `path`; on success rename it to `path` (replacing an old one), else delete it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        yield tmp
        for file in tmp.rglob("*"):
            if file.is_file():
                with open(file, "rb+") as f:
                    os.fsync(f.fileno())
                ordinary_rights(file)
        ordinary_rights(tmp)
        old = path.with_name(f".{path.name}.old")
        if path.exists():  # a rename cannot replace a folder that holds files
            shutil.rmtree(old, ignore_errors=True)
            os.replace(path, old)
        os.replace(tmp, path)
        shutil.rmtree(old, ignore_errors=True)
        fsync_dir(path.parent)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise


def write_json(path, value) -> None:
    """Write `value` as readable JSON, atomically. NaN and infinity are refused: they are not JSON."""
    with atomic_file(path) as f:
        json.dump(value, f, indent=2, ensure_ascii=False, allow_nan=False)
        f.write("\n")


def read_json(path, what: str = "file"):
    """Read a JSON file; a missing or damaged one raises UserError that names `what` and the path."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as e:
        raise UserError(f"{what} {path} is not valid JSON ({e}); delete it and make it again") from None


@contextlib.contextmanager
def locked(path, what: str = "", wait: bool = False):
    """Hold the lock file `path`, which holds this process's pid. The system drops the lock however the process ends.

    Where another process holds it: wait for it, or raise UserError "<what> by process <pid>". A file system or a
    system without locks is used without one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as f:
        try:
            import fcntl

            fcntl.flock(f, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            f.seek(0)
            raise Busy(f"{what} by process {f.read().strip() or '?'}; wait for it to end") from None
        except (ImportError, OSError):
            pass
        f.truncate(0)
        f.write(f"{os.getpid()}\n")
        f.flush()
        yield


def command(main) -> None:
    """Run `main` with arguments read from the command line by tyro; `main` takes a dataclass, or typed arguments.

    A UserError, or a file that the system will not let us use, ends the program with one line and exit code 2.
    """
    import tyro

    module = sys.modules["__main__"].__spec__
    prog = f"python -m {module.name}" if module else None
    parameters = list(inspect.signature(main).parameters.values())
    config = (tyro.conf.OmitArgPrefixes,)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that is not UTF-8 gets "?" for what it cannot show
            stream.reconfigure(errors="replace")
    try:
        if len(parameters) == 1 and dataclasses.is_dataclass(parameters[0].annotation):
            main(tyro.cli(parameters[0].annotation, prog=prog, config=config))  # the dataclass documents the command
        else:
            tyro.cli(main, prog=prog, config=config)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `... | head` closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as e:
        if e.errno not in SYSTEM:
            raise  # a bug: show its traceback
        problem = f"{e.filename or 'a file'} cannot be used ({e.strerror})"
        print(f"error: {problem}; fix that, or use another folder: export GPT2COURSE_HOME=...", file=sys.stderr)
        sys.exit(2)
