"""The words and plumbing of every process; imports nothing else of headrace."""
