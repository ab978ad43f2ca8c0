"""One video file -> frames: which packets hold them, decoding no more than those, in processes that may die."""
