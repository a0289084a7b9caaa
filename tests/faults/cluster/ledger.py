"""What was answered beside what the Parquet log has."""

from collections import Counter

import duckdb

from engine.settings import Settings
from tests.faults.cluster.callers import ClusterLedger
from tests.faults.cluster.shop import CAP, STOCK


def compare(ledger: ClusterLedger, settings: Settings) -> dict[str, float]:
    """What is lost, doubled, exceeded or rewarded wrongly, by name."""
    log = settings.log
    decisions = duckdb.read_parquet(f"{log}/decisions/*/*.parquet")
    known: dict[str, int] = dict(
        decisions.aggregate("decision_id, key, count(*) as n").aggregate("decision_id, max(n)").fetchall()
    )
    offers = decisions.filter("kind = 'offer'")
    chosen = {
        row[0]: row[1]
        for row in offers.filter("key = 'hero' and policy is not null").project("decision_id, variant").fetchall()
    }
    bags = int((offers.filter("variant = 'bag'").aggregate("count(*)").fetchone() or (0,))[0])
    coffees = offers.filter("variant = 'coffee'").aggregate("customer, count(*) as n").fetchall()
    letters = offers.filter("variant = 'letter'").project("decision_id, customer").fetchall()
    rewards = duckdb.read_parquet(f"{log}/rewards/*/*.parquet").filter("key = 'hero'")
    newest: dict[str, float] = dict(rewards.aggregate("decision_id, arg_max(reward, time)").fetchall())
    earning = {decision for decision in ledger.clicked if decision in chosen}
    recipients = Counter(ledger.letters.values())
    waiting = {customer for _, customer in letters} - set(recipients)
    return {
        "decisions lost": len(ledger.decisions.keys() - known.keys()),
        "decisions doubled": sum(times > 1 for times in known.values()),
        "decisions invented": max(
            0, len([one for one in known.keys() - ledger.decisions.keys() if one in chosen]) - ledger.unanswered
        ),
        "answers of 5xx to decisions": sum(count for status, count in ledger.statuses.items() if status >= 500),
        "clicks without a reward": len(earning - {one for one, reward in newest.items() if reward == 1}),
        "rewards without a click": len({one for one, reward in newest.items() if reward} - ledger.clicked),
        "bags beyond the stock": max(0, bags - STOCK),
        "coffees beyond the cap": sum(max(0, times - CAP) for _, times in coffees),
        "letters to a customer twice": sum(times > 1 for times in recipients.values()),
        "letters that wait": len(waiting),
    }
