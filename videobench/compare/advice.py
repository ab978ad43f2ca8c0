"""What to look at, and what to do next, for each kind of finding: causes that broke real ports, the likeliest first."""

# What to set if a service's replies show other settings than ours.
FIXES = {
    "sampling": "temperature 0 in each request, and no penalties: vLLM takes some from the checkpoint's "
    "generation_config.json unless started with --generation-config vllm",
    "prompt_tokens": "the service's chat template (the checkpoint's own), its begin-of-text token (vLLM: "
    "add_special_tokens in the request, as --export_requests writes it), the number of frames that it takes of a video",
    "model": "the service's model: the exported checkpoint, under its folder's name (vLLM: --served-model-name)",
    "cut_off": "a larger max_tokens (--max_new_tokens of the export), and no reasoning mode",
    "no_logprobs": "logprobs true and top_logprobs 20 in each request, as --export_requests writes them; AISBench and "
    "lmms-eval store none",
    "bounded": "a larger top_logprobs, if the service takes one (vLLM: --max-logprobs)",
}
CARD = (
    "that card alone: its memory and driver, the split of --tensor_parallel, all-reduce (HCCL, NCCL); the same "
    "questions on another card"
)
LOOK_AT = {  # by the cause of a finding or an obstacle
    "everywhere": "polarity and dtype of the attention mask (bool, not float), the rope operator and its layout, the "
    "activation's formula (an NPU computes gelu as tanh unless TORCH_NPU_USE_COMPATIBLE_IMPL=1), releases that do not "
    "fit together (the table of inputs has them)",
    "letter": "the output head: the weights of that letter's token as loaded (NZ format, split of --tensor_parallel), "
    "a bias",
    "prompt length": "the decode mask beyond 512 keys, a rope cache shorter than the prompts, overflow in float16",
    "video length": "which frames are read: positions computed from the number of frames, the decoder's version",
    "resolution": "resize and crop of the frames, and the processor's version, on both machines",
    "order in time": "the order of the frames: layout of the video tensor, transposed axes, position of each frame",
    "data set": "what only that set has: the length of its prompts, its videos' format, its cards",
    "number of options": "padding and masks of a batch: answer some again with --batch_size 1",
    "right letter": "the order of the options in the prompt, and the output head's weights of their letters' tokens",
    "card": CARD,
    "npu card": CARD,
    "gpu card": CARD,
    "nonfinite": "overflow: float16 ends at 65504, so answer again with --dtype bfloat16 or float32; on an NPU leave "
    "INF_NAN_MODE_ENABLE at 1, since 0 hides overflow",
    "scattered": "single questions: their replies in the report; padding of a batch (--batch_size 1), memory that "
    "operators overwrite in place",
    "unreadable": "the replies' texts: readable but off topic or full of blanks points at the attention mask, "
    "gibberish at rope, an answer that is cut off at --max_new_tokens",
    "repeat": "--deterministic, which sets HCCL_DETERMINISTIC and LCCL_DETERMINISTIC on an NPU and "
    "CUBLAS_WORKSPACE_CONFIG on a GPU; equal --batch_size and cards; memory that operators overwrite in place",
    "swapped": "the order of --eval_npu_path and --eval_gpu_path",
    "one_device": "--eval_npu_path and --eval_gpu_path: one of them names the other one's file; for two runs of one "
    "kind of device, --eval_path and --reference_path",
    "mixed": "which run wrote which rows: files that were copied or joined by hand, a folder that two runs shared",
    "ids": "which reply the service gave to which custom_id",
    "answers": "--sampling_answer_path: the sampling_answer.json beside the QA file that both runs answered",
    "enlarged": "the run that had a smaller --limit, or was not started again after the sample was enlarged",
    "sample": "which sample each machine has: extract_dataset.py --verify there",
    "questions": "which QA file each side answered; rows that were edited or joined by hand",
    "sampling": FIXES["sampling"],
    "prompt_tokens": FIXES["prompt_tokens"],
    "prompts": "on both machines: tokenizer, chat template and BOS token of the checkpoint, the version of "
    "transformers, --max_input_length",
    "pixels": "on both machines: the versions of av and transformers, and the videos: extract_dataset.py --verify",
    "num_frames": "--num_frames of both runs",
    "checkpoint_sha256": "--model_path of both runs: whole copies of one checkpoint",
    "weights_sha256": "sha256sum of the weight files on both machines; one copy is damaged, or of another upload",
    "checkpoint": "--model_path of both runs: copies of one checkpoint",
    "dtype": "--dtype of both runs: a quantised checkpoint is another model",
    "sets": "--dataset_name of both runs",
}

AGAIN = "run one side again, into another folder, with the other's"
ONE_AGAIN = "then run one again with --overwrite and compare again"
SAME_QUESTIONS = "verify the sample on both machines, then start both runs again on one sample and compare again"
QUANTISED = "; if one is quantised on purpose, compare again with --tolerance none"
NEXT_STEP = {  # one sentence, often with commands
    "swapped": "exchange --eval_npu_path and --eval_gpu_path",
    "one_device": "name the other device's result file, or use --eval_path and --reference_path for two of a kind",
    "mixed": "name the output folder of one run on each side, as that run wrote it",
    "ids": "ask one question of the report by hand, and compare the service's reply with the one under its id",
    "answers": "give --sampling_answer_path the sampling_answer.json that belongs to the questions of both runs",
    "num_frames": f"{AGAIN} --num_frames",
    "checkpoint_sha256": f"{AGAIN} --model_path{QUANTISED}",
    "weights_sha256": "copy the checkpoint again to the machine whose weights differ, then run that side again with "
    f"--overwrite{QUANTISED}",
    "checkpoint": f"{AGAIN} --model_path{QUANTISED}",
    "dtype": f"{AGAIN} --dtype{QUANTISED}",
    "sampling": "ask the service again with temperature 0, as --export_requests writes it",
    "prompt_tokens": "ask the service again with the checkpoint's own chat template and all frames",
    "enlarged": "start it again (it asks only what is new), then compare again",
    "sample": SAME_QUESTIONS,
    "questions": SAME_QUESTIONS,
    "prompts": f"install one version of transformers on both sides, {ONE_AGAIN}",
    "pixels": f"install one version of av and of transformers on both sides, {ONE_AGAIN}",
    "sets": "answer these sets on both sides, or name files of the same sets",
    "nonfinite": "run that side again with --dtype bfloat16, into another folder, and compare again; or find the "
    "module that overflows",
    "broken": "find the module that breaks",
    "service": "ask the service these questions one at a time and in another dtype",
    "flips": "read what flipped",
    "leads": "no letter differs: see how the leads moved",
    "silent": "read the replies that have no letter, or score by another --scoring",
    "dropped": "score by --scoring strict, which counts replies without a letter as wrong, and lists them",
    "unanswered": "compare again with the file that has all the right answers",
    "repeat": "run that side twice with --deterministic, into two folders, and name the second one by --repeat_path",
    "pass": "done: keep both result files beside this report",
}

# Advice and next step for runs that this suite did not make, such as logs of lm-eval; a cause that is not here has the
# advice above.
SAME_TASK = "evaluate both sides with one version of the tool and of the task's files"
OF_OTHERS = {
    "mixed": "name the log of one evaluation on each side",
    "task_version": SAME_TASK,
    "metric": SAME_TASK,
    "checkpoint": "evaluate one checkpoint on both sides; if it is one under two names, give its folders one name",
    "num_fewshot": "evaluate both sides with the same --num_fewshot",
    "chat_template": "evaluate both sides with the same --apply_chat_template and tokenizer",
    "generation": "evaluate both sides with the same --gen_kwargs",
    "filter": "name one filter that both logs have: --filter NAME",
    "dtype": "evaluate both sides in a dtype that is not quantised, or give --tolerance none",
    "sample": "evaluate all documents on both sides, without --limit",
    "enlarged": "answer the same questions on both sides",
    "questions": "evaluate both sides on one copy of the task's data",
    "prompts": f"{SAME_TASK}, the same --num_fewshot and chat template",
    "sets": "evaluate the same tasks on both sides, or name the logs of one task",
    "nonfinite": "evaluate again in bfloat16 or float32: float16 ends at 65504",
    "broken": "read what flipped: --report_html FILE; then change one thing at a time: batch size 1, "
    "another dtype, another attention",
    "flips": "read what flipped: --report_html FILE",
    "clusters": "evaluate more documents, or name another field by --cluster_by",
    "repeat": "evaluate one side twice, and name the second log by --repeat_path",
    "pass": "done: keep both files beside this report",
}


def look_at(cause: str) -> str:
    """The likely causes."""
    return LOOK_AT.get(cause) or OF_OTHERS[cause]
