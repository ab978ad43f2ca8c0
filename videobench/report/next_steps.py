"""Say what to do after a comparison: one sentence and complete shell commands, made from those that the runs stored."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from videobench.commands import CARDS, COMPARISON, SAMPLE_COMMAND_FILE, SAMPLER, Command, read_command, split_words
from videobench.compare.accuracy import ALL_QUESTIONS
from videobench.compare.advice import NEXT_STEP, OF_OTHERS
from videobench.compare.comparison import Comparison
from videobench.compare.divergence import Differences
from videobench.compare.obstacles import lacking_side
from videobench.compare.pairing import Pairing
from videobench.compare.scoring import FAILED, MISSING
from videobench.compare.settings import SIDES
from videobench.compare.verdict import AGREEMENT, COUNTS, DIVERGENCE, FAIL, FLIPS, GROUPS, INCONCLUSIVE, INPUTS, VIDEOS
from videobench.data.dataset import SAMPLE_ANSWER_FILE, SAMPLE_NAME
from videobench.data.results import kept_commands
from videobench.tolerances import TOLERANCES

CHECKED = 4  # questions for --check_model
SCRIPTS = {"npu": "run_npu.py", "cuda": "run_gpu.py", "cpu": "run_gpu.py"}  # by the device stored in the rows
USUAL = {"num_frames": 8, "dtype": "float16"}  # defaults of the flags, on an NPU and a GPU
PATHS = {"candidate": ("eval_npu_path", "eval_path"), "reference": ("eval_gpu_path", "reference_path")}
ANSWERS = "sampling_answer_path"
# Placeholders in commands for what is not known.
PLACES = {
    "MODEL": "the checkpoint's folder",
    "QA_ROOT": "the folder that holds Eval_QA/",
    "VIDEO_ROOT": "the folder that holds Eval_video/",
    "OUTPUT": "that run's output folder",
    "TORCHRUN_FLAGS": "torchrun's own flags, on each machine",
    "ALL_ANSWERS": "the file that has all the right answers",
}
ROOTS = ("--Eval_QA_root", "QA_ROOT", "--Eval_Video_root", "VIDEO_ROOT")
NOT_OF_A_CHECK = ("limit", "tensor_parallel", "batch_size", "num_workers", "answer_path")


@dataclass(frozen=True)
class NextStep:
    text: str  # one sentence without its full stop
    commands: list[str]  # each complete, for a shell


def next_step(comparison: Comparison) -> NextStep:
    return NextStep(_of_others(comparison), []) if comparison.is_of_others else _Finder(comparison).find()


def _of_others(comparison: Comparison) -> str:
    """The step for runs of other tools; it has no command of this suite."""
    verdict, findings = comparison.verdict, comparison.diagnosis.findings
    if verdict.decided_by == INPUTS:
        cause = verdict.evidence.obstacles[0].cause
        return OF_OTHERS.get(cause) or NEXT_STEP[cause]
    if verdict.decided_by == DIVERGENCE:
        return OF_OTHERS["nonfinite" if findings[0].cause == "nonfinite" else "broken"]
    if verdict.name == FAIL or verdict.decided_by in (AGREEMENT, FLIPS, GROUPS):
        return OF_OTHERS["flips"]
    if verdict.decided_by == COUNTS:
        pairing = comparison.pairing
        alone = len(pairing.pairs) > len(pairing.compared)
        return OF_OTHERS["sample" if alone else "unanswered" if pairing.without_answer else "silent"]
    if verdict.name == INCONCLUSIVE:
        needed = verdict.questions_needed
        more = f"compare {needed:,} such questions, of this set or of several" if needed else verdict.advice
        return more or OF_OTHERS["clusters"]
    return OF_OTHERS["repeat" if any(each.cause == "repeat" for each in findings) else "pass"]


def most_different(differences: Differences) -> list[str]:
    """Keys of the questions whose log-probabilities differ most, the largest first, for --check_model."""
    order = sorted(range(len(differences.pairs)), key=lambda index: -differences.largest[index])
    return [differences.pairs[index].key for index in order[:CHECKED]]


def is_service(pairing: Pairing, side: str = "candidate") -> bool:
    """Whether a service answered; --check_model only tests this suite's own engine."""
    replies = [reply for pair in pairing.pairs if (reply := getattr(pair, side).reply)]
    return any(each.finish_reason or "model" in each.run for each in replies)


class _Finder:
    def __init__(self, comparison: Comparison) -> None:
        self._comparison, self._settings = comparison, comparison.settings
        self._verdict, self._pairing, self._names = comparison.verdict, comparison.pairing, comparison.settings.names

    def find(self) -> NextStep:
        verdict, by = self._verdict, self._verdict.decided_by
        if by == INPUTS:
            return self._of_inputs(verdict.evidence.obstacles[0].cause)
        if by == DIVERGENCE:
            return self._of_broken_numbers()
        lacking = self._lacking()
        if lacking and verdict.name in (FAIL, INCONCLUSIVE):
            named = " and ".join(f"{count} on {getattr(self._names, side).phrase}" for side, count in lacking.items())
            text = f"start the run again: it asks only what failed or is missing ({named}); then compare again"
            return self._step(text, *self._same_limit(lacking), self._own)
        if by == COUNTS and self._pairing.without_answer:
            return self._step(OF_OTHERS["unanswered"], self._own.with_flag(ANSWERS, "ALL_ANSWERS"))
        if by == COUNTS:
            return self._read_flips(OF_OTHERS["silent"])
        if verdict.name == FAIL or by in (AGREEMENT, FLIPS, GROUPS):
            return self._read_flips(NEXT_STEP["flips"])
        if verdict.name == INCONCLUSIVE:
            return self._more(by == VIDEOS)
        repeats = not any(each.cause == "repeat" for each in self._comparison.diagnosis.findings)
        return self._step(NEXT_STEP["pass" if repeats else "repeat"])

    # --- The commands ---

    @cached_property
    def _own(self) -> Command:
        """This comparison."""
        given = self._settings
        paths = {PATHS[side][0]: getattr(given, f"{side}_path") for side in PATHS} | {ANSWERS: given.answer_path}
        words = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
        return given.command or Command(COMPARISON, tuple(words))

    @cached_property
    def _sampler(self) -> Command | None:
        path = Path(self._settings.answer_path or "")
        return read_command(path.with_name(SAMPLE_COMMAND_FILE)) if path.name == SAMPLE_ANSWER_FILE else None

    @cached_property
    def _kept(self) -> Mapping[str, list[Command]]:
        return {side: kept_commands(Path(getattr(self._settings, f"{side}_path"))) for side in SIDES.values()}

    def _runs(self, side: str) -> list[Command]:
        """The commands that made this side's results, as stored or else as likely."""
        if is_service(self._pairing, side):
            return []
        return self._kept[side] or [self._likely_run(side)]

    def _likely_run(self, side: str) -> Command:
        """Reconstruct a run's command from what its replies store."""
        replies = (getattr(each, side).reply for each in self._pairing.pairs)
        run: Mapping[str, Any] = next((each.run for each in replies if each), {})
        script = SCRIPTS.get(str(run.get("device")), SCRIPTS["npu" if side == "candidate" else "cuda"])
        flags = ["--model_path", "MODEL", *ROOTS, "--chat_conversation_output_folder", "OUTPUT"]
        for name, usual in USUAL.items():
            flags += [f"--{name}", str(run[name])] if run.get(name, usual) != usual else []
        flags += ["--deterministic"] if run.get("deterministic") is True else []
        flags += ["--device", "cpu"] if run.get("device") == "cpu" else []
        return Command(script, tuple(flags))

    def _step(self, text: str, *commands: Command, is_new: bool = False) -> NextStep:
        """Add what to fill in, and on which machine to type commands for others; `is_new`: the sample has changed."""
        words = {word for each in commands for word in split_words(each.text)}
        fill = [f"{name} by {meaning}" for name, meaning in PLACES.items() if name in words]
        if fill:
            text += f"; replace {', '.join(fill)}"
        if any(each.environment.get("NNODES", "1") != "1" for each in commands):
            text += "; start what has NNODES on each machine, with its own NODE_RANK"
        places = dict.fromkeys((each.host, each.script) for each in commands if not each.is_local)
        if places:
            there = ", ".join(f"{script} on {host}" for host, script in places)
            copied = ", with a copy of the new sample there" if is_new else ""
            text += f"; {there}, in the suite's folder{copied}"
            if any(each.script == COMPARISON for each in commands):
                text += "; before comparing, copy the results from there, unless the machines share the disk"
        return NextStep(text, [*dict.fromkeys(each.text for each in commands)])

    # --- Each kind of step ---

    def _of_inputs(self, cause: str) -> NextStep:
        text = NEXT_STEP.get(cause) or OF_OTHERS[cause]  # rows of another tool may hold its settings
        if cause == "swapped":
            return self._step(text, *self._swapped())
        if cause == "enlarged":
            side = lacking_side(self._pairing)
            commands = [each.without("limit") for each in self._runs(side)]
            return self._step(f"{self._verdict.evidence.obstacles[0].text}: {text}", *commands, self._own, is_new=True)
        if cause in ("sample", "questions"):
            runs = [each for side in SIDES.values() for each in self._runs(side)]
            return self._step(text, *self._verified(), *runs, self._own)
        if cause in ("prompts", "pixels"):
            return self._step(text, *(each.with_flag("overwrite") for each in self._runs("candidate")), self._own)
        if cause in ("checkpoint", "checkpoint_sha256"):
            own, other = (each[0].flag("model_path") if each else None for each in map(self._runs, SIDES.values()))
            model = other if other and other != own else "MODEL"
            return self._step(text, *self._again("candidate", "model_path", model))
        if cause in USUAL:
            value = next(each.reference for each in self._comparison.inputs.rows if each.name == cause)
            is_flag = value.isdecimal() or value in TOLERANCES  # a quantised reference is asked by no flag
            return self._step(text, *(self._again("candidate", cause, value) if is_flag else ()))
        return self._step(text)

    def _swapped(self) -> Iterator[Command]:
        own = self._own
        paths = [next((each for each in names if own.flag(each)), "") for names in PATHS.values()]
        if all(paths):
            first, second = (own.flag(each) for each in paths)
            yield own.with_flag(paths[0], second).with_flag(paths[1], first)

    def _verified(self) -> list[Command]:
        manifest = Path(self._settings.answer_path or "").with_name("sampling_manifest.json")
        return [Command(SAMPLER, ("--verify", str(manifest.absolute())))] if manifest.is_file() else []

    def _again(self, side: str, flag: str, value: str) -> Iterator[Command]:
        """Run that side again into another folder, and compare with the new results."""
        for each in self._runs(side)[:1]:
            former = each.flag("chat_conversation_output_folder") or "OUTPUT"
            folder = "OUTPUT" if former == "OUTPUT" else f"{former}_{Path(value).name}"
            yield each.with_flag(flag, value).with_flag("chat_conversation_output_folder", folder)
            name = next((name for name in PATHS[side] if self._own.flag(name)), PATHS[side][0])
            result = Path(getattr(self._settings, f"{side}_path"))
            yield self._own.with_flag(name, folder if result.is_dir() else f"{folder}/{result.name}")

    def _of_broken_numbers(self) -> NextStep:
        if is_service(self._pairing):
            return self._read_flips(NEXT_STEP["service"])
        cause = self._comparison.diagnosis.findings[0].cause
        if cause in ("card", "npu card", "gpu card"):
            side = "reference" if cause == "gpu card" else "candidate"
            return self._step(NEXT_STEP["broken"], *self._checks_of_worst_card(side))
        if cause != "nonfinite":
            keys = most_different(self._comparison.differences)
            return self._step(NEXT_STEP["broken"], *self._checks("candidate", keys))
        hit = {
            side: [pair.key for pair in self._pairing.pairs if (reply := getattr(pair, side).reply) and reply.nonfinite]
            for side in SIDES.values()
        }
        side = "candidate" if hit["candidate"] else "reference"
        again = [] if is_service(self._pairing, side) else self._again(side, "dtype", "bfloat16")
        return self._step(NEXT_STEP["nonfinite"], *again, *self._checks(side, hit[side][:CHECKED]))

    def _checks(self, side: str, keys: Sequence[str]) -> list[Command]:
        runs = [each.alone().without(*NOT_OF_A_CHECK) for each in self._runs(side)[:1]]
        return [each.with_flag("check_model").with_flag("check_questions", ",".join(keys)) for each in runs]

    def _checks_of_worst_card(self, side: str) -> Iterator[Command]:
        """Check the card that differs most, with questions that it answered; for a replica, all of its cards."""
        differences, by_replica = self._comparison.differences, dict[Any, list[int]]()
        for index, pair in enumerate(differences.pairs):
            reply = getattr(pair, side).reply
            by_replica.setdefault((reply.rank, reply.cards), []).append(index)
        _, cards = worst = max(by_replica, key=lambda each: median(differences.largest[by_replica[each]]))
        order = sorted(by_replica[worst], key=lambda index: -differences.largest[index])
        for check in self._checks(side, [differences.pairs[index].key for index in order[:CHECKED]]):
            visible = CARDS["cuda" if check.script == "run_gpu.py" else "npu"]
            yield from (replace(check, environment={visible: card}) for card in cards)

    def _lacking(self) -> dict[str, int]:
        """Map sides to the number of questions that failed or are missing, if there are any."""
        pairs = self._pairing.pairs
        outcomes = {side: [getattr(each, side).outcome for each in pairs] for side in SIDES.values()}
        counts = {side: own.count(FAILED) + own.count(MISSING) for side, own in outcomes.items()}
        return {side: count for side, count in counts.items() if count}

    def _same_limit(self, sides: Mapping[str, int]) -> Iterator[Command]:
        for side in sides:
            other = "reference" if side == "candidate" else "candidate"
            limits = {each.flag("limit") for each in self._kept[other]}
            for run in self._runs(side):
                yield run.with_flag("limit", *limits) if limits - {None} and len(limits) == 1 else run.without("limit")

    def _read_flips(self, text: str) -> NextStep:
        """Suggest the HTML report, with the videos' frames if their folder is known."""
        runs = [each for side in SIDES.values() for each in self._kept[side] if each.is_local]
        own = self._own
        if not own.flag("report_html"):
            own = own.with_flag("report_html", Path("report.html").absolute())
        root = next(filter(None, map(_video_root, runs)), None)
        if root and not own.flag("Eval_Video_root"):
            own = own.with_flag("Eval_Video_root", root)
        return self._step(f"{text} in {own.flag('report_html')}", *([] if own == self._own else [own]))

    def _more(self, on_other_videos: bool) -> NextStep:
        needed, sampler = self._verdict.questions_needed, self._sampler
        available = sampler.available if sampler and sampler.available else ALL_QUESTIONS
        if on_other_videos:
            needed = min(1000, available)
        if needed is None:
            return self._step(self._verdict.advice or "")
        fewer = "" if self._verdict.evidence.smoothed else "; fewer decide if both sides store log-probabilities"
        if needed > available:
            held = "can be drawn from these sets" if sampler else "are all of Video-Bench"
            return self._step(f"{needed:,} questions would be needed, and {available:,} {held}{fewer}")
        again = f"start both runs again (they ask only what is new), then compare again{fewer}"
        for side in SIDES.values():
            if is_service(self._pairing, side):
                asked = f"ask {getattr(self._names, side).phrase}'s service what is new (--export_requests)"
                again = again.replace("start both runs", f"{asked}, start the other run").replace("they ask", "it asks")
        runs = [self._of_sample(each) for side in SIDES.values() for each in self._runs(side)]
        nums = (sampler and sampler.flag("nums")) or "1000"
        drawn = int(nums) if sampler and nums.isdecimal() else 0
        if needed <= drawn and any(each.flag("limit") for each in runs):
            text = f"take {needed:,} questions of the sample, {again}"
            return self._step(text, *(each.with_flag("limit", needed) for each in runs), self._own)
        drawing = (sampler or Command(SAMPLER, ROOTS)).with_flag("nums", needed)
        text, runs = f"draw {needed:,} questions, {again}", [each.without("limit") for each in runs]
        return self._step(text, drawing, *runs, self._own, is_new=True)

    def _of_sample(self, run: Command) -> Command:
        """Let a run of other sets answer the sample instead."""
        if self._sampler or not run.flag("dataset_name"):
            return run
        return run.with_flag("dataset_name", SAMPLE_NAME)


def _video_root(run: Command) -> Path | None:
    root, folder = run.flag("Eval_Video_root"), run.flag("image_or_video_path")
    return Path(root) if root else Path(folder).parent.parent if folder else None
