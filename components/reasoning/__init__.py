"""How a model thinks before it answers: strategies that are handed ``generate`` and ``retrieve``."""
