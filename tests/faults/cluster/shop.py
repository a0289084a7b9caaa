"""A small shop for a cluster: a bandit, an offer with a stock, one with a cap, and a campaign by e-mail."""

import json
from pathlib import Path

STOCK, CAP = 40, 2
REGULARS = 30
"""Customers who decide again and again, so that the cap binds."""
_DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_CHANNELS = ["web", "email"]
_BANDIT = {"kind": "beta_thompson", "floor": 0.05}


def write_shop(folder: Path) -> Path:
    """Write the folder of YAML."""
    headline = {channel: {"headline": "Good to see you"} for channel in _CHANNELS}
    offers: dict[str, dict[str, object]] = {
        "tea": {},
        "cake": {},
        "letter": {"purpose": "marketing"},
        "bag": {"stock": {"sku": "BAG", "hold": "1h"}},
        "coffee": {"caps": [{"count": CAP, "per": "7d", "event": "exposure"}]},
        "banner": {},
    }
    placements = {"hero": ["tea", "cake"], "till": ["bag"], "side": ["coffee"], "post": ["letter"]}
    files: dict[str, object] = {
        f"offers/{key}.yaml": {"key": key, "renderings": headline} | offer for key, offer in offers.items()
    }
    for key, of_placement in placements.items():
        files[f"{key}.yaml"] = {
            "key": key,
            "placement": key,
            "offers": of_placement,
            "policy": _BANDIT if key == "hero" else {"kind": "uniform"},
            "reward": {"metric": "click", "window": "1d", "settle": "1s"},
            "fallback": "banner",
        }
    files["channels.yaml"] = {
        "channels": [{"key": "web"}, {"key": "email", "outbound": True}],
        "placements": [{"key": key, "channels": _CHANNELS} for key in placements],
    }
    files["metrics.yaml"] = {"metrics": [{"key": "click", "event": "click"}, {"key": "order", "event": "purchase"}]}
    files["campaigns.yaml"] = {
        "campaigns": [
            {
                "key": "daily",
                "schedule": {"days": _DAYS, "at": ["00:00"]},
                "channels": [{"channel": "email", "placement": "post"}],
                "purpose": "marketing",
                "policy": {"kind": "uniform"},
                "reward": {"metric": "order", "window": "7d"},
            }
        ]
    }
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), encoding="utf-8")
    return folder
