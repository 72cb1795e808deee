"""What may be asked for over HTTP, a file for each kind of thing; each calls the verbs of the Python API."""
