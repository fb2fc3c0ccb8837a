"""ResNet (He et al. 2015)."""
