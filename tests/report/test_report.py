"""The reports: terminal, JSON, and the page without a browser; test_report_browser.py opens it in one."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from markupsafe import escape

import precision_test
from tests.support.runs import write_runs
from tests.support.simulated_runs import Fault, simulate_rows
from videobench.commands import quote
from videobench.compare.comparison import compare_runs
from videobench.compare.settings import ComparisonSettings, Tolerance
from videobench.report.build import build_report
from videobench.report.page import JPEG_SCALE, FrameStrips, build_page, tile, write_html
from videobench.report.terminal import build_markdown, build_text
from videobench.video.images import encode_jpeg

ATTACK = "<script>alert('no')</script><img src=x onerror=alert(1)>\"'&"


@pytest.fixture(scope="module")
def rows():
    return simulate_rows(300, fault=Fault("card", 0.4))


@pytest.fixture
def comparison(tmp_path, rows):
    return compare(write_runs(tmp_path, rows))


def compare(paths, repeat_path=None):
    return compare_runs(ComparisonSettings(*paths, repeat_path))


def flags_of(paths):
    names = ("eval_npu_path", "eval_gpu_path", "sampling_answer_path")
    return [f"--{name}={path}" for name, path in zip(names, paths, strict=True)]


def page_of(comparison, strips=None, report=None):
    return build_page(comparison, report or build_report(comparison), strips)


def text_of(comparison):
    return build_text(build_report(comparison))


class Page(HTMLParser):
    """Elements of a page; fails if one is closed that is not open."""

    VOID = frozenset({"meta", "link", "img"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.urls = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.urls += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(comparison):
    text = page_of(comparison)
    page = Page(text)
    assert page.tags.count("article") == len(comparison.flips) > 5
    assert page.tags.count("svg") == 3
    assert page.urls == ["data:,"]
    assert not re.search(r"https?://|@import|url\(", text)
    assert "Numerically broken: NPU card 2" in text


@pytest.fixture
def hostile(tmp_path, rows):
    """ATTACK in every text of both runs; question 0 has no answer, and each side lacks a question and a data set."""
    contents = {"npu": {}, "gpu": {}, "ANSWER": {}}
    for index, ((_, id), (npu, gpu, right)) in enumerate(rows.items()):
        dataset, key = f"{index if index in (3, 4) else index % 2}{ATTACK}", f"{ATTACK}{id}"
        more = {"dataset": dataset, "question": ATTACK, "vid_path": ATTACK}
        more["choices"] = dict.fromkeys(npu["choices"], ATTACK)
        reply = {"output_sequence": [f"{index}{ATTACK}"]} if index % 3 else {"error": f"{index}{ATTACK}"}
        run = {"device_name": ATTACK, "dtype": ATTACK}
        if index not in (1, 3):
            contents["npu"][key] = npu | more | reply | {"run": run | {ATTACK: f"npu{ATTACK}"}}
        if index not in (2, 4):
            contents["gpu"][key] = gpu | more | {"run": run | {ATTACK: f"gpu{ATTACK}"}}
        if index:
            contents["ANSWER"].setdefault(dataset, {})[key] = {"answer": right}
    paths = [tmp_path / f"{name}.json" for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_text(json.dumps(content), encoding="utf-8")
    return compare(paths)


def test_no_text_from_data_becomes_markdown(comparison):
    evil = f"{ATTACK} ````\n[x](y) @all #1 https://x.y WWW.x.y | **b**"
    report = build_report(comparison)
    report["summary"] = dict.fromkeys(report["summary"], evil)
    report["next_commands"] = [quote(evil), "`````"]
    report["reasons"] = [evil]
    report["flips"][0]["key"] = f"`````\n{evil}"
    whole = r"(.*?)^(`{5,})shell\n(.*)\n\2\n\n(`{6,})shell\n`{5}\n\4\n\n(`{6,})text\n(.*)^\5\n"
    head, _, command, _, fence, text = re.fullmatch(whole, build_markdown(report), re.M | re.S).groups()
    assert command == quote(evil)
    assert r"\<script\>alert('no')\</script\>" in head
    assert not re.search(r"(?<!\\)([<>@`#|\[]|\*(?!\*)|://|WWW\.)", head.replace("**", ""))
    assert len(head.splitlines()) == 6
    assert text == f"{build_text(report)}\n"
    assert fence not in text


def texts_in(content):
    """Every text of a JSON value, the keys of its objects too."""
    if isinstance(content, dict):
        yield from content
        content = list(content.values())
    if isinstance(content, list):
        for each in content:
            yield from texts_in(each)
    if isinstance(content, str):
        yield content


def test_every_text_from_data_in_the_json_is_escaped_in_the_page(tmp_path, hostile):
    report = build_report(hostile)
    page = page_of(hostile, FrameStrips(tmp_path, 1000))
    report["divergence"]["associations"] = []  # the page shows the strongest alone
    for part in ("only_npu", "only_gpu", "datasets_only_npu", "datasets_only_gpu", "without_answer", "differing"):
        assert any(ATTACK in text for text in texts_in(report["inputs"][part])), part
    texts = {text for text in texts_in(report) if ATTACK in text}
    assert len(texts) > 300
    assert [text for text in texts if escape(text[1:]) not in page] == []  # a sentence's first letter becomes a capital
    assert ATTACK not in page
    tags = Page(page).tags
    assert (tags.count("script"), tags.count("img")) == (1, 0)


def test_no_text_from_data_steers_the_terminal(tmp_path, capsys):
    evil = "\x1b[2J\x9b\u202eA\nPASS"
    row = {"output_sequence": ["A"], "vid_path": evil, "run": {evil: evil, "device_name": evil, "dtype": evil}}
    other = row | {"output_sequence": ["B"], "run": {"device_name": "x"}}
    two = {("MSVD", evil): (row, other, "A"), ("MSVD", f"2{evil}"): (row | {"error": evil}, other, "B")}
    flags = flags_of(write_runs(tmp_path, two))
    precision_test.main([*flags, f"--report_html={tmp_path / 'r.html'}", f"--Eval_Video_root={tmp_path}"])
    output = capsys.readouterr()
    assert r"\x1b[2J\x9b\u202eA\nPASS" in output.out
    assert "no frames in the report for" in output.err
    assert all(each.isprintable() for text in (output.out, output.err) for each in text.replace("\n", ""))
    assert "PASS" not in {line[:4] for line in output.out.splitlines()}


@pytest.mark.parametrize("differ", [False, True])
def test_frames_of_the_flips_are_in_the_page(tmp_path, rows, video_root, differ):
    video = sorted(video_root.glob("Eval_video/*/*.mp4"))[0].relative_to(video_root)
    shown = {name: (npu | {"vid_path": str(video)}, gpu, right) for name, (npu, gpu, right) in rows.items()}
    for npu, gpu, _ in shown.values():
        gpu["vid_path"] = npu["vid_path"]
        npu["pixels_sha256"] = "of others" if differ else gpu["pixels_sha256"]
    comparison = compare(write_runs(tmp_path, shown))
    text = page_of(comparison, FrameStrips(video_root, 10**6))
    page = Page(text)
    assert page.tags.count("img") == len(comparison.flips)
    assert text.count("The two runs saw different frames") == (len(comparison.flips) if differ else 0)
    assert all(url.startswith("data:image/jpeg;base64,/9j/") for url in page.urls[1:])


def test_frames_of_another_video_than_the_one_answered_about_are_left_out(tmp_path, rows, video_root, capsys):
    video, other = sorted(video_root.glob("Eval_video/*/*.mp4"))[:2]
    shown = {}
    for number, (name, (npu, gpu, right)) in enumerate(rows.items()):
        sha256 = hashlib.sha256((video if number % 2 else other).read_bytes()).hexdigest()
        seen = {"vid_path": f"Eval_video/MSVD/{number % 2}.mp4", "video_sha256": sha256}
        shown[name] = (npu | seen, gpu | seen, right)
    (tmp_path / "videos/Eval_video/MSVD").mkdir(parents=True)
    for number in range(2):  # video 0 has been replaced since
        shutil.copy(video, tmp_path / f"videos/Eval_video/MSVD/{number}.mp4")
    paths, page = write_runs(tmp_path, shown), tmp_path / "r.html"
    precision_test.main([*flags_of(paths), f"--report_html={page}", f"--Eval_Video_root={tmp_path / 'videos'}"])
    found = "another video is there now than the one that was answered about"
    flips = [int(each.pair.reply.vid_path[-5]) for each in compare(paths).flips]
    assert {*flips} == {0, 1}
    text = page.read_text()
    assert (Page(text).tags.count("img"), text.count(f"No frames: {found}")) == (flips.count(1), flips.count(0))
    assert f"warning: no frames in the report for Eval_video/MSVD/0.mp4 ({found})" in capsys.readouterr().err


def test_strip_holds_the_frames_in_order(tmp_path):
    import av

    shades = np.linspace(20, 230, 8).astype(np.uint8)
    frames = np.broadcast_to(shades[:, None, None, None], (8, 72, 128, 3))
    picture = tile(frames)
    assert picture.shape == (72 * 2 + 4, 128 * 4 + 4 * 3, 3)
    centres = [picture[36 + 76 * (k // 4), 64 + 132 * (k % 4), 0] for k in range(8)]
    assert np.abs(np.array(centres, int) - shades).max() <= 2
    path = tmp_path / "strip.jpg"
    path.write_bytes(encode_jpeg(picture, JPEG_SCALE))
    with av.open(str(path)) as file:
        decoded = next(file.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(decoded.astype(int) - picture).mean() < 3


def test_the_json_has_every_promised_key(comparison):
    report = json.loads(json.dumps(build_report(comparison), allow_nan=False))
    promised = (
        "verdict margin_points npu gpu difference_points difference_ci95 agreement kappa mcnemar per_dataset per_level "
        "weighted_average divergence flips inputs"
    )
    assert set(promised.split()) <= set(report)
    assert set(report["npu"]) == {"correct", "total", "unreadable", "failed", "missing", "accuracy"}
    assert set(report["mcnemar"]) == {"npu_only", "gpu_only", "p_value"}
    flip = report["flips"][0]
    assert {"key", "class", "npu_letter", "gpu_letter", "right_letter", "npu_margin", "gpu_margin"} <= set(flip)
    assert report["verdict"] == "FAIL"
    assert report["divergence"]["findings"][0]["cause"] == "npu card"
    assert report["divergence"]["strongest_association"]["group"] == "NPU card 2"
    assert sum(report["flip_classes"].values()) == len(report["flips"])


def test_the_terminal_page_fits_and_agrees_with_the_json(comparison):
    lines = text_of(comparison).splitlines()
    report = build_report(comparison)
    assert max(map(len, lines)) <= 80
    assert lines[0] == "FAIL: numerically broken: NPU card 2"
    assert lines[1].startswith("Numbers: broken: median difference 0.03")
    assert next(line for line in lines[2:] if line[:1].isupper()).startswith("Next: find the module that breaks")
    assert "FAIL by divergence (margin 1 point, scoring strict)" in lines
    assert (
        f"npu {report['npu']['accuracy']:.4f} ({report['npu']['correct']}/300), 0 unreadable, 0 failed, 0 missing"
        in lines
    )
    assert any(line.startswith("  BROKEN, npu card: NPU card 2") for line in lines)
    assert any(line.startswith(f"Flips: {len(report['flips'])} (") for line in lines)
    shown = {name: counts for name, counts in report["per_dataset"].items() if counts["npu"]["total"] >= 20}
    assert 3 < len(shown) < len(report["per_dataset"])
    for name, counts in shown.items():
        assert any(line.split()[:2] == [name, str(counts["npu"]["total"])] for line in lines), name


def test_if_numbers_are_not_judged_nothing_is_called_too_weak_for_it(tmp_path, rows):
    paths = write_runs(tmp_path, rows)
    shown = text_of(compare_runs(ComparisonSettings(*paths, tolerance=Tolerance(is_judged=False))))
    assert "300 of 300 questions; what stands out: NPU card 2\n" in re.sub(r"\n  (?=\S)", " ", shown)
    assert "\n  strongest association: NPU card 2, " in shown


def test_a_pass_fits_one_screen(tmp_path):
    """40 lines of 80 columns, with all sets and all that a run stores; what is left out is in the JSON and the page."""
    rows = simulate_rows(1000)
    settings = {f"setting{number}": "x" for number in range(19)}
    own = {
        "npu": dict.fromkeys(("torch_npu", "cann", "npu_driver", "cards", "compatible_impl", "inf_nan_mode"), "1"),
        "cuda": {"cuda": "1"},
    }
    own["npu"] |= {"device": "npu", "device_name": "some NPU", "dtype": "float16", "batch_size": 32}
    own["cuda"] |= {"device": "cuda", "device_name": "some GPU", "dtype": "float32", "batch_size": 8}
    for candidate, reference, _ in rows.values():
        for device, row in (("npu", candidate), ("cuda", reference)):
            row["run"] = row["run"] | settings | own[device]
            row["video_sha256"] = hashlib.sha256(row["vid_path"].encode()).hexdigest()
    comparison = compare(write_runs(tmp_path, rows))
    text, page = text_of(comparison), page_of(comparison)
    assert text.startswith("PASS")
    lines = text.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert re.search(r"the same: questions; .*; pixels; 2\d settings", " ".join(text.split()))
    assert not re.search("guessing|median lead|noise floor", text)
    assert all(name not in text and name in page for name in ("Ucfcrime", "guessing 2", "setting7"))


NAMES = ["my data/视频 数据", 'it\'s "mine"', "$(id) `id` <b>&amp; *x* _y_", "x" * 150]


def test_the_next_commands_can_be_copied_from_every_form(comparison):
    """Pasted into bash, every word arrives unchanged, even one that is longer than a line."""
    report = build_report(comparison)
    commands = [" ".join(["printf", r"'%s\0'", *map(quote, names)]) for names in (NAMES, NAMES[::-1])]
    report["next_commands"] = commands
    shown = build_text(report).split("\n\n")[0].partition("\nNext: ")[2].partition("\n")[2]
    copied = re.split(r"(?<!\\)\n    (?=\S)", shown[shown.index("    printf") :])
    markdown = re.findall(r"^```+shell\n(.*?)\n```+$", build_markdown(report), re.MULTILINE | re.DOTALL)
    page = re.findall(r'<pre class="command">(.*?)</pre>', page_of(comparison, report=report))
    for form in (copied, markdown, [unescape(each) for each in page]):
        assert len(form) == 2
        for command, names in zip(form, (NAMES, NAMES[::-1]), strict=True):
            done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
            assert done.stdout.decode().split("\0")[:-1] == names


@pytest.mark.parametrize(
    ("others", "logprobs", "found"),
    [
        pytest.param(1, {}, "a side stores no log-probabilities", id="not-stored-and-one-other-prompt"),
        pytest.param(
            300, {"A": -0.1, "B": -3.0}, "no question is known to have the same inputs", id="all-other-prompts"
        ),
        pytest.param(1, {"A": -0.1}, "no question with the same inputs has log-probabilities of ", id="one-option"),
    ],
)
def test_why_the_numbers_are_unknown_is_true(tmp_path, rows, others, logprobs, found):
    shown = {name: (npu | {"letter_logprobs": logprobs}, gpu, right) for name, (npu, gpu, right) in rows.items()}
    for npu, _, _ in list(shown.values())[:others]:
        npu["prompt_sha256"] = "0" * 64
    report = build_report(compare(write_runs(tmp_path, shown)))
    assert report["obstacles"]
    assert report["summary"]["numbers"].startswith(f"not known: {found}")


def test_sides_with_nothing_to_show_are_shown_too(tmp_path):
    """One question, no log-probabilities, no video, no run entry; equal on both sides."""
    row = {"output_sequence": "A"}
    comparison = compare(write_runs(tmp_path, {("MSVD", "1"): (row, row, "A")}))
    page = Page(page_of(comparison))
    assert page.tags.count("svg") == 1
    assert text_of(comparison).startswith("INCONCLUSIVE")
    json.dumps(build_report(comparison), allow_nan=False)


@pytest.mark.parametrize("tolerance", [None, 1e-9])
def test_equal_runs_have_plots_too(tmp_path, rows, tolerance):
    equal = {name: (gpu, gpu, right) for name, (_, gpu, right) in rows.items()}
    paths = write_runs(tmp_path, equal)
    comparison = compare_runs(ComparisonSettings(*paths, tolerance=Tolerance(tolerance)))
    assert comparison.flips == []
    page = page_of(comparison)
    assert (page.count("<svg"), '<p class="soft">None.</p>' in page) == (3, True)


def test_repeated_run_is_beside_the_devices(tmp_path, rows):
    paths = write_runs(tmp_path, rows)
    page = page_of(compare(paths, repeat_path=paths[1]))
    zeros = "<td>0.00000</td>" * 3
    assert f"<tr><td>between repeated runs</td>{zeros}</tr>" in page.replace("\n", "")


def test_the_script_writes_every_report(tmp_path, rows, capsys):
    forms = {"output_json": "json", "output_markdown": "md", "report_html": "html"}
    paths = [tmp_path / f"a/r.{suffix}" for suffix in forms.values()]
    flags = flags_of(write_runs(tmp_path, rows)) + [f"--{each}={path}" for each, path in zip(forms, paths, strict=True)]
    assert precision_test.main([*flags, f"--Eval_Video_root={tmp_path}", "--gate"]) == 1
    captured = capsys.readouterr()
    assert sorted(captured.out.splitlines()[-3:]) == sorted(f"wrote {path}" for path in paths)
    assert captured.err.startswith("warning: no frames in the report for Eval_video/")
    as_json, markdown, page = (path.read_text() for path in paths)
    assert json.loads(as_json)["verdict"] == "FAIL"
    assert page.startswith("<!doctype html>")
    lines = markdown.splitlines()
    assert lines[0] == "**FAIL: numerically broken: NPU card 2**"
    assert lines[2].startswith("- **Numbers**: broken")
    assert lines[3].startswith("- **Next**: find the module that breaks; replace MODEL by the checkpoint's folder")
    [command] = json.loads(as_json)["next_commands"]
    assert command in lines
    assert re.search("run_npu.py.* --model_path MODEL ", command)


def test_a_root_with_bytes_that_are_no_text_is_named_all_the_same(tmp_path, comparison, capsys):
    write_html(tmp_path / "r.html", comparison, build_report(comparison), tmp_path / os.fsdecode(b"\xff"))
    assert f"No frames: {tmp_path}/?/Eval_video/" in (tmp_path / "r.html").read_text()
    assert rf"{tmp_path}/\udcff/Eval_video/" in capsys.readouterr().err


def test_frames_stop_at_the_budget(video_root):
    name = str(next(video_root.glob("Eval_video/*/*.mp4")).relative_to(video_root))
    size = len(FrameStrips(video_root, 10**6).picture(name, 8))
    strips = FrameStrips(video_root, 2 * size)
    assert [len(strips.picture(name, 8) or "") for _ in range(3)] == [size, size, 0]


@pytest.mark.parametrize(
    ("vid_path", "num_frames", "found"),
    [
        pytest.param("Eval_video/NBA/none.mp4", 8, "missing", id="no-such-file"),
        pytest.param("../secret.mp4", 8, "is not a path below", id="out-of-the-root"),
        pytest.param("Eval_video/NBA/x.mp4", 8, "leads to", id="link-out-of-the-root"),
        pytest.param("Eval_video/NBA/x.mp4", 10**9, "the report shows 1 to", id="frames-without-end"),
    ],
)
def test_a_result_file_cannot_name_any_file_or_any_number_of_frames(tmp_path, video_root, vid_path, num_frames, found):
    folder = tmp_path / "videos/Eval_video/NBA"
    folder.mkdir(parents=True)
    (folder / "x.mp4").symlink_to(next(video_root.rglob("*.mp4")).resolve())
    strips = FrameStrips(tmp_path / "videos", 10**6)
    assert strips.picture(vid_path, num_frames) is None
    assert found in strips.failures[vid_path]
