"""What deliveries need of limits over all workers."""
