"""The commands about work that waits, is limited, or is stopped."""
