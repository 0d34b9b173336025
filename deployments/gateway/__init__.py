"""The HTTP edge: authenticates, bounds, runs the flow, and writes answers to clients."""
