"""Lines as other engines write them, for questions of the small set."""

import json
from pathlib import Path
from typing import Any

from videobench.data.dataset import build_question_text

Line = dict[str, Any]
ENTRIES = (("A", -0.25), ("B", -2.0), ("C", -5.0), ("D", -6.0), ("the", -7.0))


def batch_line(key: str, row: Line) -> Line:
    top = [{"token": token, "logprob": logprob, "bytes": [65]} for token, logprob in ENTRIES]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "A"},
        "logprobs": {"content": [{**top[0], "top_logprobs": top}]},
        "finish_reason": "stop",
    }
    body = {"model": "tiny", "choices": [choice], "usage": {"prompt_tokens": 130, "completion_tokens": 2}}
    return {"id": "x", "custom_id": key, "response": {"status_code": 200, "body": body}, "error": None}


def aisbench_line(key: str, row: Line) -> Line:
    return {
        "data_abbr": "videobench",
        "id": 0,
        "success": True,
        "origin_prompt": [{"role": "HUMAN", "prompt": _parts(row)}],
        "prediction": "A",
        "gold": "B",
    }


def aisbench_failure(key: str, row: Line) -> Line:
    prompt = [{"role": "HUMAN", "prompt": _parts(row)}]
    return {"data_abbr": "videobench", "id": 0, "input": prompt, "error_info": "timed out"}


def _parts(row: Line) -> list[Line]:
    url = {"type": "video_url", "video_url": {"url": f"file:///data/{row['vid_path']}"}}
    return [url, {"type": "text", "text": asked_text(row)}]


def asked_text(row: Line) -> str:
    return build_question_text(row["question"], {letter: text for letter, text in row["choices"].items() if text})


MAKERS = {"batch": batch_line, "aisbench": aisbench_line}


def write_lines(path: Path, lines: list[Line]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
    return path
