"""Messages that are due: which customers to look at, which message waits when, and what became of each."""
