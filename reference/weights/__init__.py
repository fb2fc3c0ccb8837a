"""Values for parameters and buffers: random and non-degenerate, from files, pretrained."""
