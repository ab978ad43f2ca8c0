"""The small LLaVA-NeXT-Video model: its tokenizer, its weights before training, its pixels and its files.

The files have the layout of the real checkpoints (llava-hf/LLaVA-NeXT-Video-7B-hf), and load under transformers 4.56.2
as well as 5.x.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from tests.assets.clip_questions import LETTERS, WORDINGS, possible_answers
from tests.assets.clips import FRAMES_SHOWN
from videobench.data.question_text import NUMBER_WORDS, build_question_text

IMAGE_SIZE, PATCH_SIZE = 36, 6  # pixels; PATCH_SIZE**2 <= IMAGE_SIZE, or the pooling of transformers 4.x fails
TOKENS_PER_FRAME = (IMAGE_SIZE // PATCH_SIZE // 2) ** 2  # after the average pooling of 2 x 2 patches
NUM_VIDEO_TOKENS = TOKENS_PER_FRAME * FRAMES_SHOWN
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]  # CLIP's, of channels in 0..1

SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "<pad>", "<video>", "<image>"]  # their ids are their places
BOS_ID, EOS_ID, PAD_ID, VIDEO_ID, IMAGE_ID = range(1, 6)
BEFORE_VIDEO, AFTER_VIDEO, AFTER_QUESTION = "USER: ", "\n", " ASSISTANT:"  # the turn of Vicuna
FACT_TOLD = "The answer is {fact}. "  # a line of the training text, see training_batches.py

# As the 7B checkpoint's: whatever the order of the parts, the video stands before the text.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'video' %}{{ '<video>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{{ '</s>' if message['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words for all that a training prompt says, single characters for other ASCII text; spaces do not count."""
    characters = [chr(code) for code in range(33, 127)]
    words = sorted(set(re.findall(r"\w+", all_training_text())) - set(characters))
    vocabulary = SPECIAL_TOKENS + characters + ["##" + character for character in characters] + words
    ids = {token: place for place, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS_ID)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        model_max_length=2048,
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"},
    )


def all_training_text() -> str:
    """A text that holds every word of every training prompt."""
    prompts = [build_question_text("", dict.fromkeys(LETTERS[:count], "")) for count in NUMBER_WORDS]
    questions = [wording for wordings in WORDINGS.values() for wording in wordings]
    answers = [answer for kind in WORDINGS for answer in possible_answers(kind)]
    return " ".join([BEFORE_VIDEO, AFTER_QUESTION, FACT_TOLD.format(fact=""), *prompts, *questions, *answers])


def build_model(vocab_size: int) -> LlavaNextVideoForConditionalGeneration:
    """Random weights from torch's current seed: 0.96 million.

    As in the real checkpoints the features come from the last vision layer but one: nothing reads the last layer."""
    text = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=2048,
        pad_token_id=PAD_ID,
        initializer_range=0.05,
        tie_word_embeddings=False,
    )
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=96,
    )
    config = LlavaNextVideoConfig(
        vision_config=vision,
        text_config=text,
        vision_feature_layer=-2,
        video_token_index=VIDEO_ID,
        image_token_index=IMAGE_ID,
        image_grid_pinpoints=[[IMAGE_SIZE, IMAGE_SIZE]],
        tie_word_embeddings=False,
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        video_seq_length=NUM_VIDEO_TOKENS,
        pad_token_id=PAD_ID,
    )
    return LlavaNextVideoForConditionalGeneration(config)


def preprocess(frames: np.ndarray) -> torch.Tensor:
    """Square frames (..., height, width, 3) with values in 0..255 -> float32 (..., 3, IMAGE_SIZE, IMAGE_SIZE).

    What `preprocessor_config.json` asks for: resized bicubically with antialias, rounded, normalised."""
    images = torch.as_tensor(frames).flatten(0, -4).permute(0, 3, 1, 2).float()
    size = (IMAGE_SIZE, IMAGE_SIZE)
    images = F.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False)
    images = images.round().clamp(0, 255) / 255
    images = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return images.reshape(*frames.shape[:-3], 3, *size)


def save_checkpoint(
    model: LlavaNextVideoForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    restore_vision_names(folder / "model.safetensors")
    for name, content in processor_files().items():
        write_json(folder / name, content)
    tokenizer_config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    for name in (
        "backend",
        "extra_special_tokens",
        "is_local",
        "local_files_only",
    ):  # transformers 4 fails on the second
        tokenizer_config.pop(name, None)
    # transformers 5 writes TokenizersBackend, a name that 4.x does not know.
    write_json(folder / "tokenizer_config.json", tokenizer_config | {"tokenizer_class": "PreTrainedTokenizerFast"})


def restore_vision_names(weights: Path) -> None:
    """transformers 5 leaves `vision_model.` out of the names, and 4.x would take a random vision tower, silently."""
    tensors = load_file(weights)
    names = {
        name: name if "vision_model." in name else name.replace("vision_tower.", "vision_tower.vision_model.")
        for name in tensors
    }
    save_file({names[name]: tensor for name, tensor in tensors.items()}, weights, metadata={"format": "pt"})


def processor_files() -> dict[str, dict[str, Any]]:
    """File name -> content, as in the real checkpoints."""
    pixels = {
        **{f"do_{step}": True for step in ("center_crop", "convert_rgb", "normalize", "rescale", "resize")},
        "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "image_mean": MEAN,
        "image_std": STD,
        "processor_class": "LlavaNextVideoProcessor",
        "resample": 3,  # PIL's number for bicubic
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": IMAGE_SIZE},
    }
    image = {
        "image_processor_type": "LlavaNextImageProcessor",
        "image_grid_pinpoints": [[IMAGE_SIZE, IMAGE_SIZE]],
        "do_pad": True,
    }
    video = {
        "video_processor_type": "LlavaNextVideoVideoProcessor",
        "image_processor_type": "LlavaNextVideoImageProcessor",
    }
    processor = {
        "processor_class": "LlavaNextVideoProcessor",
        "patch_size": PATCH_SIZE,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,  # the class token, which "default" drops again
        "image_token": "<image>",
        "video_token": "<video>",
    }
    return {
        "preprocessor_config.json": pixels | image,
        "video_preprocessor_config.json": pixels | video,
        "processor_config.json": processor,
        "chat_template.json": {"chat_template": CHAT_TEMPLATE},
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
