"""What users ask with, as one batch of vectors; and what narrows a search: filters, conditions on metadata."""
