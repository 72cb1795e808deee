"""Contracts: what events look like in each version, and who sends and receives them, for people and programs."""
