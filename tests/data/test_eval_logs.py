"""Real logs of lm-eval 0.4.13 and lmms-eval 0.7.3 (tests/assets/eval_logs): verdicts on pairs of them, and accuracies
equal to the tools' own tables."""

import json
import re
import tarfile

import pytest

from precision_test import main
from tests.support.paths import ASSETS, ROOT
from videobench.data.eval_logs import load_logs
from videobench.errors import InputError

SHAPES, WORDS = "samples_shapes_", "samples_words_"  # multiple_choice; generate_until under two filters


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """The folders lm_eval/<run> and lmms_eval/<run>."""
    folder = tmp_path_factory.mktemp("logs")
    for name in ("lm_eval", "lmms_eval"):
        with tarfile.open(ASSETS / "eval_logs" / f"{name}.tar.xz") as archive:
            archive.extractall(folder / name, filter="data")
    for results in folder.glob("*/broken/*results*.json"):  # under the sound model's name, as a port that is broken
        results.write_text(results.read_text().replace('"model_name": "broken"', '"model_name": "model"'))
    return folder


def log_of(folder, name=SHAPES):
    return next(folder.glob(f"*{name}*.jsonl"))


@pytest.fixture
def whole(logs):
    return log_of(logs / "lm_eval/float32")


@pytest.fixture
def pair(logs, whole):
    return log_of(logs / "lm_eval/bfloat16"), whole


def as_it_is(content):
    return content


def copy_of(log, folder, change=as_it_is, results=as_it_is):
    """Copy a log and its results, with each line and the results changed; what becomes None is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in log.parent.glob("*results*.json"):
        if content := results(json.loads(path.read_text())):
            (folder / path.name).write_text(json.dumps(content))
    lines = filter(None, (change(json.loads(line)) for line in log.read_text().splitlines()))
    path = folder / log.name
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return path


def compare(candidate, reference, capsys, *flags):
    """Return the exit status and the printed text, on one line."""
    status = main(["--eval_path", str(candidate), "--reference_path", str(reference), "--gate", *flags])
    return status, " ".join(capsys.readouterr().out.split())


def report_of(candidate, reference, folder, *flags):
    path = folder / "report.json"
    main([f"--eval_path={candidate}", f"--reference_path={reference}", f"--output_json={path}", *flags])
    report = json.loads(path.read_text())
    return report, {row["name"]: (row["npu"], row["gpu"], row["state"]) for row in report["inputs"]["table"]}


def value_in_table(folder, metric, filter_name):
    rows = [[cell.strip() for cell in line.split("|")] for line in (folder / "table.txt").read_text().splitlines()]
    return next(
        cell for row in rows if metric in row and filter_name in row for cell in row if re.match(r"0\.\d+$", cell)
    )


@pytest.mark.parametrize(
    ("candidate", "status", "said"),
    [
        pytest.param("bfloat16", 0, "PASS: the evaluated run answers like the reference run", id="sound"),
        pytest.param("broken", 1, "FAIL: numerically broken: half of all", id="broken"),
        pytest.param("shots", 3, "not comparable: num_fewshot is shapes 5 on the evaluated run", id="shots"),
        pytest.param("limit", 3, "239 of 339 questions are in one file only (limit is 100 on", id="limit"),
        pytest.param("version", 3, "not comparable: task_version is shapes 2.0 on the evaluated run", id="version"),
    ],
)
def test_the_verdict_on_multiple_choice(logs, capsys, candidate, status, said):
    paths = (log_of(logs / "lm_eval" / each) for each in (candidate, "float32"))
    found, text = compare(*paths, capsys, "--margin=3", "--cluster_by=video")
    assert (found, said in text) == (status, True), text[:600]


@pytest.mark.parametrize(
    ("tool", "run", "name", "metric", "filter_name"),
    [
        *(("lm_eval", run, SHAPES, "acc", "none") for run in ("float32", "bfloat16", "broken", "shots", "limit")),
        *(("lm_eval", run, WORDS, "exact_match", "first-word") for run in ("float32", "bfloat16", "broken")),
        *(("lm_eval", run, WORDS, "exact_match", "last-word") for run in ("float32", "bfloat16", "broken")),
        *(("lmms_eval", run, WORDS, "right", "none") for run in ("float32", "bfloat16", "float16", "broken")),
    ],
)
def test_the_accuracy_is_that_of_the_tools_own_table(logs, capsys, tool, run, name, metric, filter_name):
    folder, name = logs / tool / run, name if tool == "lm_eval" else name[:-1]
    flags = [] if filter_name == "none" else [f"--filter={filter_name}"]
    other = logs / tool / ("float32" if run == "bfloat16" else "bfloat16")
    _, text = compare(log_of(folder, name), log_of(other, name), capsys, *flags)
    stated = value_in_table(folder, metric, filter_name)
    replies = load_logs(log_of(folder, name), filter_name).values()
    if run != "limit":  # of which missing documents count as wrong
        assert f"eval {float(stated):.4f} (" in text
        task = name.removeprefix("samples_").strip("_")
        assert re.search(rf" {task} {len(replies)} {100 * float(stated):.2f} ", text)
    assert f"{sum(each.logged.is_right for each in replies) / len(replies):.4f}".startswith(stated)


@pytest.mark.parametrize(("candidate", "status"), [("float16", 0), ("bfloat16", 3), ("broken", 1)])
def test_the_verdict_on_logs_of_lmms_eval(logs, capsys, candidate, status):
    """Their log-probabilities are not known, and the right answers were made from the reference's own replies."""
    found, text = compare(logs / "lmms_eval" / candidate, logs / "lmms_eval/float32", capsys, "--margin=3")
    assert (found, "inputs not known to be the same" in text) == (status, True)
    assert "hashes of the documents are not stored" in text or "no: dtype" in text or "no: model" in text


def test_replies_in_words_are_compared_as_texts(logs, capsys):
    paths = [log_of(logs / "lm_eval" / each, WORDS) for each in ("broken", "float32")]
    status, text = compare(*paths, capsys, "--margin=3", "--cluster_by=video")
    assert (status, "FAIL by accuracy" in text) == (1, True)
    assert "unknown: no log-probabilities to judge by" in text
    assert "wording: another text, and both sides are right or both are wrong" in text
    replies = [load_logs(path)["words", "0"] for path in paths]
    assert replies[1].text == "many"


def test_another_filter_is_another_comparison(logs, tmp_path, capsys):
    paths = [log_of(logs / "lm_eval" / each, WORDS) for each in ("bfloat16", "float32")]
    report, rows = report_of(*paths, tmp_path, "--filter=last-word")
    assert rows["filter"] == ("words last-word", "words last-word", "same")
    assert report["scoring"] == "by the log's exact_match (last-word)"
    with pytest.raises(InputError, match=r"has no filter 'strict'; --filter takes one of first-word, last-word"):
        compare(*paths, capsys, "--filter=strict")


def test_a_folder_holds_several_tasks(logs, tmp_path, capsys):
    report, rows = report_of(logs / "lm_eval/bfloat16", logs / "lm_eval/float32", tmp_path, "--cluster_by=video")
    assert set(report["per_dataset"]) == {"shapes", "words"}
    assert report["scoring"] == "by the log's acc, exact_match (first-word)"
    assert rows["task_version"] == (*["shapes 1.0, words 1.0"] * 2, "same")
    only = compare(logs / "lm_eval/bfloat16", log_of(logs / "lm_eval/float32"), capsys)[1]
    assert "sets that only one file has are left out (words, 339 questions)" in only


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("lm_eval/dates", r"samples_shapes_\S+ and \S*samples_shapes_\S+ are logs of one task; name one of them"),
        ("lm_eval/rolling", r"no metric says .*word_perplexity is \[-\d.* in document 0, not 0 or 1"),
    ],
)
def test_what_cannot_be_judged_is_said_in_one_line(logs, capsys, path, said):
    with pytest.raises(InputError, match=said) as error:
        compare(logs / path, logs / "lm_eval/float32", capsys)
    assert "\n" not in str(error.value)


def test_the_tolerance_grows_with_the_square_root_of_the_words_and_names_an_unknown_dtype(pair, tmp_path, capsys):
    def longer(line):
        for request in line["arguments"].values():
            request["arg_1"] = " word" * 15 + request["arg_1"]
        return line

    def without_dtype(content):
        del content["config"]["model_dtype"]
        content["config"]["model_args"].pop("dtype", None)
        return content

    assert "beyond the 0.5 nats that bfloat16 rounding explains, 33" in compare(*pair, capsys)[1]
    paths = [copy_of(each, tmp_path / each.parent.name, longer) for each in pair]
    assert "beyond the 2 nats that bfloat16 rounding explains in 16 words, 33" in compare(*paths, capsys)[1]
    unknown = copy_of(pair[0], tmp_path / "unknown", results=without_dtype)
    found = compare(unknown, pair[1], capsys)[1]
    assert "beyond the 0.5 nats that bfloat16 rounding explains (a dtype is not stored), 33" in found


def test_a_metric_may_be_an_object_with_a_score_and_name_the_video(logs, tmp_path, capsys):
    """As videomme and mvbench of lmms-eval write it; their tables are in percent."""

    def as_object(line):
        right = line.pop("right")
        video = f"v{int(line['doc_id']) // 4}"
        return line | {"mvbench_accuracy": {"pred_answer": "A", "gt_answer": "B", "score": right, "videoID": video}}

    def times(factor):
        def change(content):
            for values in content["results"].values():
                values["mvbench_accuracy,none"] = factor * values["right,none"]
            return content

        return change

    plain = [log_of(logs / "lmms_eval" / each, WORDS[:-1]) for each in ("float16", "float32")]
    paths = [copy_of(each, tmp_path / each.parent.name, as_object, times(100)) for each in plain]
    before, now = report_of(*plain, tmp_path)[0], report_of(*paths, tmp_path, "--cluster_by=videoID")[0]
    for side in ("npu", "gpu"):
        assert now[side]["accuracy"] == before[side]["accuracy"]
    assert now["compared"]["videos"] == -(-before["compared"]["videos"] // 4)
    other = copy_of(paths[0], tmp_path / "other", results=times(50))
    with pytest.raises(InputError, match=r"mvbench_accuracy is .* in the tool's table, not the mean"):
        compare(other, paths[1], capsys)


def test_a_file_that_was_cut_short_is_refused(whole, tmp_path, capsys):
    lines = copy_of(whole, tmp_path, lambda line: line if line["doc_id"] < 200 else None)
    with pytest.raises(InputError, match=r"200 documents, of 339 in results_.*was it cut short"):
        compare(lines, whole, capsys)
    lines.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"line 339: not JSON.*was it cut short"):
        compare(lines, whole, capsys)


def with_other_generation(line):
    return line | {"arguments": {"gen_args_0": line["arguments"]["gen_args_0"] | {"arg_1": {"max_gen_toks": 7}}}}


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (SHAPES, lambda line: line | {"doc_hash": "0" * 63 + str(line["doc_id"] % 10)}, "documents 0 of 339 equal"),
        (SHAPES, lambda line: line | {"target": "9"}, "right answers 0 of 339 equal"),
        (
            SHAPES,
            lambda line: line | {"arguments": {"gen_args_0": {"arg_0": "Another?", "arg_1": "x"}}},
            "prompts 0 of 339 equal",
        ),
        (
            WORDS,
            with_other_generation,
            'generation is words {"max_gen_toks": 7} on .*Next: evaluate both sides with the same --gen_kwargs',
        ),
    ],
)
def test_other_documents_answers_prompts_and_generation_are_not_comparable(logs, tmp_path, capsys, name, change, said):
    whole = log_of(logs / "lm_eval/float32", name)
    status, text = compare(copy_of(whole, tmp_path, change), whole, capsys, "--margin=3")
    assert (status, "INCONCLUSIVE: not comparable" in text) == (3, True), text[:800]
    assert re.search(said, text)


def in_the_first_line(**damage):
    return lambda line: line | damage if line["doc_id"] == 0 else line


def as_error(line):
    return {name: value for name, value in line.items() if name not in ("acc", "acc_norm")} | {
        "error": 1 - line["acc"],
        "metrics": ["error"],
    }


def with_direction(higher_is_better):
    return lambda content: content | {"higher_is_better": {"shapes": {"error": higher_is_better}}}


@pytest.mark.parametrize(
    ("change", "results", "said"),
    [
        (
            in_the_first_line(filtered_resps=[["x", "False"]] * 2),
            as_it_is,
            "line 1: a log-likelihood is 'x'",
        ),
        (in_the_first_line(arguments=None), as_it_is, "line 1: it holds no prompt"),
        (in_the_first_line(metrics=[["acc"]]), as_it_is, "no metric says for each document .* right: it has none"),
        (in_the_first_line(doc_id=1), as_it_is, "line 2: the same document as .*line 1; remove one of them"),
        (
            lambda line: line | {"acc": 1.0, "acc_norm": 1.0},
            as_it_is,
            r"acc is 0\.\d+ in the tool's table, not",
        ),
        (as_error, lambda content: None, "nothing says that error is 1 for a right reply"),
        (as_error, with_direction(False), "a lower error is better"),
        (as_error, with_direction(True), "error is not in the tool's"),
    ],
)
def test_a_log_that_does_not_say_what_is_right_is_refused(whole, tmp_path, capsys, change, results, said):
    with pytest.raises(InputError, match=said):
        compare(copy_of(whole, tmp_path, change, results), whole, capsys)


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"model_name": "hub/other"}, 3, "INCONCLUSIVE: not comparable: checkpoint is other on the evaluated run and"),
        ({"model_name": "/weights/model/"}, 0, "Were the inputs the same? yes"),
        ({"model_name": "/hub/models--org--model/snapshots/0f3a"}, 0, "Were the inputs the same? yes"),
        (
            {"config": {"model_args": {"pretrained": "model", "dtype": "float32", "peft": "adapter"}}},
            0,
            "Were the inputs the same? no: model_args",
        ),
        ({}, 0, "not known to be the same: model and settings (the results beside a log) are not stored"),
    ],
)
def test_another_model_or_other_arguments_of_it_are_said(whole, tmp_path, capsys, change, status, said):
    other = copy_of(whole, tmp_path, results=lambda content: change and {**content, **change})
    found, text = compare(other, whole, capsys, "--margin=3")
    assert (found, said in text) == (status, True), text[:900]


def test_a_task_named_like_a_set_of_video_bench_is_none(pair, tmp_path):
    paths = []
    for each in pair:
        log = copy_of(each, tmp_path / each.parent.name)
        paths.append(log.rename(log.with_name(log.name.replace("shapes", "MSVD"))))
    report, _ = report_of(*paths, tmp_path, "--margin=3", f"--report_html={tmp_path / 'page.html'}")
    assert (report["benchmark"], report["weighted_average"]["npu"]) == ("MSVD", {})
    assert "leaderboard" not in re.sub(
        r"<script.*?</script>", "", (tmp_path / "page.html").read_text(), flags=re.DOTALL
    )


def compare_own_rows(folder, capsys, build_row, count, answered, *flags):
    """Compare rows of another benchmark in our own format, of which the first `answered` have a right answer."""
    for side in ("npu", "gpu"):
        rows = {f"arc/{k}": build_row(side, k) for k in range(count)}
        (folder / f"{side}.json").write_text(json.dumps(rows))
    (folder / "answers.json").write_text(json.dumps({"arc": {str(k): "A" for k in range(answered)}}))
    answers = f"--sampling_answer_path={folder / 'answers.json'}"
    return compare(folder / "npu.json", folder / "gpu.json", capsys, answers, *flags)


def arc_row(side, k):
    """As in the example of docs/any-benchmark.md; the reference knows half of the answers."""
    shift = 0.01 if side == "npu" else 0
    return {
        "question": f"Which of these conducts electricity in case {k}?",
        "choices": {"A": "copper", "B": "glass", "C": "wood"},
        "output_sequence": ["AB"[k % 2]],
        "letter_logprobs": {"AB"[k % 2]: -0.02 - shift * (k % 3), "BA"[k % 2]: -4.1 - shift, "C": -6.3},
    }


def test_missing_right_answers_are_asked_for_and_no_limit_is_named(tmp_path, capsys):
    status, text = compare_own_rows(tmp_path, capsys, arc_row, 1000, 960)
    assert (status, "INCONCLUSIVE: 40 of 1000 questions have no right answer" in text) == (3, True), text[:300]
    assert "Next: compare again with the file that has all the right answers" in text


@pytest.mark.parametrize("setting", ["chat_template", "filter", "generation", "metric", "num_fewshot", "task_version"])
def test_rows_that_hold_another_tools_settings_are_compared_by_them(tmp_path, capsys, setting):
    def build_row(side, k):
        return {"choices": {"A": "copper", "B": "glass"}, "output_sequence": ["A"], "run": {setting: side}}

    status, text = compare_own_rows(tmp_path, capsys, build_row, 30, 30)
    assert (status, f"not comparable: {setting} is npu on the evaluated run and gpu on" in text) == (3, True), text


def test_nan_breaks_a_run(whole, tmp_path, capsys):

    def change(line):
        nan = [["nan", "False"]] * len(line["filtered_resps"])
        return line | {"filtered_resps": nan} if line["doc_id"] == 7 else line

    status, text = compare(copy_of(whole, tmp_path, change), whole, capsys, "--margin=3")
    assert (status, "FAIL: numerically broken: evaluated logits hold NaN or infinity in 1 of 339" in text) == (1, True)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--sampling_answer_path=x.json"], "--sampling_answer_path does not apply to logs"),
        (["--scoring=strict"], "--scoring does not apply to logs"),
        (
            ["--cluster_by=passage"],
            "line 1: its document has no field 'passage'; --cluster_by takes one of: question, choices",
        ),
    ],
)
def test_flags_that_do_not_fit_are_named(pair, capsys, flags, said):
    with pytest.raises(InputError, match=re.escape(said)):
        compare(*pair, capsys, *flags)


def test_logs_of_both_tools_are_joined_by_task_and_document(logs, tmp_path):
    """Each tool scores the words by a metric of its own, so they are not comparable."""
    report, rows = report_of(logs / "lmms_eval/float32", log_of(logs / "lm_eval/float32", WORDS), tmp_path)
    assert rows["questions"] == (*["339 (339 in both)"] * 2, "same")
    assert rows["prompts"] == (*["339 of 339 equal"] * 2, "same")
    assert report["reasons"][0].startswith("not comparable: filter is words none on the evaluated run and words first")


def test_ten_options_are_judged_like_four(pair, tmp_path, capsys):
    def change(line):
        more = {
            f"gen_args_{k}": {"arg_0": line["arguments"]["gen_args_0"]["arg_0"], "arg_1": f" {k}"}
            for k in range(10, 17)
        }
        return line | {
            "arguments": line["arguments"] | more,
            "filtered_resps": line["filtered_resps"] + [["-99.0", "False"]] * 7,
        }

    paths = [copy_of(each, tmp_path / each.parent.name, change) for each in pair]
    _, text = compare(*paths, capsys, "--margin=3")
    assert "PASS by smoothed accuracy (margin 3 points" in text
    assert "eval 0.7965 (270/339)" in text


def test_a_repeated_evaluation_gives_the_noise_floor(pair, tmp_path):
    again = copy_of(pair[0], tmp_path / "again")
    report, _ = report_of(*pair, tmp_path, "--margin=3", f"--repeat_path={again}")
    assert report["divergence"]["noise_floor"]["repeat"]["largest_difference"]["max"] == 0
    other = copy_of(pair[0], tmp_path / "other", results=lambda content: content | {"model_name": "other"})
    with pytest.raises(InputError, match="repeats neither run: other checkpoint; name a second run of one"):
        report_of(*pair, tmp_path, f"--repeat_path={other}")


def test_check_file_takes_a_log(whole, capsys):
    assert main([f"--check_file={whole}"]) == 0
    found = capsys.readouterr().out
    assert "sample log, 339 replies, 0 of them failed" in found
    assert "338 of 339" not in found.split("smoothed accuracy")[0]


def test_a_log_is_not_compared_with_itself(whole, capsys):
    folder = whole.parent
    for other in (folder, whole):
        with pytest.raises(InputError, match=f"{other}: is used twice"):
            compare(folder, other, capsys)
    with pytest.raises(InputError, match=r"missing: --eval_gpu_path \(or --reference_path\);"):
        main([f"--eval_path={folder}"])


def test_a_log_is_compared_with_a_log(whole, tmp_path, capsys):
    ours = tmp_path / "ours.json"
    ours.write_text(json.dumps({"MSVD/1": {"output_sequence": ["A"]}}))
    with pytest.raises(InputError, match=r"is a log of lm-eval or lmms-eval, .*ours.json is not"):
        compare(whole, ours, capsys)
    (tmp_path / "x.jsonl").write_bytes(whole.read_bytes())
    with pytest.raises(InputError, match="its name does not say the task"):
        compare(tmp_path / "x.jsonl", whole, capsys)


def test_another_benchmark_in_our_rows_is_judged_and_not_called_video_bench(tmp_path, capsys):
    page = tmp_path / "page.html"
    status, text = compare_own_rows(tmp_path, capsys, arc_row, 600, 600, f"--report_html={page}")
    assert (status, "Next: done: keep both files" in text) == (0, True), text
    for shown in (text, re.sub(r"<style.*?</style>|<script.*?</script>", "", page.read_text(), flags=re.DOTALL)):
        assert "Video-Bench" not in shown
        assert "leaderboard" not in shown
    flags = ["--margin=0.1", f"--sampling_answer_path={tmp_path / 'answers.json'}"]
    report, _ = report_of(tmp_path / "npu.json", tmp_path / "gpu.json", tmp_path, *flags)
    assert "extract_dataset.py" not in report["summary"]["next_step"]
    assert "such questions, of this set or of several" in report["summary"]["next_step"]


@pytest.mark.parametrize("page", ["docs/any-benchmark.md", "docs/zh-CN/any-benchmark.md"])
def test_the_example_is_what_is_printed_for_these_logs(pair, capsys, page):
    printed = re.search(r"```text\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)[1]
    _, text = compare(*pair, capsys, "--names=NPU,GPU", "--margin=3", "--cluster_by=video")
    assert text.startswith(" ".join(printed.removesuffix("...\n").split()))
    for each in pair:
        assert value_in_table(each.parent, "acc", "none") in (ROOT / page).read_text().replace(printed, "")
