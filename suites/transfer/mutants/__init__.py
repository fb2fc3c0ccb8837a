"""Faulty and correct fine-tuning recipes, by what is wrong."""
