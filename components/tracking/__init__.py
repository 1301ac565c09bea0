"""Runs, lineage and environment facts: what makes a result traceable."""
