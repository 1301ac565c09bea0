"""Quantization: methods that make smaller models, and the gate that measures what they lost."""
