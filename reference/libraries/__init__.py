"""Builds of timm and torchvision, by the names of the architectures."""
