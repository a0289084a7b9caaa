"""The growth team's verbs that rehearse: assertions, and what a change does."""
