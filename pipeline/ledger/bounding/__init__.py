"""What stops a whole tree of work, and bounds what it may spend."""
