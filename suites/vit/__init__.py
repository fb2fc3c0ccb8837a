"""Vision Transformers: ViT-B/16, B/32, L/16, L/32, H/14 and a tiny one."""
