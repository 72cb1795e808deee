"""A crew of LLM agents that plan, search, write, ask a person, and send an e-mail."""
