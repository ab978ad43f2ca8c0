"""One video file -> frames: find the packets that hold them, decode only those, in processes that may die."""
