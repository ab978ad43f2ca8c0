"""What extract_dataset.py does."""
