"""What Video-Bench provides (questions, answers, the names of videos), and how a reply is read."""
