"""Previews: signed tokens that show their bearer a variant or an offer, and the decisions made for such a token."""
