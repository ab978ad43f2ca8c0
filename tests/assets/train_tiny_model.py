"""Trains the small model of the tests from scratch on one CPU core, and writes it as a checkpoint.

    python -m tests.assets.train_tiny_model                 # train, save, evaluate: about an hour
    python -m tests.assets.train_tiny_model --evaluate      # only evaluate the saved model on clips held out

Run it from the root of the repository with transformers 5. The same seed gives the same model on the same machine with
the same torch; elsewhere the last bits differ, and with them the weights. Four stages, each of which was needed:

1. eyes: the vision tower and the projector alone, by a linear read-out of what each frame shows;
2. text: the text model alone, on questions whose fact the text tells: finding the option of a fact;
3. both: questions about clips. The video of a clip is computed once, its questions go on from the cache;
4. doubt: the same with clips that are hard to see, so that the model is unsure where it cannot know.
"""

import argparse
import random
import time
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import LlavaNextVideoForConditionalGeneration

from tests.assets.evaluate_tiny_model import evaluate
from tests.assets.muon import Muon
from tests.assets.tiny_model import (
    AFTER_VIDEO,
    BEFORE_VIDEO,
    BOS_ID,
    NUM_VIDEO_TOKENS,
    PAD_ID,
    build_model,
    build_tokenizer,
    save_checkpoint,
)
from tests.assets.training_batches import (
    MOTIONS,
    ROWS_PER_CLIP,
    STATE_CLASSES,
    Batch,
    Mix,
    make_batch,
    make_loose_frames,
)
from tests.assets.training_losses import answer_loss, find_words, frame_loss, motion_loss

DEFAULT_FOLDER = Path(__file__).parent / "tiny-llava-next-video"
EYES_UNTIL, TEXT_UNTIL = 0.20, 0.26  # shares of all steps at which the first two stages end
LEARNING_RATE, WARM_UP_STEPS = 3e-3, 60
MOTION_LAYER = 2  # after so many of the four text layers, so that there are some left to make use of it
DOUBT_STEPS, DOUBT_LEARNING_RATE = 200, 6e-4
LOG_EVERY = 50  # steps


class Log:
    """Prints the mean loss and the share of rows answered rightly, by their tags, every LOG_EVERY steps."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.step = 0
        self.tally: dict[str, list[float]] = defaultdict(list)

    def count(self, loss: float) -> None:
        self.tally["loss"].append(loss)
        self.step += 1
        if self.step % LOG_EVERY == 0:
            means = " ".join(f"{name}={sum(hits) / len(hits):.3f}" for name, hits in sorted(self.tally.items()))
            print(f"step {self.step} {time.monotonic() - self.started:.0f}s {means}", flush=True)
            self.tally.clear()


class Trainer:
    def __init__(self, steps: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.steps = steps
        self.seed = seed
        self.rng = random.Random(seed)
        self.tokenizer = build_tokenizer()
        self.model = build_model(len(self.tokenizer))
        # Tied while training: an option is found by its word, so that words read and words said should agree.
        self.model.lm_head.weight = self.model.model.language_model.embed_tokens.weight
        hidden_size = self.model.config.text_config.hidden_size
        self.frame_reader = torch.nn.Linear(hidden_size, sum(STATE_CLASSES) + 2)
        self.motion_reader = torch.nn.Linear(hidden_size, len(MOTIONS))
        self.optimizers = build_optimizers(self.model, self.frame_reader, self.motion_reader)
        self.prefix = self.tokenizer(BEFORE_VIDEO + "<video>" * NUM_VIDEO_TOKENS + AFTER_VIDEO, return_tensors="pt")
        self.words = find_words(self.tokenizer)

    def train(self) -> None:
        """The first three stages."""
        log = Log()
        for step in range(self.steps):
            self.set_learning_rate(LEARNING_RATE * self.warmth_and_decay(step))
            self.apply_gradients(self.compute_loss(step / self.steps, log.tally), log)

    def learn_doubt(self) -> None:
        """The last stage; it starts from nothing but the weights."""
        log = Log()
        self.rng = random.Random(f"doubt {self.seed}")
        self.optimizers = build_optimizers(self.model)
        mix = Mix(open_share=0.03, told_share=0.02, full_prompt_share=0.35, hard_share=0.5)
        for step in range(DOUBT_STEPS):
            self.set_learning_rate(DOUBT_LEARNING_RATE * min(1, (step + 1) / 20, 1.02 - step / DOUBT_STEPS))
            batch = make_batch(self.tokenizer, self.rng, mix)
            hidden, _, _ = self.watch(batch)
            self.apply_gradients(self.count_answers(hidden, batch, log.tally, helping=0.3), log)

    def set_learning_rate(self, rate: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def warmth_and_decay(self, step: int) -> float:
        """Rises at the start of each stage, and falls evenly over the last 45 % of all steps."""
        starts = (0, int(EYES_UNTIL * self.steps), int(TEXT_UNTIL * self.steps))
        since = step - max(start for start in starts if start <= step)
        warmth = min(1, (since + 1) / WARM_UP_STEPS)
        return warmth * min(1, 0.02 + (1 - step / self.steps) / 0.45)

    def compute_loss(self, progress: float, tally: dict[str, list[float]]) -> torch.Tensor:
        """The loss of one batch of the stage that training has come to; `tally` gets its hits."""
        if progress < EYES_UNTIL:
            pixels, states = make_loose_frames(self.rng)
            features = self.model.model.get_video_features(pixels).pooler_output
            return frame_loss(self.frame_reader, torch.cat(list(features)), states)
        if progress < TEXT_UNTIL:
            batch = make_batch(self.tokenizer, self.rng, Mix(open_share=0, told_share=1, full_prompt_share=0.3))
            hidden, seeing = self.read_text(batch), torch.tensor(0.0)
        else:
            batch = make_batch(self.tokenizer, self.rng, mix_for(progress))
            hidden, features, early = self.watch(batch)
            motion, share_right = motion_loss(self.motion_reader, early, batch)
            tally["motion"].append(share_right)
            seeing = frame_loss(self.frame_reader, features, batch.states) + motion
        loss = self.count_answers(hidden, batch, tally, helping=max(0.3, 1 - progress))
        return loss + max(0, 0.8 - progress) * seeing

    def count_answers(
        self, hidden: torch.Tensor, batch: Batch, tally: dict[str, list[float]], helping: float
    ) -> torch.Tensor:
        loss, hits = answer_loss(self.model.lm_head, hidden, batch, self.words, helping)
        for tag, hit in zip(batch.tags, hits, strict=True):
            tally[tag].append(hit)
        return loss

    def read_text(self, batch: Batch) -> torch.Tensor:
        """Hidden states (rows, tokens, hidden) without any video, at the places where they stand after one."""
        ids = F.pad(batch.ids, (1, 0), value=BOS_ID)
        places = self.places(batch)
        hidden = self.model.model.language_model(
            input_ids=ids, attention_mask=(ids != PAD_ID).long(), position_ids=F.pad(places, (1, 0))
        ).last_hidden_state
        return hidden[:, 1:]

    def watch(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Hidden states (rows, tokens, hidden); the features of all frames; hidden states of the video's tokens.

        Each clip is computed once."""
        prefix = self.prefix["input_ids"].expand(len(batch.states), -1)
        start = self.model.model(input_ids=prefix, pixel_values_videos=batch.pixels, output_hidden_states=True)
        start.past_key_values.batch_repeat_interleave(ROWS_PER_CLIP)
        video_mask = batch.sees_video[:, None].repeat(1, prefix.shape[1])
        video_mask[:, 0] = True  # the begin-of-text token
        mask = torch.cat([video_mask, batch.ids != PAD_ID], dim=1).long()
        hidden = self.model.model.language_model(
            input_ids=batch.ids,
            attention_mask=mask,
            position_ids=self.places(batch),
            past_key_values=start.past_key_values,
        ).last_hidden_state
        return hidden, start.video_hidden_states, start.hidden_states[MOTION_LAYER][:, -NUM_VIDEO_TOKENS:]

    def places(self, batch: Batch) -> torch.Tensor:
        first = self.prefix["input_ids"].shape[1]
        return torch.arange(first, first + batch.ids.shape[1])[None]

    def apply_gradients(self, loss: torch.Tensor, log: "Log") -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        log.count(loss.item())

    def save(self, folder: Path) -> None:
        weight = self.model.lm_head.weight.detach().clone()
        self.model.lm_head.weight = torch.nn.Parameter(weight)  # untied in the file, as in the real checkpoints
        save_checkpoint(self.model, self.tokenizer, folder)


def mix_for(progress: float) -> Mix:
    """Easy rows at first."""
    return Mix(
        open_share=max(0.03, 0.4 - progress),
        told_share=max(0.02, 0.3 - progress),
        full_prompt_share=0.15 if progress < 0.6 else 0.35,
    )


def build_optimizers(
    model: LlavaNextVideoForConditionalGeneration, *readers: torch.nn.Module
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for all else."""
    matrices: list[torch.nn.Parameter] = []
    others = [parameter for reader in readers for parameter in reader.parameters()]
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and "layers" in name else others).append(parameter)
    return [
        Muon(matrices, lr=LEARNING_RATE),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=DEFAULT_FOLDER, help="checkpoint to write (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--evaluate", action="store_true", help="train nothing, evaluate the checkpoint")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.evaluate:
        trainer = Trainer(args.steps, args.seed)
        trainer.train()
        trainer.learn_doubt()
        trainer.save(args.folder)
    print(evaluate(args.folder))


if __name__ == "__main__":
    main()
