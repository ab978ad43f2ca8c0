"""In which order the ranks draw the videos: the costliest first, so that no long one is left for the end."""

from collections import Counter
from pathlib import Path

from videobench.dataset import Question
from videobench.planning import Plan


def costliest_first(plan: Plan, questions: list[Question]) -> list[Question]:
    """By what their videos cost: tokens of text to read for all questions on one, then, for decoding, the file's size.

    The frames take as many tokens in every video. All questions of the plan count, answered or not: a run that is
    continued keeps the order."""
    tokens: Counter[Path] = Counter()
    for question, prompt in plan.prompts.items():
        tokens[question.video] += len(prompt.suffix_ids)
    sizes = {video: _size(video) for video in {each.video for each in questions}}
    return sorted(questions, key=lambda each: (-tokens[each.video], -sizes[each.video], str(each.video)))


def _size(video: Path) -> int:
    """Of a file; 0 for a folder of frames, and for what is not there."""
    try:
        return video.stat().st_size if video.is_file() else 0
    except OSError:
        return 0
