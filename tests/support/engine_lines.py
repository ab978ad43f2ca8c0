"""Lines as other engines write them."""

import json

from videobench.data.dataset import build_question_text


def write_lines(path, *lines):
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in lines), encoding="utf-8")
    return path


def position(*entries, chosen=0):
    """The log-probabilities of one token of a reply: those of `entries`, of which one was chosen."""
    top = [{"token": token, "logprob": logprob, "bytes": [65]} for token, logprob in entries]
    return {**top[chosen], "top_logprobs": top}


def batch(key="MSVD/1", content="A", positions=None):
    choice = {"index": 0, "message": {"content": content}, "finish_reason": "stop"}
    if positions is not None:
        choice["logprobs"] = {"content": positions}
    usage = {"prompt_tokens": 130, "completion_tokens": 2}
    body = {"model": "tiny", "choices": [choice], "usage": usage}
    return {"id": "x", "custom_id": key, "response": {"status_code": 200, "body": body}, "error": None}


def _prompt(video, text):
    url = {"type": "video_url", "video_url": {"url": video}}
    return [{"role": "HUMAN", "prompt": [url, {"type": "text", "text": text}]}]


def aisbench(video, text, prediction="A", **more):
    line = {"data_abbr": "videobench", "id": 0, "success": True, "prediction": prediction, "gold": {"answer": "B"}}
    return line | {"origin_prompt": _prompt(video, text), **more}


def aisbench_failure(video, text):
    return {"data_abbr": "videobench", "id": 2, "input": _prompt(video, text), "error_info": "timed\nout"}


def asked_text(row):
    return build_question_text(row["question"], {letter: text for letter, text in row["choices"].items() if text})


ENTRIES = (("A", -0.25), ("B", -2.0), ("C", -5.0), ("D", -6.0), ("the", -7.0))
MAKERS = {  # a line to a question of a QA file
    "batch": lambda key, row: batch(key, positions=[position(*ENTRIES)]),
    "aisbench": lambda key, row: aisbench(row["vid_path"], asked_text(row)),
}
