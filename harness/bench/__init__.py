"""One subject prepared for its checks: models, inputs, weights, passes and bounds."""
