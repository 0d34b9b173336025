"""What the model is told, and how a prompt is put together."""
