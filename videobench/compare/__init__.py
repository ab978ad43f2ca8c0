"""Two result files and the answers -> scores, paired statistics, a verdict."""
