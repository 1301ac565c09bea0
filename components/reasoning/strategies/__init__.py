"""The menu of reasoning strategies: each file exposes one async generator named like the file."""
