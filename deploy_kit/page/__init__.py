"""HTML pages: one look, one template, everything escaped, nothing fetched."""
