"""Messages that are due: planned from the roster, handed out with a lease, confirmed or released."""
