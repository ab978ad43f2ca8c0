"""Read the files of Video-Bench and of other tools; write and read what models replied."""
