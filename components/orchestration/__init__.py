"""Steps, clusters, jobs, the ledger of what is done, and the report."""
