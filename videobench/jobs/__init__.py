"""The processes of one job: who does what, signs of life, signals, deaths."""
