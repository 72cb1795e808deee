"""The page for people: written by the server, readable without JavaScript, and alive with it."""
