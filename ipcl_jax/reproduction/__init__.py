"""The paper's published numbers, and what the released weights give on a user's own copy of the data."""
