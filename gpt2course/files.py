"""Where files live and how they are written: never half a file, never a silent wrong one.

Everything the course makes lies under one folder, `home()`. A file is written to a temporary name beside its
target, flushed to disk, then renamed, so a reader sees the old file or the new one and nothing between.
"""

import contextlib
import dataclasses
import errno
import hashlib
import inspect
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

# What the system says of a disk or folder that no program can mend: no right, no room, a file where a folder should be
SYSTEM = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.ENAMETOOLONG}


class UserError(Exception):
    """Something the person at the keyboard can mend.

    The message names the thing, the value, what is allowed and the mend.
    """


def home() -> Path:
    """The folder for data, tokenizers, evaluation bundles and runs: `$GPT2COURSE_HOME`, or `~/.cache/gpt2course`."""
    given = os.environ.get("GPT2COURSE_HOME", "").strip()
    try:
        path = Path(given or "~/.cache/gpt2course").expanduser()
    except RuntimeError:  # "~nobody", or a user without a home
        path = None
    if path is None or path.is_file():
        problem = "is a file" if path else "names a user without a home folder"
        raise UserError(
            f"GPT2COURSE_HOME = {given!r} {problem}; "
            "set it to a folder that you may write to, for example: export GPT2COURSE_HOME=~/gpt2course"
        )
    return path


def shown(value) -> str:
    """A value as Python writes it, on one line and at most 100 characters long, for a message."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write very long numbers
        text = hex(value)
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text):,} characters)"


RUN_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
RUN_NAME_ALLOWED = "letters, digits, '.', '_' and '-', at most 100, the first a letter or digit"


def run_folder(name: str) -> Path:
    """`home()/runs/<name>`; UserError for a name that is no plain folder name, such as "../x"."""
    if not re.fullmatch(RUN_NAME, name):
        raise UserError(f"run name {shown(name)} is not allowed; it must be {RUN_NAME_ALLOWED}")
    return home() / "runs" / name


def sha256(path) -> str:
    """The sha256 of a file, as 64 hex digits, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def fsync_dir(path) -> None:
    """Make a rename inside `path` durable (POSIX; other systems have no such call)."""
    if os.name == "posix":
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


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
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(tmp, 0o666 & ~umask)  # mkstemp makes 0600; a shared cache folder wants the ordinary rights
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
        if path.exists():  # a rename cannot replace a folder that holds files
            old = path.with_name(f".{path.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            os.replace(path, old)
            os.replace(tmp, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(tmp, path)
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
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{what} {path} is not valid JSON ({e}); delete it and make it again") from None


def command(main) -> None:
    """Run `main` with arguments read from the command line by tyro; `main` takes a dataclass, or typed arguments.

    A UserError, or a file that the system will not let us use, ends the program with one line and exit code 2.
    """
    import tyro

    module = sys.modules["__main__"].__spec__
    prog = f"python -m {module.name}" if module else None
    parameters = list(inspect.signature(main).parameters.values())
    config = (tyro.conf.OmitArgPrefixes,)
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
            raise  # a fault of ours: its traceback is wanted
        problem = f"{e.filename or 'a file'} cannot be used ({e.strerror})"
        print(f"error: {problem}; mend that, or choose another place: GPT2COURSE_HOME is {home()}", file=sys.stderr)
        sys.exit(2)
