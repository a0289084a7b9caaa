"""The menu of the dashboard."""

SECTIONS: list[tuple[str, list[tuple[str, str]]]] = [
    ("Decide", [("/", "Overview"), ("/experiments", "Experiments"), ("/bandits", "Bandits")]),
    ("Reach", [("/offers", "Offers"), ("/moments", "Moments"), ("/customers", "Customers")]),
    ("Learn", [("/measure", "Measure"), ("/power", "Power planner")]),
    ("Run", [("/live", "Live"), ("/editor", "Editor"), ("/audit", "Audit log")]),
]
"""Groups of pages: the group's title, and the address and the title of each page."""
