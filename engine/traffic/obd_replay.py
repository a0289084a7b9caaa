"""Replays the Open Bandit Dataset on a running engine, which learns from rounds in which it agrees with the log.

Replay method: Li, Chu, Langford and Wang 2011, "Unbiased Offline Evaluation of Contextual-bandit-based News Article
Recommendation Algorithms", algorithm 2. The log's items are drawn uniformly, so the rounds in which the engine chooses
the logged item are an unbiased sample of what the engine would earn.

Data: Saito, Aihara, Matsutani and Narita 2021, "Open Bandit Dataset and Pipeline".
"""

import asyncio
import csv
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import httpx
import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group, RenderableType
from rich.text import Text

from engine.analysis import policy_report
from engine.analysis.bandits.policy_report import PolicyReport
from engine.analysis.offpolicy.estimators import Estimate, ips, snips
from engine.analysis.render.terminal import render_policies
from engine.analysis.stats.estimate import Effect
from engine.catalog import load_plan
from engine.erasure.listener import LogErasures
from engine.errors import BadInput, CounterpointError, StoppedError
from engine.journal.log.collect import collect
from engine.journal.stream import connect_stream
from engine.learn.learner import SLACK
from engine.progress import relay_lines, track_progress
from engine.settings import Settings
from engine.snapshots.header import align_policy
from engine.snapshots.publish import current_snapshot
from engine.up import run_engine
from policies import load_policy

PLACEMENT = "recommendation"
POSITIONS = ("1", "2", "3")
USER_FEATURES = ("user_feature_0", "user_feature_1", "user_feature_2", "user_feature_3")
AT_ONCE = 32
"""Rounds under way at the same time."""
SETTLE_SECONDS = 2
"""Seconds after which a shown item without a click is learnt as not clicked."""
ANSWER_SECONDS = 30
"""The timeout of an answer (s); it is long, since the replay saturates the engine."""
POWER = 0.8
LEARN_SECONDS, QUIET_SECONDS = 30, 3
"""Seconds to wait for the learner in all, and without a new snapshot."""


class ReplayError(CounterpointError):
    """The error that the engine did not answer the replay; its log lines have the cause."""


class ReplayReport(msgspec.Struct, frozen=True):
    """The sizes of a replay, its estimates of clicks per round, and the verdict on learning.

    `log` is the mean click of all rounds. `learned_ips` and `learned_snips` estimate what the final policy would have
    earned in all of them, including the rounds that it learnt from.
    """

    rounds: int
    arms: int
    degraded: int
    matched: int
    clicks: int
    log: Estimate
    learned_ips: Estimate
    learned_snips: Estimate
    policies: PolicyReport
    verdict: str


@dataclass(frozen=True)
class Round:
    """One logged round: the item shown at a position, the user's features, and whether it was clicked."""

    number: int
    item: str
    position: str
    click: bool
    features: Mapping[str, str]


@dataclass
class Tally:
    """The rounds so far in which the engine chose the logged item, their clicks, and rounds with the fallback."""

    matched: int = 0
    clicks: int = 0
    degraded: int = 0


class _RoundOffer(msgspec.Struct, frozen=True):
    offer: str
    reason: str


class _RoundReply(msgspec.Struct, frozen=True):
    decision_id: str
    offers: dict[str, _RoundOffer]


_decode_reply = msgspec.json.Decoder(_RoundReply).decode


def replay_obd(
    settings: Settings,
    dataset: Path,
    stop: threading.Event,
    *,
    campaign: str = "all",
    rounds: int = 10_000,
    err: Console | None = None,
) -> ReplayReport:
    """Run the engine on a plan of the dataset's items, send it the first rounds, and report from its log.

    Args:
        settings: their `data` is a new folder for the plan and everything that the engine stores.
        dataset: the folder `obd` of the dataset, as `make obd` unpacks it.
        stop: ends the replay early, and with it the engine.
        campaign: all, men or women.
        rounds: how many of the log's rounds to send, the earliest first.
        err: prints progress and the log lines of the engine; standard error by default.

    Raises:
        BadInput: if the dataset is missing, or the data folder is not empty.
        StoppedError: if `stop` was set.
    """
    logged = read_rounds(dataset / "random" / campaign / f"{campaign}.csv")[:rounds]
    if settings.data.exists() and any(settings.data.iterdir()):
        raise BadInput(f"--data {settings.data}: is not empty, and a replay needs an empty store; give a new directory")
    arms = sorted({one.item for one in logged}, key=lambda item: int(item.removeprefix("item_")))
    plan = write_plan(settings.data / "experiments", arms, logged)
    settings = msgspec.structs.replace(settings, experiments=plan)
    err = err or Console(stderr=True)
    err.print(f"Starting the engine on {len(arms)} items of {dataset} …")
    with relay_lines(err) as stderr, run_engine(settings, stop, stderr) as (base, served):
        tally = asyncio.run(_send_rounds(base, logged, stop, err))
        if stop.is_set():
            raise StoppedError("the replay was stopped before its end")
        err.print("Collecting the log …")
        stop.wait(SETTLE_SECONDS + SLACK + 2)  # the last rounds without a click are learnt only then
        collect(served, LogErasures(), drain=True)
        _await_learner(served, stop)
        learned = learned_probabilities(served, logged)
    clicks = np.array([one.click for one in logged], dtype=np.float64)
    evenly = np.full(len(logged), 1 / len(arms))
    log = ips(clicks, evenly, evenly)
    policies = policy_report(settings.log, PLACEMENT, ripe=False)
    return ReplayReport(
        rounds=len(logged),
        arms=len(arms),
        degraded=tally.degraded,
        matched=tally.matched,
        clicks=tally.clicks,
        log=log,
        learned_ips=ips(clicks, evenly, learned),
        learned_snips=snips(clicks, evenly, learned),
        policies=policies,
        verdict=verdict(tally, len(arms), log.value, policies),
    )


def read_rounds(path: Path) -> list[Round]:
    """The rounds of a log of the dataset, the earliest first.

    Raises:
        BadInput: if there is no such file, or it has other columns.
    """
    if not path.is_file():
        raise BadInput(f"{path}: does not exist; 'make obd' downloads the dataset, or name its folder")
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        missing = {"timestamp", "item_id", "position", "click", *USER_FEATURES} - set(lines.fieldnames or ())
        if missing:
            raise BadInput(f"{path}: has no column {min(missing)!r}; give a log of the Open Bandit Dataset")
        rows = sorted(lines, key=lambda row: row["timestamp"])
    return [
        Round(
            number=number,
            item=f"item_{row['item_id']}",
            position=row["position"],
            click=row["click"] == "1",
            features={name: row[name] for name in USER_FEATURES},
        )
        for number, row in enumerate(rows)
    ]


def write_plan(folder: Path, arms: Sequence[str], rounds: Sequence[Round]) -> Path:
    """Write the YAML of a shop with one placement for `arms`: half of the visitors get a uniform choice.

    The others get the choice of a policy that learns. Returns the folder.
    """
    (folder / "offers").mkdir(parents=True)
    for arm in (*arms, "nothing"):
        _write(folder / "offers" / f"{arm}.yaml", {"key": arm, "renderings": {"web": {"item": arm}}})
    _write(
        folder / "channels.yaml",
        {"channels": [{"key": "web"}], "placements": [{"key": PLACEMENT, "channels": ["web"]}]},
    )
    _write(folder / "metrics.yaml", {"metrics": [{"key": "click", "event": "click"}]})
    features: list[Mapping[str, object]] = [{"trait": "position", "one_of": list(POSITIONS)}]
    features += [{"trait": name, "one_of": sorted({one.features[name] for one in rounds})} for name in USER_FEATURES]
    _write(
        folder / f"{PLACEMENT}.yaml",
        {
            "key": PLACEMENT,
            "placement": PLACEMENT,
            "offers": list(arms),
            "policy": {"kind": "linear_thompson", "features": features, "floor": 0.1 / len(arms)},
            "reward": {"metric": "click", "window": "1h", "settle": f"{SETTLE_SECONDS}s"},
            "fallback": "nothing",
        },
    )
    _write(
        folder / "choice.yaml",
        {
            "key": "choice",
            "hypothesis": "Items that are learned per visitor are clicked more than items drawn evenly.",
            "placement": PLACEMENT,
            "variants": [
                {"key": "uniform", "weight": 0.5, "policy": {"kind": "uniform"}},
                {"key": "learned", "weight": 0.5},
            ],
            "metrics": {"primary": "click"},
        },
    )
    return folder


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")  # JSON is YAML


async def _send_rounds(base: str, rounds: Sequence[Round], stop: threading.Event, err: Console) -> Tally:
    """Send the rounds in order, `AT_ONCE` at a time until `stop`; returns their tally."""
    tally = Tally()
    limits = httpx.Limits(max_connections=AT_ONCE)
    async with httpx.AsyncClient(base_url=base, timeout=ANSWER_SECONDS, limits=limits) as client:
        with track_progress(err, "Logged rounds are sent to the engine", len(rounds)) as advance:

            async def visitors(queue: Iterator[Round]) -> None:
                for one in queue:
                    if stop.is_set():
                        return
                    await _send_round(client, one, tally)
                    advance(1)

            queue = iter(rounds)
            await asyncio.gather(*(visitors(queue) for _ in range(AT_ONCE)))
    return tally


async def _send_round(client: httpx.AsyncClient, one: Round, tally: Tally) -> None:
    """Decide for one visitor; report the exposure and the logged click only if the engine chose the logged item."""
    visitor = f"visitor-{one.number}"
    body = {
        "customer": {"user_id": visitor},
        "channel": "web",
        "placements": [PLACEMENT],
        "context": {"position": one.position, **one.features},
        "expose": False,
    }
    reply = _decode_reply(await _post(client, "/v1/decide", body))
    chosen = reply.offers[PLACEMENT]
    tally.degraded += chosen.reason != "policy"
    if chosen.offer != one.item:
        return
    tally.matched += 1
    await _post(client, "/v1/exposures", {"decision_id": reply.decision_id, "placements": [PLACEMENT]})
    if one.click:
        tally.clicks += 1
        click = {
            "type": "track",
            "message_id": f"click-{one.number}",
            "user_id": visitor,
            "event": "click",
            "decision_id": reply.decision_id,
            "channel": "web",
        }
        await _post(client, "/v1/events", {"batch": [click]})


async def _post(client: httpx.AsyncClient, path: str, body: Mapping[str, object]) -> bytes:
    answer = await client.post(path, json=body)
    if not answer.is_success:
        raise ReplayError(f"{path} answered {answer.status_code}: {answer.text}")
    return answer.content


def _await_learner(settings: Settings, stop: threading.Event) -> None:
    """Wait until the learner, which may lag, has published nothing new for `QUIET_SECONDS`."""
    quiet = 0
    before: float | None = None
    with connect_stream(settings.redis) as client:
        for _ in range(LEARN_SECONDS):
            published = current_snapshot(client, PLACEMENT)
            learnt = published.header.learnt if published else None
            quiet = quiet + 1 if learnt is not None and learnt == before else 0
            if quiet >= QUIET_SECONDS or stop.wait(1.0):
                return
            before = learnt


def learned_probabilities(settings: Settings, rounds: Sequence[Round]) -> NDArray[np.float64]:
    """The probability (n,) with which the policy in the store chooses the logged item of each round."""
    selection = load_plan(settings.experiments, settings.plans).policies[PLACEMENT]
    with connect_stream(settings.redis) as client:
        published = current_snapshot(client, PLACEMENT)
    policy = align_policy(load_policy(published.blob), selection) if published else selection.prior
    position = {arm: index for index, arm in enumerate(selection.arms)}
    probabilities = [
        policy.probabilities(selection.features.vector({"position": one.position, **one.features}))[position[one.item]]
        for one in rounds
    ]
    return np.array(probabilities)


def verdict(tally: Tally, arms: int, rate: float, report: PolicyReport) -> str:
    """Whether matched rounds show a difference between learning and uniform choice; if not, the number that would."""
    effects = [effect for effect in report.against_uniform.values() if isinstance(effect, Effect)]
    evidence = f"{tally.clicks} clicks in {tally.matched:,} matched rounds"
    for effect in effects:
        if effect.low > 0 or effect.high < 0:
            way = "more" if effect.low > 0 else "less"
            return f"The learned choice is clicked {way} than the uniform one ({evidence})."
    undecided = f"The data are too few for a verdict: {evidence}; a round matches with probability 1/{arms}."
    if 0 < rate < 0.5:
        each = matches_needed(rate)
        return f"{undecided} Detecting a doubled click rate of {rate:.2%} takes about {2 * each * arms:,} rounds."
    return undecided


def matches_needed(rate: float, alpha: float = 0.05) -> int:
    """Matched rounds per policy that detect a doubling of `rate` (0 to 0.5) with power 0.8, two-sided.

    Two proportions, normal approximation: (z_alpha/2 + z_power)^2 (p1 q1 + p2 q2) / (p2 - p1)^2.
    """
    normal = NormalDist()
    z = normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(POWER)
    return round(z * z * (rate * (1 - rate) + 2 * rate * (1 - 2 * rate)) / rate**2)


def render_replay(report: ReplayReport) -> RenderableType:
    """The report for a terminal: the mean click of the log and of each policy, and the verdict."""
    learned = (("IPS", report.learned_ips), ("SNIPS", report.learned_snips))
    degraded = f", {report.degraded:,} answered with the fallback" if report.degraded else ""
    return Group(
        Text(f"{report.rounds:,} rounds, {report.arms} items, {report.matched:,} matched{degraded}", style="bold"),
        Text(f"The log's own mean click: {_interval(report.log)}"),
        *(Text(f"The learned policy in all rounds, by {name}: {_interval(value)}") for name, value in learned),
        render_policies(msgspec.structs.replace(report.policies, arms=[])),
        Text(report.verdict),
    )


def _interval(value: Estimate) -> str:
    return f"{value.value:.4f} ({value.low:.4f} to {value.high:.4f}), effective sample {value.ess:,.0f}"
