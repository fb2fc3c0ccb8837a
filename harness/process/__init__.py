"""Subprocesses, the state of this process, its memory, and the hardware."""
