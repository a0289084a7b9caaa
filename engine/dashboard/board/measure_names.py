"""The names of the measurement reports with the question that each answers."""

MEASURES: dict[str, tuple[str, str]] = {
    "kpis": ("KPI tree", "What drives what, and how well is that known?"),
    "opportunity": ("Opportunity", "What would the best offers add, and who has none?"),
    "programme": ("Programme", "What is the total effect of all experiments?"),
    "channels": ("Channels", "Who buys where, and what are customers of several channels worth?"),
    "clv": ("Customer lifetime value", "Who is still a customer, and what will they bring?"),
    "rfm": ("Recency, frequency, money", "Which customers are champions, and which slip away?"),
    "ledger": ("Ledger", "What was promised, and what became of it?"),
    "cohorts": ("Cohorts", "How many customers order again?"),
    "funnel": ("Funnel", "How many who clicked an offer order?"),
    "journeys": ("Journeys", "How do customers move between channels, and where do they stop?"),
    "attribution": ("Attribution", "Which channel gets the credit, and which one caused the orders?"),
    "satisfaction": ("Satisfaction", "Would customers recommend us, and who does not answer?"),
}
