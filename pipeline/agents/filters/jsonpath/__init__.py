"""JSONPath (RFC 9535): what queries are, and how they go through an event."""
