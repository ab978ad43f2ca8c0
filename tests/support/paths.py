"""Where the repository and its small model and data lie.

Both were made once, from synthetic clips, by make_dataset.py and train_tiny_model.py in the history of tests/assets.
Rows of the QA files have two keys that Video-Bench does not: "kind", the sort of question, and "hard" where the clip is
hard to see on purpose: a comparison needs mistakes and small leads."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "tests" / "assets"
