"""Answer Video-Bench with LLaVA-NeXT-Video on a CUDA GPU.

python run_gpu.py --model_path LLaVA-NeXT-Video-7B-hf --dataset_name sampling_data --Eval_QA_root egs/Video-Bench/ \
    --Eval_Video_root egs/VideoBench/ --chat_conversation_output_folder Chat_results
"""

import sys
from collections.abc import Sequence

from videobench.cli import run_script
from videobench.run.device_check import check_device
from videobench.run.options import CheckSettings, parse_args
from videobench.run.runner import run


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse_args(argv, device="cuda")
    return check_device(settings) if isinstance(settings, CheckSettings) else run(settings)


if __name__ == "__main__":
    sys.exit(run_script(main))
