"""Answer Video-Bench with LLaVA-NeXT-Video on an Ascend NPU.

python run_npu.py --model_path LLaVA-NeXT-Video-7B-hf --Eval_QA_root egs/Video-Bench/ \
    --image_or_video_path egs/VideoBench/Eval_video/sampling_data --chat_conversation_output_folder Chat_results
"""

import videobench  # rejects an old Python; so this file must be valid in any Python


def main(argv=None):
    """The exit status."""
    from videobench.run.command import main

    return main(argv, device="npu")


if __name__ == "__main__":
    videobench.start(main)
