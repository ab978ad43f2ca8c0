"""The work of extract_dataset.py: draw a sample of questions, place its videos, verify a copy of it."""
