"""What enters and what is kept: records, tables, corpora, questions, chat templates."""
