"""Say what to do after a comparison: one sentence and complete shell commands, made from those that the runs stored."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from videobench.commands import CARDS, COMPARISON, SAMPLE_COMMAND_FILE, SAMPLER, Command, read_command, split_words
from videobench.compare.accuracy import ALL_QUESTIONS
from videobench.compare.advice import NEXT_STEP, OF_OTHERS
from videobench.compare.comparison import Comparison
from videobench.compare.divergence import Differences
from videobench.compare.obstacles import lacking_side
from videobench.compare.scoring import FAILED, MISSING
from videobench.compare.verdict import AGREEMENT, COUNTS, DIVERGENCE, FAIL, FLIPS, GROUPS, INCONCLUSIVE, INPUTS, VIDEOS
from videobench.data.dataset import DATASET_NAMES, SAMPLE_ANSWER_FILE, SAMPLE_MANIFEST_FILE, SAMPLE_NAME, VIDEOS_NAME
from videobench.data.results import RESULT_SUFFIX, kept_commands
from videobench.tolerances import TOLERANCES

MORE = "more"  # the step that asks more questions
CHECKED = 4  # questions for --check_model
SCRIPTS = {"npu": "run_npu.py", "cuda": "run_gpu.py", "cpu": "run_gpu.py"}  # by the device stored in the rows
USUAL = {"num_frames": 8, "dtype": "float16"}  # defaults of the flags, on an NPU and a GPU
PATHS = {"candidate": ("eval_npu_path", "eval_path"), "reference": ("eval_gpu_path", "reference_path")}
OTHER = {"candidate": "reference", "reference": "candidate"}
# Placeholders in commands for what is not known.
PLACES = {
    "MODEL": "the checkpoint's folder",
    "QA_ROOT": "the folder that holds Eval_QA/",
    "VIDEO_ROOT": "the folder that holds Eval_video/",
    "OUTPUT": "that run's output folder",
    "NEW_OUTPUT": "a new folder",
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
    step = _name_step(comparison)
    if not comparison.is_of_others:
        return _Planner(comparison).plan(step)
    if step != MORE:  # no command of this suite made these runs
        return NextStep(OF_OTHERS.get(step) or NEXT_STEP[step], [])
    needed = comparison.verdict.questions_needed
    more = f"compare {needed:,} such questions, of this set or of several" if needed else comparison.verdict.advice
    return NextStep(more or OF_OTHERS["clusters"], [])


def _name_step(comparison: Comparison) -> str:
    """Choose a key of NEXT_STEP or OF_OTHERS, or MORE."""
    verdict, causes = comparison.verdict, [each.cause for each in comparison.diagnosis.findings]
    pairing = comparison.pairing
    is_in_part = len(pairing.pairs) > len(pairing.compared)  # a side lacks questions of the other
    if verdict.decided_by == INPUTS:
        return verdict.evidence.obstacles[0].cause
    if verdict.decided_by == DIVERGENCE:
        return "nonfinite" if causes[0] == "nonfinite" else "broken"
    if verdict.decided_by == COUNTS:
        if is_in_part:
            return "sample"
        return "unanswered" if pairing.without_answer else "dropped" if pairing.dropped else "silent"
    if verdict.name == FAIL or verdict.decided_by in (AGREEMENT, FLIPS, GROUPS):
        return "flips" if comparison.flips else "leads"
    if verdict.name == INCONCLUSIVE:
        return "sample" if is_in_part else MORE
    return "repeat" if "repeat" in causes else "pass"


def most_different(differences: Differences) -> list[str]:
    """List the keys of the questions whose log-probabilities differ most, largest first, for --check_model."""
    order = sorted(range(len(differences.pairs)), key=lambda index: -differences.largest[index])
    return [differences.pairs[index].key for index in order[:CHECKED]]


class _Planner:
    """Makes the sentence and commands of a step, from what the runs and the sampler stored or else as likely."""

    def __init__(self, comparison: Comparison) -> None:
        settings = comparison.settings
        self._comparison, self._verdict, self._pairing = comparison, comparison.verdict, comparison.pairing
        self._phrases = {side: getattr(settings.names, side).phrase for side in OTHER}
        self._paths = {side: Path(getattr(settings, f"{side}_path")) for side in OTHER}
        self._answers = Path(settings.answer_path or "")
        self._is_sample = self._answers.name == SAMPLE_ANSWER_FILE
        self._sampler = read_command(self._answers.with_name(SAMPLE_COMMAND_FILE)) if self._is_sample else None
        self._own = settings.command or Command(COMPARISON, ())  # this comparison
        self._runs = {side: self._runs_of(side) for side in OTHER}

    def plan(self, step: str) -> NextStep:
        verdict, by = self._verdict, self._verdict.decided_by
        if by == INPUTS:
            return self._of_inputs(step)
        if by == DIVERGENCE:
            return self._of_broken_numbers(step)
        if verdict.name in (FAIL, INCONCLUSIVE) and (lacking := self._lacking()):
            return self._complete(lacking)
        if step == MORE:
            return self._more()
        if step in ("flips", "leads"):
            return self._read_flips(NEXT_STEP[step])
        if step == "dropped":
            return self._step(NEXT_STEP[step], self._own.with_flag("scoring", "strict"))
        if step == "silent":  # no flips: the page lists these questions, without their replies
            return self._read_flips(f"{NEXT_STEP[step]}; their questions are listed")
        if step == "unanswered":
            return self._step(NEXT_STEP[step], self._own.with_flag("sampling_answer_path", "ALL_ANSWERS"))
        return self._step(NEXT_STEP[step])

    # --- The runs of each side ---

    def _runs_of(self, side: str) -> list[Command]:
        """Return the commands that made this side's results; none if another engine made them."""
        replies = [reply for pair in self._pairing.pairs if (reply := getattr(pair, side).reply)]
        run = next((each.run for each in replies if {"device", "dtype"} & each.run.keys()), None)
        return kept_commands(self._paths[side]) or ([self._likely_run(side, run)] if run else [])

    def _likely_run(self, side: str, run: Mapping[str, Any]) -> Command:
        """Reconstruct a run's command from what a reply stores and from the names of its files."""
        script = SCRIPTS.get(str(run.get("device")), SCRIPTS["npu" if side == "candidate" else "cuda"])
        flags = ["--model_path", "MODEL", *ROOTS, "--chat_conversation_output_folder", "OUTPUT"]
        path = self._paths[side]
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        sets = [name for each in files if (name := each.name.removesuffix(RESULT_SUFFIX)) in DATASET_NAMES]
        flags += ["--dataset_name", ",".join(sets)] if sets else []
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

    # --- If the inputs differ ---

    def _of_inputs(self, cause: str) -> NextStep:
        own = self._own
        text = NEXT_STEP.get(cause) or OF_OTHERS[cause]  # rows of another tool may hold its settings
        if cause == "swapped":
            npu, gpu = own.flag("eval_npu_path"), own.flag("eval_gpu_path")
            return self._step(text, own.with_flag("eval_npu_path", gpu).with_flag("eval_gpu_path", npu))
        if cause == "enlarged":
            side = lacking_side(self._pairing)
            commands = [each.without("limit") for each in self._runs[side]]
            if not commands:
                text = f"{self._let_answer(side)}, then compare again"
            return self._step(f"{self._verdict.evidence.obstacles[0].text}: {text}", *commands, own, is_new=True)
        if cause in ("sample", "questions"):
            return self._step(text, *self._verification(), *self._runs["candidate"], *self._runs["reference"], own)
        if cause in ("prompts", "pixels"):
            return self._step(text, *(each.with_flag("overwrite") for each in self._runs["candidate"]), own)
        if cause in ("checkpoint", "checkpoint_sha256"):
            return self._step(text, *self._again("candidate", "model_path", "MODEL"))
        if cause in USUAL:
            value = next(each.reference for each in self._comparison.inputs.rows if each.name == cause)
            is_flag = value.isdecimal() or value in TOLERANCES  # a quantised reference is asked by no flag
            return self._step(text, *(self._again("candidate", cause, value) if is_flag else ()))
        return self._step(text)

    def _verification(self) -> list[Command]:
        manifest = self._answers.with_name(SAMPLE_MANIFEST_FILE).absolute()
        verify = Command(SAMPLER, ("--verify", str(manifest)))
        if self._sampler and self._sampler.is_local:
            folder = self._sampler.flag("sampling_output_folder")
            root = self._sampler.flag("Eval_Video_root")
            verify = verify.with_flag("sampling_output_folder", folder or f"{root}/{VIDEOS_NAME}")
        return [verify] if manifest.is_file() else []

    def _again(self, side: str, flag: str, value: str) -> Iterator[Command]:
        """Run that side again into another folder, and compare with the new results."""
        for each in self._runs[side][:1]:
            former = each.flag("chat_conversation_output_folder") or "OUTPUT"
            folder = "NEW_OUTPUT" if former == "OUTPUT" else f"{former}_{value}"
            yield each.with_flag(flag, value).with_flag("chat_conversation_output_folder", folder)
            name = next((name for name in PATHS[side] if self._own.flag(name)), PATHS[side][0])
            path = self._paths[side]
            yield self._own.with_flag(name, folder if path.is_dir() else f"{folder}/{path.name}")

    # --- If the numbers are broken ---

    def _of_broken_numbers(self, step: str) -> NextStep:
        cause = self._comparison.diagnosis.findings[0].cause
        hit = {
            side: [pair for pair in self._pairing.pairs if (reply := getattr(pair, side).reply) and reply.nonfinite]
            for side in OTHER
        }
        is_of_reference = not hit["candidate"] if cause == "nonfinite" else cause == "gpu card"
        side = "reference" if is_of_reference else "candidate"
        if not self._runs[side]:
            return self._with_flips(NEXT_STEP["service"])
        if cause in ("card", "npu card", "gpu card"):
            return self._step(NEXT_STEP[step], *self._checks_of_worst_card(side))
        if step == "broken":
            return self._step(NEXT_STEP[step], *self._checks(side, most_different(self._comparison.differences)))
        checks = self._checks(side, [pair.key for pair in hit[side][:CHECKED]])
        if getattr(hit[side][0], side).reply.run.get("dtype", "float16") != "float16":  # bfloat16 would not help
            return self._step(NEXT_STEP["broken"], *checks)
        return self._step(NEXT_STEP[step], *self._again(side, "dtype", "bfloat16"), *checks)

    def _checks(self, side: str, keys: Sequence[str]) -> list[Command]:
        runs = [each.alone().without(*NOT_OF_A_CHECK) for each in self._runs[side][:1]]
        if runs and runs[0].flag("dataset_name") not in (None, SAMPLE_NAME):  # a folder may hold sets of several runs
            runs = [runs[0].with_flag("dataset_name", ",".join(sorted({key.partition("/")[0] for key in keys})))]
        return [each.with_flag("check_model").with_flag("check_questions", ",".join(keys)) for each in runs]

    def _checks_of_worst_card(self, side: str) -> Iterator[Command]:
        """Check the cards of the replica that differs most, with questions that it answered."""
        differences, by_replica = self._comparison.differences, dict[Any, list[tuple[float, str]]]()
        for pair, largest in zip(differences.pairs, differences.largest.tolist(), strict=True):
            reply = getattr(pair, side).reply
            by_replica.setdefault((reply.rank, reply.cards), []).append((largest, pair.key))
        (_, cards), found = max(by_replica.items(), key=lambda item: median(largest for largest, _ in item[1]))
        for check in self._checks(side, [key for _, key in sorted(found, reverse=True)[:CHECKED]]):
            visible = CARDS["cuda" if check.script == "run_gpu.py" else "npu"]
            yield from (replace(check, environment={visible: card}) for card in cards)

    # --- If answers or questions are too few ---

    def _lacking(self) -> dict[str, int]:
        """Map sides to the number of questions that failed or are missing there.

        What neither side answered counts only if it decided the verdict: mostly the video is bad and fails again."""
        counts = dict.fromkeys(OTHER, 0)
        for pair in self._pairing.pairs:
            lacking = [side for side in OTHER if getattr(pair, side).outcome in (FAILED, MISSING)]
            if len(lacking) == 1 or self._verdict.decided_by == COUNTS:
                for side in lacking:
                    counts[side] += 1
        return {side: count for side, count in counts.items() if count}

    def _complete(self, lacking: Mapping[str, int]) -> NextStep:
        commands = [self._up_to_the_other(side, each) for side in lacking for each in self._runs[side]]
        how = "start the run again: it asks only" if all(self._runs[side] for side in lacking) else "ask again"
        named = " and ".join(f"{count} on {self._phrases[side]}" for side, count in lacking.items())
        return self._step(f"{how} what failed or is missing ({named}); then compare again", *commands, self._own)

    def _up_to_the_other(self, side: str, run: Command) -> Command:
        """Let a run ask as many questions as the other side's: a smaller --limit would ask nothing new."""
        limits = {each.flag("limit") for each in self._runs[OTHER[side]]}
        return run.with_flag("limit", *limits) if len(limits) == 1 and limits != {None} else run.without("limit")

    def _read_flips(self, text: str) -> NextStep:
        """Suggest the HTML report, with the videos' frames if their folder is known."""
        own, place = self._own, self._own.flag("report_html") or self._own.flag("output_html")
        if not place:
            place = str(Path("report.html").absolute())
            own = own.with_flag("report_html", place)
        runs = [each for runs in self._runs.values() for each in runs if each.is_local]
        root = next((root for root in map(_video_root, runs) if root and root.is_dir()), None)
        if root and not own.flag("Eval_Video_root"):
            own = own.with_flag("Eval_Video_root", root)
        return self._step(f"{text} in {place}", *([] if own == self._own else [own]))

    def _with_flips(self, text: str) -> NextStep:
        """Suggest to read what flipped, too, if anything did."""
        return self._read_flips(f"{text}; read what flipped") if self._comparison.flips else self._step(text)

    def _more(self) -> NextStep:
        needed, sampler = self._verdict.questions_needed, self._sampler
        available = (sampler and sampler.available) or ALL_QUESTIONS
        if self._verdict.decided_by == VIDEOS:
            needed = min(1000, available)
        if needed is None:
            return self._with_flips(self._verdict.advice or "")
        fewer = "" if self._verdict.evidence.smoothed else "; fewer decide if both sides store log-probabilities"
        if needed > available:
            held = "can be drawn from these sets" if sampler else "are all of Video-Bench"
            return self._with_flips(f"{needed:,} questions would be needed, and {available:,} {held}{fewer}")
        if not self._is_sample:
            answer = "answer more sets on both sides, or a sample of so many (extract_dataset.py --nums)"
            return self._step(f"{needed:,} questions would be enough: {answer}{fewer}")
        again = f"{self._restart()}, then compare again{fewer}"
        runs = [each for runs in self._runs.values() for each in runs]
        nums = (sampler and sampler.flag("nums")) or "1000"
        drawn = int(nums) if sampler and nums.isdecimal() else 0
        if needed <= drawn and any(each.flag("limit") for each in runs):
            text = f"take {needed:,} questions of the sample, {again}"
            return self._step(text, *(each.with_flag("limit", needed) for each in runs), self._own)
        drawing = (sampler or Command(SAMPLER, ROOTS)).with_flag("nums", needed)
        text, runs = f"draw {needed:,} questions, {again}", [each.without("limit") for each in runs]
        return self._step(text, drawing, *runs, self._own, is_new=True)

    def _restart(self) -> str:
        """Say how both sides answer what is new."""
        if all(self._runs.values()):
            return "start both runs again (they ask only what is new)"
        return ", ".join(
            f"start {phrase}'s run again (it asks only what is new)" if self._runs[side] else self._let_answer(side)
            for side, phrase in self._phrases.items()
        )

    def _let_answer(self, side: str) -> str:
        return f"let {self._phrases[side]}'s engine answer what is new (for a service: --export_requests)"


def _video_root(run: Command) -> Path | None:
    root, folder = run.flag("Eval_Video_root"), run.flag("image_or_video_path")
    return Path(root) if root else Path(folder).parent.parent if folder else None
