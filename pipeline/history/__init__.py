"""History: reading the log, states, traces, read models."""
