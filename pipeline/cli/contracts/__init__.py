"""The commands about contracts: what events look like, and who sends and receives them."""
