"""What is held to be right: library builds, alignment of any implementation with them, localisation."""
