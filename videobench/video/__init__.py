"""Extract frames from videos: find the packets that are needed and decode only those, in separate processes."""
