"""Routes in the words of other protocols: AG-UI for what people watch, A2A for agents of others."""
