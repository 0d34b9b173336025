"""An OpenAI-compatible model server that only pretends to think, at a known pace and with known faults."""
