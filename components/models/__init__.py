"""Models: where they come from, loading them, and the probabilities they give."""
