"""EfficientNet-B0 to B7 and Lite0."""
