"""Gates: the reasons for which an offer may not be shown to a customer now."""
