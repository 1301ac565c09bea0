"""The parts: each room knows nothing of the workflows that wire it."""
