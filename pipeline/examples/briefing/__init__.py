"""The briefing: questions are answered by several researchers, and by e-mail."""
