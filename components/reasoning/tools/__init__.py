"""The menu of tools: each file exposes one function named like the file, and what a model is told of it."""
