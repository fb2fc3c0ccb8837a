"""Fine-tuning recipes: how a trained network is trained on."""
