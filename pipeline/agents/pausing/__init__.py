"""What steps and waits are made of: results as they are kept, and what people are asked."""
