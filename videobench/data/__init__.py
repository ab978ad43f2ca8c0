"""Reading what Video-Bench provides (questions, answers, names of videos) and what models replied."""
