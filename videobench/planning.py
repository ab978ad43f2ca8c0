"""What a run will do, known before the weights are read: questions, prompts, sure failures, who shares a video."""

from dataclasses import dataclass
from pathlib import Path

from videobench.dataset import Question, load_questions
from videobench.errors import InputError
from videobench.options import RunSettings
from videobench.prompts import Prompt, PromptBuilder, build_question_text


@dataclass(frozen=True)
class VideoWork:
    """One video and the questions on it that are to be answered."""

    video: Path
    questions: tuple[Question, ...]
    prompts: tuple[Prompt, ...]  # all with the same prefix


@dataclass(frozen=True)
class Plan:
    prompts: dict[Question, Prompt]  # every question, in the order of the files
    failures: dict[Question, str]  # those that cannot be asked, with the reason

    def works(self, questions: list[Question]) -> list[VideoWork]:
        """Each of `questions` that can be asked, once; those on one video together, videos in order of first use."""
        by_video: dict[Path, list[Question]] = {}
        for question in questions:
            if question not in self.failures:
                by_video.setdefault(question.video, []).append(question)
        return [
            VideoWork(video, tuple(group), tuple(self.prompts[question] for question in group))
            for video, group in by_video.items()
        ]


def load_all_questions(settings: RunSettings) -> list[Question]:
    """Of all data sets, in the order of the files; InputError where not one of their videos is there."""
    questions = []
    for source in settings.sources:
        questions += load_questions(source.qa_path, source.name, source.locate)[: settings.limit]
    if not any(video.exists() for video in {each.video for each in questions}):
        raise InputError(
            f"{questions[0].video}: no such video, nor any other of these sets; check the path of the videos"
        )
    return questions


def build_plan(questions: list[Question], builder: PromptBuilder, positions: int, settings: RunSettings) -> Plan:
    """Raises InputError where no question at all could be asked: the frames alone fill the checkpoint's positions."""
    texts = [build_question_text(each.text, each.options) for each in questions]
    prompts = dict(zip(questions, builder.build(texts), strict=True))
    limit = positions if settings.max_input_length is None else settings.max_input_length
    num_video_tokens = len(prompts[questions[0]].prefix_ids)
    if limit > positions or num_video_tokens >= limit:
        raise InputError(
            f"{settings.num_frames} frames take {num_video_tokens} tokens of the prompt; --max_input_length is {limit} "
            f"and the checkpoint has {positions} positions: use fewer --num_frames or another --max_input_length"
        )
    missing = {video for video in {each.video for each in questions} if not video.exists()}
    failures = {each: f"{each.video}: no such video" for each in questions if each.video in missing}
    for question, prompt in prompts.items():
        if len(prompt) > limit:
            failures[question] = f"the prompt has {len(prompt)} tokens, more than --max_input_length {limit}"
    return Plan(prompts, failures)


def print_plan(plan: Plan, settings: RunSettings) -> None:
    """The lines of --dry_run, on stdout."""
    for source in settings.sources:
        asked = [each for each in plan.prompts if each.source == source.name]
        failing = sum(each in plan.failures for each in asked)
        videos = len({each.video for each in asked})
        print(f"{source.name}: {len(asked)} questions on {videos} videos, {failing} would fail")
    works = plan.works(list(plan.prompts))
    computed = sum(len(work.prompts[0].prefix_ids) for work in works)
    alone = sum(len(prompt.prefix_ids) for work in works for prompt in work.prompts)
    print(f"video tokens to compute: {computed}, saved by sharing them among questions: {alone - computed}")
    print(f"{settings.model_path}: on {settings.device} in {settings.dtype}, {settings.batch_size} questions at once")
