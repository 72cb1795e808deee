"""An app whose agents lie in a package of their own."""

from __future__ import annotations

from pipeline import Pipeline

app = Pipeline("discovering")
app.autodiscover("discovered")
