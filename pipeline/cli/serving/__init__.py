"""The commands that go on until they are told to end, and what lets others in: serve, up, tail, top; token."""
