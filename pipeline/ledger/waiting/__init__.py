"""What waits, and what is not done again: parked deliveries and the steps of deliveries."""
