"""Previews: signed tokens that show their bearer a variant or an offer, and decisions for them."""
