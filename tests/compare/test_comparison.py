"""Two runs and their answers through the script: figures by hand; the verdict and --gate; what is missing, failed or
was asked otherwise, and so allows no PASS; the table of inputs; other ways of scoring; a repeated run's noise floor;
accuracy by data set."""

import json

import numpy as np
import pytest

import precision_test
from videobench.compare.accuracy import compare_groups, compare_paired
from videobench.compare.pairing import Pair, Side, tabulate
from videobench.data.dataset import DATASET_NAMES
from videobench.data.rows import build_reply
from videobench.errors import InputError


def write_run(folder, replies, **more):
    """One result file MSVD_eval.json of {id: text}; an exception's text becomes a failed row."""
    folder.mkdir(exist_ok=True)
    rows = {}
    for id, text in replies.items():
        failed = isinstance(text, Exception)
        reply = {"output_sequence": [""], "error": str(text)} if failed else {"output_sequence": [text]}
        rows[id] = {"video_id": f"v{id}", **reply, **more}
    (folder / "MSVD_eval.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


@pytest.fixture
def compare_files(tmp_path, capsys):
    def run(npu, gpu, answers, *flags, **other_sets):
        """Exit status, printed lines and JSON of a comparison."""
        (tmp_path / "ANSWER.json").write_text(json.dumps({"MSVD": answers, **other_sets}), encoding="utf-8")
        report = tmp_path / "report.json"
        paths = [
            f"--eval_npu_path={npu}",
            f"--eval_gpu_path={gpu}",
            f"--sampling_answer_path={tmp_path / 'ANSWER.json'}",
        ]
        status = precision_test.main([*paths, f"--output_json={report}", *flags])
        return status, capsys.readouterr().out.splitlines(), json.loads(report.read_text())

    return run


@pytest.fixture
def compare(tmp_path, compare_files):
    def run(npu, gpu, *flags, npu_row=None, gpu_row=None, **other_sets):
        """As compare_files; `npu` and `gpu` are {id: text}, and A is the right answer to each question of the GPU's."""
        runs = write_run(tmp_path / "npu", npu, **(npu_row or {})), write_run(tmp_path / "gpu", gpu, **(gpu_row or {}))
        return compare_files(*runs, dict.fromkeys(gpu, "A"), *flags, **other_sets)

    return run


def all_a(count, wrong=0):
    """That many replies A, the first `wrong` of them B."""
    return {str(each): "B" if each < wrong else "A" for each in range(count)}


def test_figures_by_hand(compare):
    npu = {"1": "A", "2": "B", "3": "A", "4": "C", "5": "no idea", "6": RuntimeError("broken"), "8": "A"}
    gpu = {"1": "A", "2": "A", "3": "B", "4": "B", "5": "A", "6": "A", "7": "A", "8": "A"}
    _, lines, report = compare(npu, gpu)
    assert "gpu 0.7500 (6/8), 0 unreadable, 0 failed, 0 missing" in lines
    assert "npu 0.3750 (3/8), 1 unreadable, 1 failed, 1 missing" in lines
    assert report["npu"] == {"correct": 3, "total": 8, "unreadable": 1, "failed": 1, "missing": 1, "accuracy": 0.375}
    assert report["compared"] == {
        "questions": 7, "videos": 7, "both_right": 2, "both_wrong": 1,
        "npu_accuracy": pytest.approx(3 / 7), "gpu_accuracy": pytest.approx(5 / 7),
    }  # fmt: skip
    assert report["over"] == [
        "the differences are over the 7 questions that both files have (42.86 % on the NPU, 71.43 % on the GPU); each "
        "side's own percentage counts missing answers as wrong"
    ]
    assert report["mcnemar"] == {"npu_only": 1, "gpu_only": 3, "p_value": pytest.approx(10 / 16)}
    assert report["difference_points"] == pytest.approx(-200 / 7)
    assert report["agreement"] == pytest.approx(2 / 7)
    assert report["inputs"]["only_gpu"] == ["MSVD/7"]
    assert report["listed"]["npu"] == {"unreadable": ["MSVD/5"], "failed": ["MSVD/6"], "missing": ["MSVD/7"]}
    assert {flip["key"].removeprefix("MSVD/"): flip["class"] for flip in report["flips"]} == {
        "2": "unknown", "3": "unknown", "4": "unknown", "5": "format", "6": "failed",
    }  # fmt: skip
    assert report["per_dataset"]["MSVD"]["difference_points"] == report["difference_points"]
    assert report["per_level"]["1"]["name"] == "video-exclusive"
    assert report["weighted_average"]["gpu"] == {"1": 75.0, "all": 75.0}
    assert any(line.startswith("npu missing 1: MSVD/7") for line in lines)


def test_the_verdict_comes_first_and_the_inputs_before_the_numbers(compare, tmp_path):
    _, lines, _ = compare(all_a(20), all_a(20))
    order = ("INCONCLUSIVE", "Were the", "gpu 1.", "npu 1.")
    starts = [next(index for index, line in enumerate(lines) if line.startswith(start)) for start in order]
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80  # a path is not broken


@pytest.mark.parametrize(
    ("wrong", "margin", "verdict", "status"),
    [
        pytest.param(0, "1", "PASS", 0, id="equal-within-one-point"),
        pytest.param(0, "0.5", "INCONCLUSIVE", 3, id="equal-but-too-few-for-half-a-point"),
        pytest.param(100, "1", "FAIL", 1, id="a-quarter-lost"),
        pytest.param(4, "1", "INCONCLUSIVE", 3, id="one-point-lost"),
        pytest.param(11, "1.1", "INCONCLUSIVE", 3, id="95-percent-interval-outside-but-not-99"),
        pytest.param(15, "1.1", "FAIL", 1, id="both-intervals-outside"),
        pytest.param(100, "50", "PASS", 0, id="a-wide-margin"),
    ],
)
def test_the_verdict_and_the_exit_status_of_gate(compare, wrong, margin, verdict, status):
    got, lines, report = compare(all_a(400, wrong), all_a(400), "--gate", "--margin", margin)
    assert (report["verdict"], got) == (verdict, status)
    assert lines[0].startswith(verdict)
    assert (report["questions_needed"]["text"] is None) == (verdict != "INCONCLUSIVE")


@pytest.mark.parametrize(
    ("margin", "verdict", "points"),
    [
        pytest.param("98%", "PASS", 1.2, id="relative"),  # 2 % of 600 right of 1000
        pytest.param("99.5%", "INCONCLUSIVE", 0.3, id="relative-and-too-narrow"),
        pytest.param("1", "PASS", 1, id="points"),
    ],
)
def test_a_margin_relative_to_the_reference_s_accuracy(compare, margin, verdict, points):
    replies = all_a(1000, wrong=400)
    _, _, report = compare(replies, replies, "--margin", margin)
    assert (report["verdict"], report["margin_points"]) == (verdict, pytest.approx(points))
    size = float(margin.removesuffix("%"))
    assert report["margin"] == {"size": size, "is_relative": "%" in margin, "one_sided": False}


@pytest.mark.parametrize(
    ("wrong_on_npu", "wrong_on_gpu", "statuses"),
    [
        pytest.param(0, 100, (1, 0), id="a-better-npu"),
        pytest.param(100, 0, (1, 1), id="a-worse-npu"),
        pytest.param(0, 0, (0, 0), id="equal"),
        pytest.param(4, 0, (3, 3), id="one-point-lost"),
    ],
)
def test_a_one_sided_gate_is_against_loss_only(compare, wrong_on_npu, wrong_on_gpu, statuses):
    for flags, status in zip(([], ["--one_sided"]), statuses, strict=True):
        got, _, report = compare(all_a(400, wrong_on_npu), all_a(400, wrong_on_gpu), "--gate", *flags)
        assert (got, report["margin"]["one_sided"]) == (status, bool(flags))


def test_without_gate_the_status_says_only_that_it_worked(compare):
    assert compare(all_a(4, wrong=4), all_a(4))[0] == 0


@pytest.mark.parametrize(("answered", "status"), [(0, 3), (400, 3), (3400, 0)])
def test_what_both_sides_left_unanswered_does_not_make_a_pass(compare, answered, status):
    """Five questions lost of those answered, and 3000 videos missing on both sides."""
    missing = {f"missing{each}": OSError("no such file") for each in range(3000)}
    got, _, report = compare(all_a(answered, wrong=5) | missing, all_a(answered) | missing, "--gate")
    assert got == status
    silent = "3000 questions have no letter on either side; without them this would be no PASS: answer them"
    assert (report["reasons"][0] == silent) == (status == 3)


def test_a_set_that_one_file_lacks_allows_no_pass(tmp_path, compare):
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "MOT_eval.json").write_text(json.dumps({"1": {"output_sequence": ["F"]}}))
    status, lines, report = compare(all_a(1000), all_a(1000), "--gate", MOT={"1": "F"})
    assert (status, report["verdict"], report["inputs"]["datasets_only_gpu"]) == (3, "INCONCLUSIVE", {"MOT": 1})
    assert report["reasons"][0].startswith(
        "not comparable: sets that only one file has are left out (MOT, 1 question): answer them on both sides"
    )
    assert set(report["questions_needed"].values()) == {None}  # more questions would not decide it
    assert not any("with a chance of 90 %" in line for line in lines)
    assert compare(all_a(1000), all_a(1000), "--gate")[0] == 0  # of a set that the answers do not ask for


def test_answers_that_neither_side_replied_to_are_counted(tmp_path, compare_files):
    npu, gpu = (write_run(tmp_path / side, {"1": "A"}) for side in ("npu", "gpu"))
    _, lines, report = compare_files(npu, gpu, {"1": "A", "2": "B"}, MOT={"1": "F"})
    assert "  right answers of questions that neither side has: 2" in lines
    assert report["inputs"]["answers_without_reply"] == 2


@pytest.mark.parametrize(
    ("with_other_prompts", "status"),
    [
        pytest.param(range(900, 1000), 1, id="the-others-show-the-loss"),
        pytest.param(range(200), 3, id="only-those-are-lost"),
        pytest.param(range(1000), 3, id="all-of-them"),
    ],
)
def test_other_prompts_excuse_no_fail_of_questions_with_the_same(tmp_path, compare_files, with_other_prompts, status):
    """The first 200 answers of 1000 are lost."""
    gpu = write_run(tmp_path / "gpu", all_a(1000), prompt_sha256="a")
    npu = write_run(tmp_path / "npu", all_a(1000, wrong=200), prompt_sha256="a")
    rows = json.loads((npu / "MSVD_eval.json").read_text())
    for each in with_other_prompts:
        rows[str(each)]["prompt_sha256"] = "b"
    (npu / "MSVD_eval.json").write_text(json.dumps(rows))
    got, _, report = compare_files(npu, gpu, dict.fromkeys(rows, "A"), "--gate")
    assert got == status
    assert any(f"token ids differ in {len(with_other_prompts):,} questions" in each for each in report["reasons"])
    assert len(report["inputs"]["other_prompts"]) == len(with_other_prompts)
    assert set(report["questions_needed"].values()) == {None}  # more of them would not help
    assert report["reasons"][0].startswith("not comparable") == (status == 3)


def test_another_release_of_torch_is_another_input(compare):
    npu, gpu = ({"run": {"torch": version}} for version in ("2.13.0+cpu", "2.12.0+cpu"))
    assert compare({"1": "A"}, {"1": "A"}, npu_row=npu, gpu_row=gpu)[2]["inputs"]["differing"] == ["torch"]


def test_table_of_inputs(compare):
    def run(**settings):
        return {"pixels_sha256": "p", "run": {"num_frames": 8, "checkpoint_sha256": "c" * 64, **settings}}

    npu = run(device="npu", dtype="float16", batch_size=16, tensor_parallel=2, torch="2.13.0+cpu")
    gpu = run(device="cuda", dtype="float32", batch_size=8, cuda="13", tensor_parallel=1, torch="2.13.0+cu130")
    _, lines, report = compare({"1": "A"}, {"1": "A"}, npu_row=npu, gpu_row=gpu)
    states = {row["name"]: (row["npu"], row["gpu"], row["state"]) for row in report["inputs"]["table"]}
    assert (
        states.items()
        >= {
            "questions": ("1 (1 in both)", "1 (1 in both)", "same"),
            "prompts (token ids)": ("not stored", "not stored", "not stored"),
            "pixels": ("1 of 1 equal", "1 of 1 equal", "same"),
            "device": ("npu", "cuda", "differs, as it may"),
            "batch_size": ("16", "8", "differs, as it may"),
            "tensor_parallel": ("2", "1", "differs, as it may"),
            "torch": ("2.13.0+cpu", "2.13.0+cu130", "differs, as it may"),
            "checkpoint_sha256": ("c" * 12, "c" * 12, "same"),
            "dtype": ("float16", "float32", "DIFFERS"),
            "cuda": ("not stored", "13", "not stored"),
        }.items()
    )
    assert report["inputs"]["differing"] == ["dtype"]
    assert "Were the inputs the same? no: dtype" in lines


def test_mindie_file_against_our_own(tmp_path, compare_files):
    """MindIE writes a bare text and no log-probabilities."""
    gpu = write_run(tmp_path / "gpu", {"1": "B", "2": "A"}, letter_logprobs={"A": -1.0, "B": -0.5})
    npu = tmp_path / "MSVD_eval.json"
    npu.write_text(json.dumps({"1": {"output_sequence": "The answer is B"}, "2": {"output_sequence": "B. Trees"}}))
    _, lines, report = compare_files(npu, gpu, {"1": "B", "2": "B"})
    assert "npu 1.0000 (2/2), 0 unreadable, 0 failed, 0 missing" in lines
    assert "Numeric divergence: not known, a side stores no log-probabilities" in lines
    assert (report["divergence"]["questions"], report["divergence"]["largest_difference"]) == (0, None)


def test_logprob_scoring_of_a_run_without_log_probabilities_is_refused(tmp_path, compare_files):
    npu = write_run(tmp_path / "npu", {"1": "A", "2": "B"})
    gpu = write_run(tmp_path / "gpu", {"1": "A", "2": "B"}, letter_logprobs={"A": -3.0, "B": -0.1})
    with pytest.raises(InputError, match=f"{npu}: no reply has log-probabilities.*; use --scoring strict"):
        compare_files(npu, gpu, {"1": "B", "2": "B"}, "--scoring", "logprob")
    npu = write_run(tmp_path / "npu", {"1": RuntimeError("NaN"), "2": RuntimeError("NaN")})  # a fault, to be judged
    _, lines, _ = compare_files(npu, gpu, {"1": "B", "2": "B"}, "--scoring", "logprob")
    assert "npu 0.0000 (0/2), 0 unreadable, 2 failed, 0 missing" in lines
    assert "gpu 1.0000 (2/2), 0 unreadable, 0 failed, 0 missing" in lines  # whatever the texts say


def test_repeated_run_gives_the_noise_floor(tmp_path, compare_files):
    rng = np.random.default_rng(0)
    folders = []
    for side, noise in (("npu", 0.03), ("gpu", 0.0), ("again", 0.05)):
        values = {str(id): -1.0 - id / 100 + noise * rng.normal() for id in range(200)}
        rows = {
            id: {"output_sequence": ["A"], "letter_logprobs": {"A": -0.5, "B": value}, "run": {"dtype": "float16"}}
            for id, value in values.items()
        }
        folders.append(tmp_path / f"{side}_MSVD.json")
        folders[-1].write_text(json.dumps({f"MSVD/{key}": row for key, row in rows.items()}))
    answers = dict.fromkeys(map(str, range(200)), "A")
    plain = compare_files(*folders[:2], answers)[2]["divergence"]["noise_floor"]
    repeated = compare_files(*folders[:2], answers, "--repeat_path", str(folders[2]))[2]["divergence"]["noise_floor"]
    assert "no repeated run" in plain["source"]
    assert plain["repeat"] is None
    assert repeated["margin"] == pytest.approx(0.05 * 2.58, rel=0.25)  # 99 % of a normal shift; nearer to the GPU run
    assert repeated["repeat"]["margin_shift"]["median"] == pytest.approx(0.05 * 0.67, rel=0.25)
    again = json.loads(folders[2].read_text())
    again["MSVD/7"] = {"output_sequence": [""], "nonfinite": True, "error": "NaN", "run": {"dtype": "float16"}}
    folders[2].write_text(json.dumps(again))
    found = compare_files(*folders[:2], answers, "--repeat_path", str(folders[2]))[2]["divergence"]["findings"]
    assert found[0]["cause"] == "repeat"
    assert found[0]["text"].endswith("; questions in which one of both alone holds NaN or infinity: 1")
    folders[2].write_text(folders[2].read_text().replace("float16", "float32"))
    with pytest.raises(InputError, match="repeats neither run: other dtype; name a second run of one"):
        compare_files(*folders[:2], answers, "--repeat_path", str(folders[2]))


def test_a_run_without_log_probabilities_is_not_said_to_repeat_neither_run(tmp_path, compare_files):
    paths = []
    for side, dtype, logprobs in (("npu", "bfloat16", True), ("gpu", "float32", True), ("again", "bfloat16", False)):
        more = {"letter_logprobs": {"A": -0.1, "B": -3.0}} if logprobs else {}
        paths.append(write_run(tmp_path / side, {"1": "A", "2": "B"}, run={"dtype": dtype}, **more))
    with pytest.raises(InputError, match="no reply with log-probabilities to a question that was compared"):
        compare_files(*paths[:2], {"1": "A", "2": "B"}, "--repeat_path", str(paths[2]))


def pairs_of_a_set(name, lost, videos):
    """Fifty questions that the GPU has right and the NPU all but `lost`."""
    pairs = []
    for id in range(50):
        reply = build_reply((name, str(id)), str(id), {"output_sequence": ["A"], "video_id": id % videos})
        npu = Side(reply, "B", "wrong") if id < lost else Side(reply, "A", "right")
        pairs.append(Pair(name, str(id), "A", npu, Side(reply, "A", "right")))
    return pairs


def test_a_set_that_differs_is_found_among_many():
    sets = {name: 20 if name == "TVQA" else 0 for name in DATASET_NAMES}
    groups = compare_groups([pair for name, lost in sets.items() for pair in pairs_of_a_set(name, lost, 50)])
    corrected = {name: group.p_corrected for name, group in groups.per_dataset.items()}
    assert corrected == {name: pytest.approx(13 * 2**-19) if name == "TVQA" else 1.0 for name in DATASET_NAMES}
    assert groups.per_level[2].paired.estimate.difference == pytest.approx(-100 * 20 / 150)


def test_twenty_answers_lost_on_one_video_prove_little():
    paired = compare_paired(tabulate(pairs_of_a_set("TVQA", 20, videos=1)))
    assert (paired.p_value, paired.p_clustered) == (pytest.approx(2**-19), 1.0)
