"""Documents in, passages out: chunking, embedding, indexing and searching."""
