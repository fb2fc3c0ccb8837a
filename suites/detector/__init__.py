"""A two-stage detector over a feature pyramid: one concept per file, and the evidence about it."""
