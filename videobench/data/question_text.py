"""Question and options -> the user's turn, exactly as Video-Bench words it."""

from collections.abc import Mapping

# Source: the chat step of Video-Bench (https://github.com/PKU-YuanGroup/Video-Bench). The forms differ by number
# of options in spaces only, and spaces are part of the benchmark; tests/model/test_prompts.py has each one in full.
NUMBER_WORDS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
CLOSING = "\n Among the {number} {noun} {letters} above, the one closest to the correct answer is:"
INSTRUCTION = (
    "Please respond with only the corresponding options and do not provide any explanations or additional information."
)


def build_question_text(text: str, options: Mapping[str, str]) -> str:
    """The user's turn without the video: question, options and Video-Bench's instruction.

    `options` maps 1 to 6 letters, in order, to their texts."""
    count = len(options)
    before_options = "Choices: " if count == 6 else " "
    before_instruction = " " if count in (4, 6) else "  "
    listed = "".join(f"{letter}.{option} " for letter, option in options.items())
    closing = CLOSING.format(
        number=NUMBER_WORDS[count], noun="option" if count == 1 else "options", letters=", ".join(options)
    )
    return text + before_options + listed + closing + before_instruction + INSTRUCTION
