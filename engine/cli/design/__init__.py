"""The growth team's verbs for rehearsal: assertions, and the effects of a change."""
