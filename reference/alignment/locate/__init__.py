"""Where two aligned networks differ first, and why."""
