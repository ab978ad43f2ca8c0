"""Load a checkpoint and answer questions with it."""
