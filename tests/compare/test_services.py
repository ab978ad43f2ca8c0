"""A service's batch output against our own run: what shows that it was asked otherwise, and what to set; ids that are
off by one; which replies count as failed or missing; and what an option's bound is worth."""

import json
import math

import numpy as np
import pytest

import precision_test

KEYS = [f"MSVD/{number}" for number in range(40)]
OPTIONS = {"A": "cat", "B": "dog", "C": "cow"}
LOGPROBS = {"A": -0.01, "B": -5.0, "C": -6.0}
ENTRIES = [*LOGPROBS.items(), ("the", -9.0)]


def ours(**more):
    row = {"output_sequence": ["A"], "choices": OPTIONS, "letter_logprobs": LOGPROBS, "prompt_tokens": 130, **more}
    videos = {key: f"Eval_video/{key}.mp4" for key in KEYS}
    return {key: row | {"vid_path": video, "question": "which? A.cat B"} for key, video in videos.items()}


def line(key, entries=ENTRIES, chosen=0, finish_reason="stop", tokens=130, content="A"):
    top = [{"token": token, "logprob": logprob} for token, logprob in entries]
    logprobs = {"content": [{**top[chosen], "top_logprobs": top}]} if entries else None
    choice = {"message": {"content": content}, "finish_reason": finish_reason, "logprobs": logprobs}
    body = {"choices": [choice], "usage": {"prompt_tokens": tokens}}
    return {"custom_id": key, "response": {"status_code": 200, "body": body}, "error": None}


@pytest.fixture
def report_of(tmp_path, capsys):
    def compare(lines, *more, run=None, right=None):
        """JSON and printed text; `right`: key -> right letter, A of every question if not given."""
        answers = {key.split("/")[1]: letter for key, letter in (right or dict.fromkeys(KEYS, "A")).items()}
        (tmp_path / "out.jsonl").write_text("\n".join(map(json.dumps, lines)))
        (tmp_path / "run.json").write_text(json.dumps(run or ours()))
        (tmp_path / "a.json").write_text(json.dumps({"MSVD": answers}))
        paths = ("out.jsonl", "run.json", "a.json", "report.json")
        names = ("eval_path", "reference_path", "sampling_answer_path", "output_json")
        flags = [f"--{name}={tmp_path / path}" for name, path in zip(names, paths, strict=True)]
        precision_test.main([*flags, "--names", "vllm,ours", "--margin", "50", *more])
        return json.loads((tmp_path / "report.json").read_text()), " ".join(capsys.readouterr().out.split())

    return compare


@pytest.fixture
def facts(tmp_path):
    """Flags for the facts of our requests, which have 130 tokens."""

    def write(**more):
        rows = [{"custom_id": key, "prompt_tokens": 130, "prompt_sha256": "0" * 64, **more} for key in KEYS]
        (tmp_path / "facts.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return "--requests_facts", str(tmp_path / "facts.jsonl")

    return write


def test_a_service_that_was_asked_as_we_are_passes(report_of):
    report, text = report_of([line(key) for key in KEYS])
    assert (report["verdict"], report["services"], report["divergence"]["questions"]) == ("PASS", [], 40)
    assert report["divergence"]["largest_difference"]["max"] == 0
    assert "prompt tokens (number); " in text.partition(" the same: ")[2]


@pytest.mark.parametrize(
    ("change", "cause", "text", "fix"),
    [
        pytest.param({"chosen": 1}, "sampling", "40 of 40 replies hold a token", "temperature 0", id="sampled"),
        pytest.param({"finish_reason": "length"}, "cut_off", "40 of 40 replies were cut off", "max_tokens", id="cut"),
        pytest.param({"entries": []}, "no_logprobs", "no reply has log-probabilities", "top_logprobs 20", id="none"),
        pytest.param({"entries": ENTRIES[:2]}, "bounded", "have an option beyond the top", "top_logprobs", id="few"),
    ],
)
def test_what_is_not_set_is_said_with_what_to_set(report_of, change, cause, text, fix):
    report, printed = report_of([line(key, **change) for key in KEYS])
    [note] = report["services"]
    assert (note["side"], note["cause"], note["questions"]) == ("npu", cause, 40)
    assert note["text"].startswith("vllm: ")
    assert text in note["text"]
    assert fix in note["fix"]
    assert note["text"] in printed
    assert f"set: {note['fix']}" in printed
    assert (report["verdict"] == "INCONCLUSIVE") == (cause == "sampling")


def test_a_sampled_side_is_not_comparable(report_of):
    report, text = report_of([line(KEYS[0], chosen=1), *(line(key) for key in KEYS[1:])])
    assert report["decided_by"] == "inputs"
    assert "Next: ask the service again with temperature 0" in text


def test_another_number_of_prompt_tokens_is_told_first(report_of):
    report, text = report_of([line(key, tokens=131) for key in KEYS])
    assert report["verdict"] == "INCONCLUSIVE"
    assert text.startswith("INCONCLUSIVE: not comparable: the numbers of prompt tokens differ in 40 of 40 questions: ")
    assert report["inputs"]["other_prompt_tokens"] == KEYS


def test_nothing_is_judged_if_ids_are_off_by_one(report_of):
    """The replies to the next question: few prompts have the same length, by chance, and their numbers say nothing."""
    lengths = {key: 130 + number % 7 for number, key in enumerate(KEYS)}
    run = {key: row | {"prompt_tokens": lengths[key]} for key, row in ours().items()}
    spoilt = [("A", -3.0), ("B", -0.1), *ENTRIES[2:]]
    lines = [line(key, spoilt, 1, tokens=lengths[KEYS[number - 39]]) for number, key in enumerate(KEYS)]
    lines[5] = line(KEYS[5], spoilt, 1, tokens=lengths[KEYS[5]])
    report, _ = report_of(lines, run=run)
    assert report["verdict"] == "INCONCLUSIVE"
    assert report["divergence"]["questions"] == 0
    assert report["divergence"]["findings"] == []
    assert report["reasons"][0] == (
        "not comparable: the numbers of prompt tokens differ in 39 of 40 questions: the ids may be shifted, or the "
        "prompts are others"
    )


def test_another_number_of_prompt_tokens_than_the_request_makes(report_of, facts):
    """The other side counts none: the facts of the request say how many they should be."""
    mindie = {key: {"output_sequence": "A"} for key in KEYS}
    report, text = report_of([line(key, tokens=131) for key in KEYS], *facts(), run=mindie)
    assert report["verdict"] == "INCONCLUSIVE"
    assert report["inputs"]["other_prompt_tokens"] == KEYS
    assert [note["cause"] for note in report["services"] if note["side"] == "npu"] == ["prompt_tokens"]
    assert "prompt tokens (nu... 0 of 40 equal as exported DIFFERS" in text


@pytest.mark.parametrize("shift", [0, 1])
def test_ids_that_are_off_by_one_blame_no_service_whatever_it_counts(report_of, shift):
    """Without numbers of prompt tokens, letters that agree by chance alone are the only sign."""
    keys = [f"MSVD/{number}" for number in range(400)]
    letters = np.random.default_rng(0).integers(3, size=len(keys))
    right = {key: "ABC"[letter] for key, letter in zip(keys, letters, strict=True)}
    lines = [line(keys[number - shift], content=right[key], tokens=None) for number, key in enumerate(keys)]
    row = ours()[KEYS[0]]
    rows = {key: row | {"output_sequence": [right[key]], "vid_path": f"{key}.mp4"} for key in keys}
    report, _ = report_of(lines, run=rows, right=right)
    assert [each["cause"] for each in report["obstacles"]] == (["ids"] if shift else [])
    assert (report["verdict"] == "INCONCLUSIVE") == bool(shift)


@pytest.mark.parametrize(("named", "noted"), [("LLaVA-NeXT-Video-7B-hf", []), ("another-7b", ["model"])])
def test_a_service_that_names_another_model_than_was_asked_for_is_named(report_of, facts, named, noted):
    lines = [line(key) for key in KEYS]
    for each in lines:
        each["response"]["body"]["model"] = named
    report, text = report_of(lines, *facts(run={"model_asked": "LLaVA-NeXT-Video-7B-hf"}))
    assert [note["cause"] for note in report["services"]] == noted
    found = "40 of 40 replies name the model 'another-7b', the requests asked for 'LLaVA-NeXT-Video-7B-hf'"
    assert (found in text) == bool(noted)


def test_two_services_that_count_alike_were_asked_alike(report_of, facts, tmp_path):
    """Not as the checkpoint's template asks, which is said."""
    lines = [line(key, tokens=131) for key in KEYS]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report, text = report_of(lines, *facts(), "--reference_path", str(tmp_path / "b.jsonl"))
    assert report["verdict"] == "PASS"
    assert [(note["side"], note["cause"]) for note in report["services"]] == [
        ("npu", "prompt_tokens"), ("gpu", "prompt_tokens"),
    ]  # fmt: skip
    assert "40 of 40 replies counted another number of prompt tokens" in text


def test_no_divergence_without_log_probabilities_of_one_side(report_of):
    report, _ = report_of([line(key, entries=ENTRIES[:2]) for key in KEYS], run=ours(letter_logprobs={}))
    assert [note["cause"] for note in report["services"]] == ["bounded", "no_logprobs"]
    assert report["divergence"]["unknown"] == "a side stores no log-probabilities"


def test_prompt_tokens_are_not_compared_if_hashes_are(report_of, tmp_path):
    (tmp_path / "b.json").write_text(json.dumps(ours(prompt_sha256="0" * 64, prompt_tokens=99)))
    report, _ = report_of([], "--eval_path", str(tmp_path / "b.json"), run=ours(prompt_sha256="0" * 64))
    assert report["inputs"]["other_prompt_tokens"] == []


def test_failed_and_missing_lines_are_that(report_of):
    broken = {"custom_id": KEYS[1], "response": {"status_code": 500, "body": "down"}, "error": None}
    report, _ = report_of([broken, *(line(key) for key in KEYS[2:])])
    assert report["listed"]["npu"] == {"unreadable": [], "failed": [KEYS[1]], "missing": [KEYS[0]]}


def test_a_reply_is_read_with_the_other_sides_options(report_of):
    """A service's line does not hold them, and "dog" is B."""
    report, _ = report_of([line(key, content="dog") for key in KEYS])
    assert {flip["npu_letter"] for flip in report["flips"]} == {"B"}
    assert report["inputs"]["table"][1]["state"] == "not stored"  # lent options are no evidence that they are the same


@pytest.mark.parametrize(
    ("entries", "exact"),
    [
        pytest.param([("A", -0.01), ("B", -5.0), ("x", -7.0)], 0, id="bounded"),
        pytest.param([("A", -0.01), ("B", -5.0), ("x", -21.0)], 40, id="bounded-below-the-floor"),
    ],
)
def test_a_bounded_option_plays_no_part_in_the_divergence(report_of, entries, exact):
    report, _ = report_of([line(key, entries) for key in KEYS])
    assert report["divergence"]["questions"] == exact


def test_a_bound_counts_in_smoothed_accuracy(report_of):
    """The right option at -2 at most, the best wrong one at -0.2: Phi((-2 + 0.2) / 0.5), and of ours 1, or nearly."""
    entries = [("B", -0.2), ("x", -2.0)]
    report, _ = report_of([line(key, entries, content="B") for key in KEYS])
    expected = 50 * (math.erfc(3.6 / math.sqrt(2)) - math.erfc(-(4.99 / 0.5) / math.sqrt(2)))
    assert report["smoothed"]["difference_points"] == pytest.approx(expected, abs=1e-6)
