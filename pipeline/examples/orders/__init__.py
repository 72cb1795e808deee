"""Orders: a saga of four steps, each at a service of its own, undone when a later one fails."""
