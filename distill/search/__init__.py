"""Search English documents in any language: from the terminal, as JSON, or in a browser."""
