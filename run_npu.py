"""Answer Video-Bench with LLaVA-NeXT-Video on an Ascend NPU.

python run_npu.py --model_path LLaVA-NeXT-Video-7B-hf --Eval_QA_root egs/Video-Bench/ \
    --image_or_video_path egs/VideoBench/Eval_video/sampling_data --chat_conversation_output_folder Chat_results
"""

import sys
from collections.abc import Sequence

from videobench.cli import run_script
from videobench.run.device_check import check_device
from videobench.run.options import CheckSettings, parse_args
from videobench.run.runner import run


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse_args(argv, device="npu")
    return check_device(settings) if isinstance(settings, CheckSettings) else run(settings)


if __name__ == "__main__":
    sys.exit(run_script(main))
