"""What may come in: data that everybody on the way can carry, payload classes that survive the way."""
