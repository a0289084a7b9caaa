"""The documentation as web pages, rendered from the same Markdown that the repository shows."""
