"""What Video-Bench ships: questions, answers, videos by their names; and what a model's reply says."""
