"""Trading: one agent whose urgent events overtake routine ones, and which is paused while the market is halted."""
