"""How wrong the small model is: in its answers, and in easier tasks that help it on the way to them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerFast

from tests.assets.clip_questions import LETTERS
from tests.assets.tiny_model import EOS_ID
from tests.assets.training_batches import STATE_CLASSES, Batch


@dataclass(frozen=True)
class Words:
    """Token ids that the losses look for."""

    letters: torch.Tensor  # "A" to "F"
    question_mark: int  # ends every question
    stop: int  # "." stands between a letter and its option
    wrong: int  # "#" is what an option that is wrong has to say of itself


def find_words(tokenizer: PreTrainedTokenizerFast) -> Words:
    question_mark, stop, wrong = tokenizer.convert_tokens_to_ids(["?", ".", "#"])
    return Words(torch.tensor(tokenizer.convert_tokens_to_ids(list(LETTERS))), question_mark, stop, wrong)


def answer_loss(
    head: torch.nn.Linear, hidden: torch.Tensor, batch: Batch, words: Words, helping: float
) -> tuple[torch.Tensor, list[bool]]:
    """The loss in answer and end of text, and which rows were answered rightly; `head` reads words from `hidden`.

    Two easier tasks are added with the weight `helping`: the question mark has to know the fact, and the word of each
    option whether it is right. `hidden` is (rows, tokens, hidden)."""
    rows = torch.arange(len(hidden))
    answer = head(hidden[rows, batch.last])
    end = head(hidden[rows, batch.last + 1])
    marks = batch.ids == words.question_mark
    fact = head(hidden[marks])
    is_option, verdicts = option_verdicts(batch, words)
    verdict = head(hidden[is_option])
    loss = (
        F.cross_entropy(answer, batch.answers)
        + 0.1 * F.cross_entropy(end, torch.full_like(batch.answers, EOS_ID))
        + helping * F.cross_entropy(fact, batch.facts[marks.nonzero()[:, 0]])
        + helping * F.cross_entropy(verdict, verdicts)
    )
    return loss, (answer.argmax(-1) == batch.answers).tolist()


def option_verdicts(batch: Batch, words: Words) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the options' words stand, bool (rows, tokens), and what each should say: its letter, or `wrong`."""
    is_option = torch.zeros_like(batch.ids, dtype=torch.bool)
    is_option[:, 2:] = torch.isin(batch.ids[:, :-2], words.letters) & (batch.ids[:, 1:-1] == words.stop)
    row, place = is_option.nonzero(as_tuple=True)
    is_right = batch.ids[row, place] == batch.options[row]
    return is_option, torch.where(is_right, batch.ids[row, place - 2], words.wrong)


def frame_loss(reader: torch.nn.Linear, features: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """How badly `reader` tells `frame_state` from the mean of the features of a frame."""
    frames = mean_of_frames(features, states, reader.in_features)
    *classes, place = reader(frames).flatten(0, 1).split([*STATE_CLASSES, 2], dim=1)
    states = states.flatten(0, 1)
    loss = F.mse_loss(place, states[:, len(STATE_CLASSES) :])
    for number, logits in enumerate(classes):
        loss = loss + F.cross_entropy(logits, states[:, number].long())
    return loss


def motion_loss(reader: torch.nn.Linear, early: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, float]:
    """The loss in the clip's motion, read from each frame alone, and the share of frames where it is read rightly.

    `early` is what the text model has at all video tokens after its first layers: (clips, tokens, hidden)."""
    read = reader(mean_of_frames(early, batch.states, reader.in_features)).flatten(0, 1)
    motions = batch.motions.flatten()
    return F.cross_entropy(read, motions), (read.argmax(-1) == motions).float().mean().item()


def mean_of_frames(tokens: torch.Tensor, states: torch.Tensor, width: int) -> torch.Tensor:
    """What stands at the tokens of all videos, `width` numbers at each -> (clips, frames, width)."""
    return tokens.reshape(*states.shape[:2], -1, width).mean(2)
