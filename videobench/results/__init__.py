"""What a run stores: rows, the journals that collect them, result files and their reader."""
