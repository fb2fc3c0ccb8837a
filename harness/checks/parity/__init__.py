"""Agreement of a subject with the references, with the same weights in both."""
