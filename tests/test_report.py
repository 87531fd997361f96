"""The report says what the files of the run say: change a file and the report changes; and nothing in the files can become code."""

import base64
import hashlib
import html.parser
import importlib.util
import json
import math
import re
import shlex
import subprocess
import sys
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course import jobs, leaderboard, plots, power, report
from gpt2course.bundle import CORE, DCLM_V1, GPT2_CENTRED
from gpt2course.core_report import SIZES
from gpt2course.files import UserError, read_json, write_json
from gpt2course.recipes import resolve

NASTY = '<script>alert(1)</script> & "q" | `x` ```` <b>\n# title\n| --- |\n````\n<u>out</u>'


def core_result(lift=0.02, name="CORE", step=100):
    """A whole CORE whose every task is `lift` above that of GPT-2 XL."""
    tasks = {}
    for label, centred in GPT2_CENTRED["GPT-2 XL"].items():
        guess, n = DCLM_V1[label] / 100, SIZES[label]
        right = round(min(1.0, max(0.0, (centred + lift) * (1 - guess) + guess)) * n)
        tasks[label] = dict(accuracy=right / n, centred=(right / n - guess) / (1 - guess), n=n, random_baseline=guess, num_fewshot=10, kind="schema")
    return dict(name=name, core=sum(t["centred"] for t in tasks.values()) / len(tasks), baselines="DCLM v1", subset=False, max_examples=None, max_len=None, draw=0, n=sum(SIZES.values()),
                n_tasks=22, n_tasks_bundle=22, tasks=tasks, step=step)  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run of 8 x H100 as the runbook leaves it, with numbers that are easy to recognise."""
    monkeypatch.setenv("GPT2COURSE_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "runs" / "big"
    plan = resolve("jan29", depth=24, steps=100).to_json()
    machine = {
        "device": "NVIDIA H100 80GB HBM3",
        "devices": 8,
        "type": "cuda",
        "driver": "570.1",
        "cpu_threads": 2,
        "torch": "2.13.0",
        "cuda": "12.8",
        "python": "3.12.1",
        "gpt2course": "0.1.0",
    }
    config = {"plan": plan, "corpus": "climbmix", "val_name": "climbmix/shard_06542", "val_sha256": "ab" * 32, "tokenizer_sha256": "cd" * 32, "seed": 4711, "commit": "0123456789ab",
              "dtype": "bfloat16", "machine": machine, "command": ["python", "-m", "gpt2course.train", "jan29", "--profile", "8xh100"], "corpus_notes": ["shard 7 is missing"]}  # fmt: skip
    write_json(folder / "config.json", config)
    at = lambda step: dict(step=step, tokens=step * 2**19, flops=step * 2.5e15, seconds=step * 0.7)  # noqa: E731
    lines = [dict(kind="train", **at(s), loss=9.0 - s / 20, lr=1.0, muon_momentum=0.9, weight_decay=0.5, tok_per_sec=750_000.0 + s, mfu=0.4 + s / 1000, eta_seconds=0.0, usd=None,
                  time=dict(data=0.01, forward_backward=0.6, optimizer=0.09), power_w=5000.0 + 10 * s) for s in range(10, 101, 10)]  # fmt: skip
    lines += [dict(kind="checkpoint", **at(100), path="checkpoints/step_00000100", took=1.75), dict(kind="eval", **at(50), val_bpb=0.9, val_bytes=5000, final=False, took=3.0),
              dict(kind="eval", **at(100), val_bpb=0.754321, val_bytes=48_000_123, final=True, took=5.0), dict(kind="done", **at(100), leaderboard_seconds=62.34, epochs=0.1)]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "log.txt").write_text("2026-11-23 10:00:00  licence: ClimbMix: NVIDIA, CC BY-NC 4.0\n2026-11-23 10:00:01  step 1/100  loss 9\n")
    for stage, seconds in (("preflight", 11.5), ("data", 12.5), ("tokenizer", 13.5), ("train", 95.25)):
        jobs.store(folder, stage, "key", {}, seconds)
    jobs.store(folder, "evaluate", "key", dict(val_bpb=0.754321, xz_bpb=2.25, val_bytes=48_000_123), 14.5)
    jobs.store(folder, "core", "key", {}, 15.5)
    jobs.store(folder, "samples", "key", dict(prompts=["Water is", "In 1969,"], texts=[" wet.", " men."]), 16.5)
    write_json(folder / "report" / "summary.json", {"price_per_hour": 24.0})
    write_json(folder / "report" / "core.json", core_result())
    state = folder / "checkpoints" / "step_00000100" / "state.json"
    write_json(state, {"sha256": {"model.safetensors": "ef" * 32}})
    return folder


def made(folder):
    """(HTML, Markdown) of a run's report."""
    out = report.write(folder)
    return open(out["html"], encoding="utf-8").read(), open(out["markdown"], encoding="utf-8").read()


def plain(text):
    """The words of a Markdown text: no escapes, no bars between cells."""
    return " ".join(text.replace("\\", "").replace("|", " ").split())


class Reader(html.parser.HTMLParser):
    """The tags, the attributes and the text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text, self.style = set(), [], "", False
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        self.style = tag == "style"
        self.text += " "

    def handle_endtag(self, tag):
        self.style = False
        self.text += " "

    def handle_data(self, data):
        self.text += "" if self.style else data


def test_the_headline_is_in_the_files(run):
    result = core_result()
    page, text = made(run)
    read = Reader(page).text
    total = 11.5 + 12.5 + 13.5 + 95.25 + 14.5 + 15.5 + 16.5
    for words in ("0.7543 bits per byte on 48,000,123 bytes of climbmix/shard_06542, 66.5% fewer than xz -9e needs on the same text (2.2500)", f"CORE {result['core']:.4f}, 95 % interval",
                  "The probability of being above 0.256525, the score of GPT-2 XL", "GPT-2 grade: yes", "0.01732 h (62.34 s)", "finished: step 100 of 100, 52,428,800 tokens, 2.5e+17 FLOPs",
                  f"${total / 3600 * 24:.2f} at $24 an hour for 2:59", "8 x NVIDIA H100 80GB HBM3", "1 checkpoint took 1.8 s, 2.44%", "MFU 46.0% (median)", "748,983 tokens/s",
                  "4711", "0123456789ab", "ab" * 32, "cd" * 32, "570.1", "12.8", "shard 7 is missing", "CC BY-NC 4.0", "python -m gpt2course.train jan29 --profile 8xh100", "Water is | wet."):  # fmt: skip
        assert words in read, words
    assert "GPT-2 small" in read and "probability that this run is above" in read
    for label, t in result["tasks"].items():
        row = re.search(rf"{label} {t['n']:,} 10 {t['accuracy']:.4f} {t['random_baseline']:.3f} {re.escape(format(t['centred'], '+.4f'))} (\S+) to (\S+) (\S+)", read)
        assert float(row[1]) < t["centred"] < float(row[2]) and float(row[3]) == pytest.approx(CORE[label][4], abs=1e-3), label  # theirs on at most 1,000 examples
    assert all(f"{label} {t['n']:,} 10 {t['accuracy']:.4f} " in plain(text) for label, t in result["tasks"].items()) and "0.7543 bits per byte" in text


def changed(folder, file, change):
    value = read_json(folder / file)
    change(value)
    write_json(folder / file, value)


def change_line(folder, kind, **values):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    index = max(i for i, line in enumerate(lines) if line["kind"] == kind)
    lines[index] |= values
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


MUTATIONS = [
    ("bpb", lambda r: changed(r, "stages/evaluate.json", lambda v: v["result"].update(val_bpb=1.23456)), "1.2346 bits per byte", "0.7543 bits"),
    ("xz", lambda r: changed(r, "stages/evaluate.json", lambda v: v["result"].update(xz_bpb=2.5)), "(2.5000)", "(2.2500)"),
    ("bytes", lambda r: changed(r, "stages/evaluate.json", lambda v: v["result"].update(val_bytes=1234)), "1,234 bytes", "48,000,123"),
    ("price", lambda r: changed(r, "report/summary.json", lambda v: v.update(price_per_hour=48.0)), "$2.39 at $48", "at $24"),
    ("no price", lambda r: changed(r, "report/summary.json", lambda v: v.update(price_per_hour=None)), "no price_per_hour was given", "at $24"),
    ("time of a stage", lambda r: changed(r, "stages/core.json", lambda v: v.update(seconds=1015.5)), "1,015.5", "total time 2:59"),
    ("leaderboard's clock", lambda r: change_line(r, "done", leaderboard_seconds=69.5), "(69.50 s)", "62.34"),
    ("loss", lambda r: change_line(r, "train", loss=1.23456), "Final loss 1.2346", "Final loss 4.0000"),
    ("checkpoint", lambda r: change_line(r, "checkpoint", took=7.0), "took 7.0 s, 9.09%", "2.44%"),
    ("seed", lambda r: changed(r, "config.json", lambda v: v.update(seed=99)), "seed 99", "4711"),
    ("hardware", lambda r: changed(r, "config.json", lambda v: v["machine"].update(devices=4)), "4 x NVIDIA", "8 x NVIDIA"),
    ("commit", lambda r: changed(r, "config.json", lambda v: v.update(commit="0123456789ab+")), "no: a commit without changes (0123456789ab+)", "yes: a commit without changes"),
    ("CORE", lambda r: write_json(r / "report" / "core.json", core_result(-0.05)), "GPT-2 grade: below", "GPT-2 grade: yes"),
    ("another bundle", lambda r: write_json(r / "report" / "core.json", core_result(name="other")), "not the CORE that GPT-2 grade is measured by (other", "GPT-2 grade: yes"),
    ("an earlier step", lambda r: write_json(r / "report" / "core.json", core_result(step=50)), "was measured before the end", "GPT-2 grade: yes"),
    ("samples", lambda r: changed(r, "stages/samples.json", lambda v: v["result"].update(texts=[" ice.", " men."])), "Water is | ice.", "wet."),
    ("a resumption", lambda r: (r / "log.txt").write_text("2026-11-23 10:00:00  resumed from step_00000050\n"), "Resumed 1 time.", "None: training ran"),
    ("a warning", lambda r: (r / "log.txt").write_text("2026-11-23 10:00:00  warning: no room\n"), "warning: no room", "None: training ran"),
    ("the licence", lambda r: (r / "log.txt").write_text("2026-11-23 10:00:00  licence: mine\n"), "licence of the text mine", "CC BY-NC"),
    ("power", lambda r: change_line(r, "train", power_w=16_000.0), "6,550 W", "5,550 W"),
    ("the end", lambda r: (r / "metrics.jsonl").write_text("".join((r / "metrics.jsonl").read_text().splitlines(keepends=True)[:-1])), "not finished: step 100 of 100", "finished: step 100 of 100, and"),
]  # fmt: skip


@pytest.mark.parametrize("change,new,old", [m[1:] for m in MUTATIONS], ids=[m[0] for m in MUTATIONS])
def test_a_changed_file_changes_the_report(run, change, new, old, monkeypatch):
    monkeypatch.setattr(report, "figures", lambda f: {name: (b"x", "a figure") for name in ("loss_and_bpb", "learning_rates", "throughput", "core_tasks", "time", "leaderboard")})
    before = Reader(made(run)[0]).text
    change(run)
    page, text = made(run)
    after = Reader(page).text
    assert new in after and new not in before and old not in after.replace("not finished", "")
    assert plain(new) in plain(text)


# ---- what the page is made of


def test_the_page_stands_alone(run):
    page, text = made(run)
    read = Reader(page)
    assert read.tags <= {"html", "meta", "title", "style", "h1", "h2", "p", "table", "tr", "th", "td", "img", "pre", "ul", "li", "details", "summary"} and len(read.tags) > 12
    pictures = [v for k, v in read.attributes if k == "src"]
    assert len(pictures) == 6 and all(base64.b64decode(v.removeprefix("data:image/png;base64,"), validate=True).startswith(b"\x89PNG") for v in pictures)
    assert {k for k, _ in read.attributes} <= {"src", "alt", "lang", "charset", "name", "content"} and "url(" not in page and "@import" not in page
    assert all(len(v) > 40 for k, v in read.attributes if k == "alt")
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert len(links) == 6 and all((run / "report" / link).read_bytes().startswith(b"\x89PNG") for link in links)
    assert not list((run / "report").glob("*.png"))  # those are the runbook's


def test_nothing_from_the_files_becomes_code(run):
    changed(run, "stages/samples.json", lambda v: v["result"].update(prompts=[NASTY, "In 1969,"], texts=[NASTY, NASTY]))
    changed(
        run,
        "config.json",
        lambda v: (
            v.update(corpus=NASTY.replace("\n", " "), commit=None, command=["a", NASTY], val_name="x<img src=y onerror=z>"),
            v["machine"].update(device=NASTY.replace("\n", " ")),
        ),
    )
    with open(run / "log.txt", "a") as f:
        f.write("2026-11-23 10:00:01  warning: <script>alert(2)</script>\n2026-11-23 10:00:01  licence: <iframe src=//x.y>\n")
    core = core_result(name="<i>other</i>")
    core["tasks"]["<u>task</u>"] = core["tasks"].pop("copa")
    write_json(run / "report" / "core.json", core)
    page, text = made(run)
    read = Reader(page)
    assert not read.tags & {"script", "iframe", "b", "i", "u"} and sum(k == "src" for k, _ in read.attributes) == 6 and not [k for k, _ in read.attributes if k.startswith("on")]
    assert "<script>alert(1)</script>" in read.text and "<iframe src=//x.y>" in read.text and "<u>task</u>" in read.text
    markdown_it = pytest.importorskip("markdown_it")
    read = Reader(markdown_it.MarkdownIt("commonmark").enable("table").render(text))
    assert not read.tags & {"script", "iframe", "b", "i", "u"} and read.tags >= {"table", "code", "img"} and sum(k == "src" for k, _ in read.attributes) == 6
    assert "<script>alert(1)</script>" in read.text and "<iframe src=//x.y>" in read.text and "<u>task</u>" in read.text
    assert read.text.count("# title") >= 4  # shown, and no heading of the report


@settings(deadline=None)
@given(st.text(), st.text())
def test_any_text_is_shown_as_it_is(a, b):
    markdown_it = pytest.importorskip("markdown_it")
    clean = lambda s: " ".join(s.replace("\x00", "\ufffd").split())  # noqa: E731
    shown = lambda s: clean("".join(c for c in s if c not in "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029" and not 0xD800 <= ord(c) < 0xE000))  # noqa: E731
    a, b = shown(a), shown(b)
    page = report.to_html("t", [("p", a), ("pre", b), ("table", ("h",), [(a,)]), ("list", [b])], {})
    assert [clean(x) for x in re.findall(r"<(?:p|pre|td|li)>(.*?)</(?:p|pre|td|li)>", html_text(page))] == [a, b, a, b] or "<" in a + b
    assert Reader(page).tags <= {"html", "meta", "title", "style", "h1", "p", "pre", "table", "tr", "th", "td", "ul", "li"}
    tags = Reader(markdown_it.MarkdownIt("commonmark").enable("table").render(report.to_markdown("t", [("pre", b), ("table", ("h",), [(a,)])], {}))).tags
    assert tags <= {"h1", "pre", "code", "table", "thead", "tbody", "tr", "th", "td", "a"}


def html_text(page):
    import html

    return html.unescape(page)


# ---- parts


def test_energy_is_power_times_time(run):
    e = report.gather(run)["energy"]
    joules = sum((5000 + 10 * s) * 7.0 for s in range(10, 101, 10))  # a line every 10 steps of 0.7 s
    assert e == {"kwh": pytest.approx(joules / 3.6e6), "watts": pytest.approx(joules / 70), "seconds": pytest.approx(70), "share": pytest.approx(1)}
    metrics = jobs.read_metrics(run)
    some = [m if i % 2 else {k: v for k, v in m.items() if k != "power_w"} for i, m in enumerate(metrics)]
    assert report.energy(some)["share"] == pytest.approx(0.5) and report.energy(some)["watts"] == pytest.approx(sum(5000 + 10 * s for s in range(20, 101, 20)) / 5)
    assert report.energy([{k: v for k, v in m.items() if k != "power_w"} for m in metrics]) is None
    assert "was not measured" in report.energy_words({"energy": None})


def test_the_meter_adds_the_gpus_up(monkeypatch):
    class Library:
        """What NVML answers for two GPUs."""

        answers, ready = {b"GPU-a": 300_500, b"GPU-b": 400_000}, 0

        def nvmlInit_v2(self):
            return self.ready

        def nvmlDeviceGetHandleByUUID(self, uuid, handle):
            if uuid not in self.answers:
                return 6
            handle._obj.value = list(self.answers).index(uuid) + 1
            return 0

        def nvmlDeviceGetPowerUsage(self, handle, milliwatts):
            milliwatts._obj.value = list(self.answers.values())[handle.value - 1] or 0
            return 3 if list(self.answers.values())[handle.value - 1] is None else 0

    monkeypatch.setattr(power.ctypes, "CDLL", lambda name: Library())
    meter = power.Meter(["a", "b"])
    assert meter.watts() == 700.5 == meter.watts() and power.Meter(["b"]).watts() == 400
    assert power.Meter(["a", "c"]).watts() is None and power.Meter([]).watts() is None  # one is not known, or there is none
    monkeypatch.setitem(Library.answers, b"GPU-b", None)
    assert meter.watts() is None
    monkeypatch.setattr(Library, "ready", 9)
    assert power.Meter(["a"]).watts() is None
    monkeypatch.undo()
    assert power.Meter(["a"], "no-such-library.so").watts() is None


@settings(deadline=None)
@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_wilsons_interval(pair):
    n, k = pair
    low, high = report.wilson(k / n, n)
    assert -1e-12 <= low <= k / n + 1e-12 and k / n - 1e-12 <= high <= 1 + 1e-12 and high - low > 0
    for p in (low, high):  # both ends are just as far from what was seen as the noise there allows
        assert abs(k / n - p) == pytest.approx(report.Z * math.sqrt(max(0.0, p * (1 - p)) / n), abs=1e-6)


def test_a_run_of_train_alone_and_unfinished(run):
    """No runbook, no evaluation, no end: what is not there is said to be not there."""
    for name in ("stages", "report"):
        for p in (run / name).iterdir():
            p.unlink()
    lines = [line for line in (run / "metrics.jsonl").read_text().splitlines(keepends=True) if '"kind": "train"' in line][:1]
    (run / "metrics.jsonl").write_text("".join(lines))
    read = Reader(made(run)[0]).text
    for words in ("not finished: step 10 of 100", "Bits per byte were not measured.", "CORE was not measured.", "counted at the end of the run", "no price_per_hour was given", "is not finished (step 10)",
                  "no figure loss_and_bpb", "train: steps 7.0 100.0%"):  # fmt: skip
        assert words in read, words
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="has no metrics yet"):
        report.write("big")
    with pytest.raises(UserError, match="there is no run 'x'; runs in .*: big"):
        report.write("x")
    write_json(run / "config.json", {})
    with pytest.raises(UserError, match="is not the configuration of a run"):
        report.write("big")


def test_the_command_and_the_commands_it_names(run):
    done = subprocess.run([sys.executable, "-m", "gpt2course.report", "big"], capture_output=True, text=True, check=True, env=jobs.environment())
    assert "bits per byte: 0.7543" in done.stdout and str(run / "report" / "report.html") in done.stdout
    text = (run / "report" / "report.md").read_text()
    lines = [shlex.split(line, comments=True) for block in re.findall(r"```text\n(.*?)\n```", text, re.S) for line in block.splitlines() if re.match("python -m|rsync", line)]
    modules = [line[2] for line in lines if line[0] == "python"]
    assert modules == ["gpt2course.export", "gpt2course.sample", "gpt2course.leaderboard"] and all(importlib.util.find_spec(m) for m in modules)
    copies = [line for line in lines if line[0] == "rsync"]
    assert [c[-2:] for c in copies] == [[f"USER@NODE:{run}/", "./big/"]] * 2
    sizes = [sum(p.stat().st_size for p in run.rglob("*") if p.is_file() and (all_ or "checkpoints" not in p.parts)) for all_ in (False, True)]
    assert sizes[0] < sizes[1] and copies[0][3:5] == ["--exclude", "/checkpoints"] and report.size_words(2_345_000_000) == "2.35 GB" and report.size_words(1_250_000) == "1.2 MB"


def test_rsync_leaves_out_the_checkpoints_and_nothing_else(run, tmp_path):
    import shutil

    if not shutil.which("rsync"):
        pytest.skip("no rsync here")
    block = next(b for k, *rest in report.commands(report.gather(run)) if k == "pre" for b in rest if "rsync" in b)
    line = next(line for line in block.splitlines() if line.startswith("rsync"))
    subprocess.run(shlex.split(line.replace(f"USER@NODE:{run}", str(run))), cwd=tmp_path, check=True, capture_output=True)
    have = lambda folder: {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}  # noqa: E731
    assert have(tmp_path / "big") == {n for n in have(run) if not n.startswith("checkpoints/")}


def test_the_evidence_folder_is_whole(run, tmp_path):
    """What the report promises of `leaderboard add`."""
    board = tmp_path / "results" / "leaderboard.csv"
    leaderboard.write([], board)
    leaderboard.add(leaderboard.Add("big", csv=board))
    (entry,) = leaderboard.read(board)
    folder = board.parent / entry.evidence
    assert f"results/{entry.evidence} (record.json, metrics.jsonl, config.json, core.json, SHA256SUMS)" in (made(run)[1]).replace("\\", "")
    assert {p.name for p in folder.iterdir()} == {"record.json", "metrics.jsonl", "config.json", "core.json", "SHA256SUMS"}
    assert (folder / "config.json").read_bytes() == (run / "config.json").read_bytes() and read_json(folder / "core.json")["tasks"] == read_json(run / "report" / "core.json")["tasks"]
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert sums == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name != "SHA256SUMS"} and len(sums) == 4
    assert read_json(folder / "record.json")["hashes"] == {"weights": "ef" * 32, "tokenizer": "cd" * 32, "validation": "ab" * 32}


def test_the_figures_are_those_of_the_files(run, monkeypatch):
    seen = {}
    for name in ("loss_and_bpb", "learning_rates", "throughput", "where_time_went", "core_report_figure", "leaderboard_figure"):
        monkeypatch.setattr(plots, name, lambda *args, name=name: seen.setdefault(name, args) and types.SimpleNamespace(alt=name))
    monkeypatch.setattr(plots, "png", lambda fig: fig.alt.encode())
    f = report.gather(run)
    pictures = report.figures(f)
    assert seen["loss_and_bpb"] == (f["metrics"], 2.25) and seen["throughput"] == (jobs.read_metrics(run),) and seen["where_time_went"] == (f["parts"],)
    assert f["parts"]["train: checkpoints"] == 1.75 and sum(f["parts"].values()) == pytest.approx(179.25) and seen["leaderboard_figure"][1] == leaderboard.entry_from_run(run)
    assert pictures["core_tasks"] == (b"core_report_figure", "core_report_figure") and seen["core_report_figure"][0]["core"] == pytest.approx(core_result()["core"])
