"""Where a turn goes: backend, retrieval, context."""
