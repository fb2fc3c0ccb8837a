"""From `--subject` and `--arch` to implementations under test."""
