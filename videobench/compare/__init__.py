"""Compute scores, paired statistics and a verdict from two result files and the answers."""
