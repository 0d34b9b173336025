"""What happens to a turn, and how the stages are wired."""
