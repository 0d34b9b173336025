"""One model call: tokens into the response log."""
