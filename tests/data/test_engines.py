"""Lines of other engines: their kind is detected, they are read as they are, and nothing is guessed."""

import json
import math
from pathlib import Path

import pytest

from tests.support.engine_lines import aisbench, aisbench_failure, batch, position, write_lines
from tests.support.paths import ASSETS
from videobench.data.dataset import load_questions, qa_file
from videobench.data.engines import kind_of
from videobench.data.results import Asked, load_facts, load_results, load_sides
from videobench.data.rows import question_fields
from videobench.errors import InputError

ENGINES = ASSETS / "engines"
ANSWERS = {("MSVD", str(number)): "A" for number in range(9)}


def failed(key="MSVD/1", status=400, body=None, error=None):
    return {"custom_id": key, "response": {"status_code": status, "body": body}, "error": error}


def asked(text, options="A.cat B.dog"):
    return f"{text} {options} \n Among the two options A, B above,"


def known(folder, **rows):
    """Write our own replies, to whose questions other engines' lines are joined."""
    content = {
        f"MSVD/{id}": {
            "dataset": "MSVD",
            "vid_path": f"Eval_video/MSVD/{video}",
            "question": asked(text),
            "choices": {"A": "cat", "B": "dog"},
            "output_sequence": ["B"],
        }
        for id, (video, text) in rows.items()
    }
    path = folder / "ours.json"
    path.write_text(json.dumps(content))
    return path


def sample(text, reply="A", **more):
    line = {"doc_id": 0, "target": "B", "filtered_resps": reply, "doc_hash": "0", "input": text, "token_counts": [None]}
    return line | more


def joined(folder, theirs):
    """Their replies, joined to the questions in ours.json."""
    return load_sides([theirs, folder / "ours.json"], ANSWERS)[0]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        pytest.param(batch(), "OpenAI batch output", id="batch"),
        pytest.param({"custom_id": "1", "method": "POST", "body": {}}, "OpenAI batch requests", id="requests"),
        pytest.param(aisbench("file:///x.mp4", asked("what")), "AISBench predictions", id="aisbench"),
        pytest.param(sample("what"), "sample log", id="sample-log"),
        pytest.param({"1": {"output_sequence": "A"}}, "result file", id="ours-on-one-line"),
    ],
)
def test_the_kind_is_detected_from_the_content(tmp_path, content, kind):
    assert kind_of(write_lines(tmp_path / "x.json", content)) == kind


@pytest.mark.parametrize(
    ("contents", "found"),
    [
        pytest.param([{"question": "a"}, {"question": "b"}], "unknown kind .*'question'.*name a result", id="unknown"),
        pytest.param([batch(), sample("what")], "line 2: not OpenAI batch output", id="another-kind-behind"),
        pytest.param([{"custom_id": "1", "body": {}}], "holds what was asked .OpenAI batch requests.", id="requests"),
        pytest.param([{"custom_id": "1", "prompt_sha256": "0"}], "holds what was asked .facts about", id="facts"),
        pytest.param([batch(), batch()], "line 2 answers the same question as .*line 1", id="a-question-twice"),
    ],
)  # fmt: skip
def test_other_lines_are_refused(tmp_path, contents, found):
    with pytest.raises(InputError, match=found):
        load_results(write_lines(tmp_path / "x.jsonl", *contents), ANSWERS)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        pytest.param(lambda content: b"<html>404</html>\n" + content, "a web page in place of", id="a-web-page"),
        pytest.param(lambda content: content[:-9], "line 2: not JSON: .*was it cut short", id="cut-short"),
        pytest.param(lambda content: content + b"[]\n", "line 3: not OpenAI batch output, which has", id="a-list"),
        pytest.param(lambda content: content + b'{"a": NaN}\n', "line 3: the number NaN is not JSON", id="NaN"),
        pytest.param(lambda content: content + b" " * 9999, "line 3: longer than 9000 bytes", id="long-line"),
    ],
)
def test_a_broken_file_of_lines_is_refused(tmp_path, monkeypatch, damage, found):
    monkeypatch.setattr("videobench.data.engines.MAX_LINE_BYTES", 9000)
    path = write_lines(tmp_path / "x.jsonl", batch(), batch("MSVD/2"))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=f"x.jsonl: .*{found}"):
        load_results(path, ANSWERS)


@pytest.mark.parametrize(
    ("contents", "found"),
    [
        pytest.param([batch()], "not a facts file; name the one", id="replies"),
        pytest.param([{"custom_id": "MSVD/1", "prompt_sha256": 7}], "line 1: prompt_sha256 is 7", id="hash"),
        pytest.param([{"custom_id": "NBA/1", "prompt_sha256": "", "dataset": "MOT"}], "its key names NBA", id="key"),
        pytest.param(
            [{"custom_id": "NBA/1", "prompt_sha256": ""}] * 2, "line 2: NBA/1 is in the file twice", id="twice"
        ),
    ],
)
def test_other_facts_are_refused(tmp_path, contents, found):
    with pytest.raises(InputError, match=found):
        load_facts(write_lines(tmp_path / "x.jsonl", *contents))


def test_a_batch_reply_is_read(tmp_path):
    entries = [("A", -0.25), ("B", -2.0), ("\u2581A", -3.0), ("the", -4.0), (" C ", -5.0)]
    path = write_lines(tmp_path / "x.jsonl", batch(content=" A", positions=[position(*entries)]))
    reply = load_results(path, ANSWERS)["MSVD", "1"]
    assert (reply.text, reply.prompt_tokens, reply.finish_reason, reply.is_greedy) == (" A", 130, "stop", True)
    both = math.log(math.exp(-0.25) + math.exp(-3.0))
    assert reply.logprobs == pytest.approx({"A": both, "B": -2.0, "C": -5.0})
    assert reply.bounds == {"D": -5.0, "E": -5.0, "F": -5.0}
    assert reply.run == {"model": "tiny"}


X_OR_A = position(("x", -1.0), ("A", -1.01), chosen=1)
A_OR_B = position(("A", -1.0), ("B", -2.0))


@pytest.mark.parametrize(
    ("positions", "is_greedy", "logprobs", "bound"),
    [
        pytest.param(None, None, {}, None, id="no-logprobs"),
        pytest.param([], None, {}, None, id="no-token"),
        pytest.param([{"token": "A", "logprob": -0.1, "top_logprobs": []}], None, {}, None, id="chosen-alone"),
        pytest.param([X_OR_A], True, {"A": -1.01}, -1.01, id="a-tie"),
        pytest.param([position(("x", -1.0), ("A", -2.0), chosen=1)], False, {"A": -2.0}, -2.0, id="sampled"),
        pytest.param(
            [A_OR_B, position(("x", -1.0), ("y", -2.0), chosen=1)],
            False,
            {"A": -1.0, "B": -2.0},
            -2.0,
            id="sampled-later",
        ),
        pytest.param([A_OR_B | {"logprob": -1.01}], True, {"A": -1.0, "B": -2.0}, -2.0, id="rounded-otherwise"),
        pytest.param(
            [A_OR_B | {"token": "C", "logprob": -9.0}],
            False,
            {"A": -1.0, "B": -2.0, "C": -9.0},
            -2.0,
            id="beyond-the-top",
        ),
    ],
)
def test_log_probabilities_of_a_batch(tmp_path, positions, is_greedy, logprobs, bound):
    """The chosen token counts once. Letters that are not listed are at most as probable as the last of the top."""
    reply = load_results(write_lines(tmp_path / "x.jsonl", batch(positions=positions)), ANSWERS)["MSVD", "1"]
    assert (reply.is_greedy, reply.logprobs) == (is_greedy, logprobs)
    assert reply.bounds == (
        {} if bound is None else dict.fromkeys([each for each in "ABCDEF" if each not in logprobs], bound)
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param(failed(body={"error": {"message": "too\nlong"}}), "status 400: too long", id="status"),
        pytest.param(failed(status=200, error={"code": "x", "message": "expired"}), "expired", id="error"),
        pytest.param({"custom_id": "MSVD/1", "response": None, "error": "gone"}, "gone", id="no-response"),
        pytest.param({"custom_id": "MSVD/1", "response": None, "error": None}, "no reason is given", id="nothing"),
        # As the batch runner of vLLM 0.32.0 writes its ErrorResponse.
        pytest.param(
            failed(error={"error": {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}}),
            "status 400: too long",
            id="vllm",
        ),
        pytest.param(failed(status=422, body={"detail": "no field model"}), "status 422: no field model", id="fastapi"),
        pytest.param(failed(status=200, body={"error": {"message": "busy"}}), "busy", id="error-with-status-200"),
        pytest.param(failed(status=200, body={"choices": []}), "no reason is given", id="no-choices"),
        pytest.param(
            batch(positions=[{"token": "A", "logprob": None}]), "the logits hold NaN or infinity", id="NaN-as-null"
        ),
    ],
)
def test_a_failed_line_is_a_failed_reply(tmp_path, line, reason):
    reply = load_results(write_lines(tmp_path / "x.jsonl", line), ANSWERS)["MSVD", "1"]
    assert reply.error == reason


@pytest.mark.parametrize(
    ("line", "found"),
    [
        pytest.param(batch(key=7), "custom_id is 7", id="key-is-a-number"),
        pytest.param(batch(content=["A"]), "message.content is", id="content-is-a-list"),
        pytest.param(batch(positions=[position(("token_id:3", -1.0))]), "are numbers", id="token-ids"),
        pytest.param(batch(positions=[position(("A", "x"))]), "is 'x', not a number", id="logprob-is-a-text"),
        pytest.param(batch(positions=[position(("A", 0.5), ("B", -1.0))]), "letter_logprobs is", id="above-zero"),
        pytest.param(
            failed(status=200, body={"choices": [{}, {}]}), "choices holds 2 replies", id="two-replies"
        ),
    ],
)  # fmt: skip
def test_a_broken_batch_line_is_refused(tmp_path, line, found):
    with pytest.raises(InputError, match=f"x.jsonl: line 1: .*{found}"):
        load_results(write_lines(tmp_path / "x.jsonl", line), ANSWERS)


def test_predictions_of_aisbench_find_their_questions(tmp_path):
    known(tmp_path, **{"1": ("a.avi", "what is it"), "2": ("a.avi", "what is it doing"), "3": ("b.avi", "what is it")})
    path = write_lines(
        tmp_path / "videobench.jsonl",
        aisbench("file:///data/MSVD/b.avi", asked("what is it"), "B"),
        aisbench("file:///data/MSVD/a.avi", asked("what is it doing") + " ASSISTANT:", "C"),
        aisbench("file:///data/MSVD/other.avi", asked("what is it"), "D"),
    )
    failure = aisbench_failure("file:///data/MSVD/a.avi", asked("what is it"))
    write_lines(tmp_path / "videobench_failed.jsonl", failure)
    replies = joined(tmp_path, path)
    assert {id: (each.text, each.error) for (_, id), each in replies.items()} == {
        "3": ("B", ""), "2": ("C", ""), "1": ("", "timed out"),
    }  # fmt: skip


def test_equal_questions_take_their_replies_in_order(tmp_path):
    known(tmp_path, **{"1": ("a.avi", "what"), "2": ("a.avi", "what")})
    line = aisbench("a.avi", asked("what"))
    assert len(joined(tmp_path, write_lines(tmp_path / "x.jsonl", line, line))) == 2
    with pytest.raises(InputError, match=r"line 3 answers the same question as .*line 2"):
        joined(tmp_path, write_lines(tmp_path / "x.jsonl", line, line, line))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        pytest.param(
            aisbench("data:video/jpeg;base64,AA", asked("what")), "none of its 1 lines has", id="frames-inline"
        ),
        pytest.param(
            aisbench("c.avi", asked("what")), "none of its 1 lines has a question of the other side", id="unknown-video"
        ),
        pytest.param(aisbench("a.avi", asked("what", "A.dog B.cat")), "none of its 1 lines", id="exchanged-options"),
        pytest.param(aisbench("a.avi", asked("Look. what")), "none of its 1 lines", id="longer-text"),
        pytest.param(sample("what A.cat B.dog"), "can only be compared with another such log", id="lmms-eval"),
        pytest.param(aisbench("a.avi", asked("what"), ["A"]), "prediction is", id="prediction-is-a-list"),
        pytest.param(
            aisbench("a.avi", asked("what"), origin_prompt=[{"prompt": [7]}]), "its prompt holds 7", id="prompt"
        ),
    ],
)
def test_nothing_is_guessed(tmp_path, line, found):
    known(tmp_path, **{"1": ("a.avi", "what"), "2": ("b.avi", "what")})
    with pytest.raises(InputError, match=found):
        joined(tmp_path, write_lines(tmp_path / "x.jsonl", line))


def test_two_sides_without_keys_are_refused(tmp_path):
    paths = [write_lines(tmp_path / f"{side}.jsonl", aisbench("a.avi", asked("what"))) for side in "ab"]
    with pytest.raises(InputError, match=r"which name no questions; name the facts file .*--requests_facts"):
        load_sides(paths, ANSWERS)
    known(tmp_path, **{"1": ("a.avi", "what")})
    facts = Asked([*load_results(tmp_path / "ours.json", ANSWERS).values()])
    assert [list(each) for each in load_sides(paths, ANSWERS, facts=facts)] == [[("MSVD", "1")]] * 2


def test_what_aisbench_wrote_is_the_same_replies(tmp_path, capsys):
    """vLLM's, put through AISBench 3.1.20260630: its data set's reader, its prompt template and its
    GenInferencerOutputHandler. It lists empty options, and options in the order of the file, A, B, D, C: so two of its
    questions are others than ours."""
    questions = load_questions(qa_file(ASSETS / "egs/Video-Bench", "MSVD"), "MSVD", Path)
    ours = tmp_path / "MSVD_eval.json"
    ours.write_text(json.dumps({each.id: question_fields(each) | {"output_sequence": ["A"]} for each in questions}))
    theirs, _ = load_sides([ENGINES / "aisbench-3.1/videobench.jsonl", ours], ANSWERS)
    vllm = load_results(ENGINES / "vllm-0.32.0.jsonl", ANSWERS)
    assert len(theirs) == 10
    assert "2 of 12 lines answer no question of the other side; they are left out" in capsys.readouterr().err
    assert all(each.text == vllm[name].text.strip() for name, each in theirs.items())
