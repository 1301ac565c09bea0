"""What can be told about a training before it starts; ``examine`` looks at all of it."""
