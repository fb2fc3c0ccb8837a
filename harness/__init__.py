"""How subjects are collected, checked, measured and recorded."""
