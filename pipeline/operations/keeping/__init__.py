"""How long what is kept: old events leave for archives and come back, one person's data is blanked."""
