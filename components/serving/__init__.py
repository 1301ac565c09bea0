"""The OpenAI-compatible endpoint on Ray Serve: engine, ingress, citations, feedback, lineage."""
