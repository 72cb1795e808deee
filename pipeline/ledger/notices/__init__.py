"""What handlers say while they work, beside the log."""
