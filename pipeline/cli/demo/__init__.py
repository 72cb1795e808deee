"""The commands that show the bus at work: demo briefing, demo crew, demo orders, demo trading."""
