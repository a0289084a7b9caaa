"""Logged rounds of the Open Bandit Dataset asked of the running engine, which learns from those where it agrees.

Replay method: Li, Chu, Langford and Wang 2011, "Unbiased Offline Evaluation of Contextual-bandit-based News Article
Recommendation Algorithms", algorithm 2: the log's action is uniform, so the rounds in which the engine chooses it too
are a sample of what the engine would have earned. Data: Saito, Aihara, Matsutani and Narita 2021, "Open Bandit
Dataset and Pipeline".
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
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
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
from engine.settings import Settings
from engine.snapshots.header import align_policy
from engine.snapshots.publish import current_snapshot
from engine.up import run_engine
from policies import load_policy

PLACEMENT = "recommendation"
POSITIONS = ("1", "2", "3")
USER_FEATURES = ("user_feature_0", "user_feature_1", "user_feature_2", "user_feature_3")
AT_ONCE = 32
SETTLE_SECONDS = 2
PATIENCE_SECONDS = 30
POWER = 0.8


PATIENCE = 30
QUIET = 3
"""Seconds to wait for the learner in all, and without news."""


class ReplayError(CounterpointError):
    """The engine did not answer the replay; its log lines above say why."""


class ReplayReport(msgspec.Struct, frozen=True):
    """What was replayed, what matched, and what that says.

    `log` is the mean click of all rounds, each of weight 1; `learned_ips` and `learned_snips` what the policy as it
    was learnt at the end would have earned in all of them, those that taught it among them.
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
    """One logged round: the item that was shown at a position, to whom, and whether it was clicked."""

    number: int
    item: str
    position: str
    click: bool
    features: Mapping[str, str]


@dataclass
class Tally:
    """What came of the rounds so far."""

    matched: int = 0
    clicks: int = 0
    degraded: int = 0


class _RoundOffer(msgspec.Struct, frozen=True):
    offer: str
    reason: str


class _RoundReply(msgspec.Struct, frozen=True):
    decision_id: str
    offers: dict[str, _RoundOffer]


_decided = msgspec.json.Decoder(_RoundReply).decode


def replay_obd(
    settings: Settings, dataset: Path, stop: threading.Event, *, campaign: str = "all", rounds: int = 10_000
) -> ReplayReport:
    """Run the whole engine on a plan of the dataset's items, ask it the first `rounds` rounds, report from its log.

    Args:
        settings: `data` is where the engine keeps what it does, a new directory; the plan is written to it, too.
        dataset: the folder `obd` of the dataset, as `make obd` unpacks it.
        stop: ends the replay early, and with it the engine.
        campaign: all, men or women.
        rounds: how many of the log's rounds, in the order of time.

    Raises:
        BadInput: if the dataset is not there, or the data directory is in use.
        StoppedError: if `stop` was set.
    """
    logged = read_rounds(dataset / "random" / campaign / f"{campaign}.csv")[:rounds]
    if settings.data.exists() and any(settings.data.iterdir()):
        raise BadInput(f"--data {settings.data}: is not empty; a replay starts from nothing, give a new directory")
    arms = sorted({one.item for one in logged}, key=lambda item: int(item.removeprefix("item_")))
    plan = write_plan(settings.data / "experiments", arms, logged)
    settings = msgspec.structs.replace(settings, experiments=plan)
    err = Console(stderr=True)
    err.print(f"Starting the engine on {len(arms)} items of {dataset} …")
    with run_engine(settings, stop) as (base, served):
        tally = asyncio.run(_ask(base, logged, stop, err))
        if stop.is_set():
            raise StoppedError("the replay was stopped before its end")
        err.print("Collecting the log …")
        stop.wait(SETTLE_SECONDS + SLACK + 2)  # only then are the last rounds without a click learnt as such
        collect(served, LogErasures(), drain=True)
        _await_learnt(served, stop)
        learned = learned_probabilities(served, logged)
    clicks = np.array([one.click for one in logged], dtype=np.float64)
    evenly = np.full(len(logged), 1 / len(arms))
    log = ips(clicks, evenly, evenly)
    policies = policy_report(settings.log, PLACEMENT)
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
    """The rounds of a log of the dataset, in the order of time.

    Raises:
        BadInput: if there is no such file, or it has other columns.
    """
    if not path.is_file():
        raise BadInput(f"{path}: is not there; 'make obd' downloads the dataset, or name its folder")
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        missing = {"timestamp", "item_id", "position", "click", *USER_FEATURES} - set(lines.fieldnames or ())
        if missing:
            raise BadInput(f"{path}: has no column {min(missing)!r}; give a log of the Open Bandit Dataset")
        rows = sorted(lines, key=lambda row: row["timestamp"])
    return [
        Round(
            number,
            f"item_{row['item_id']}",
            row["position"],
            row["click"] == "1",
            {name: row[name] for name in USER_FEATURES},
        )
        for number, row in enumerate(rows)
    ]


def write_plan(folder: Path, arms: Sequence[str], rounds: Sequence[Round]) -> Path:
    """YAML of a shop whose one placement shows one of `arms`: half of the visitors uniformly, half as it learns."""
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


async def _ask(base: str, rounds: Sequence[Round], stop: threading.Event, err: Console) -> Tally:
    tally = Tally()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    limits = httpx.Limits(max_connections=AT_ONCE)
    async with httpx.AsyncClient(base_url=base, timeout=PATIENCE_SECONDS, limits=limits) as client:
        with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
            bar = progress.add_task("Logged rounds are asked of the engine", total=len(rounds))

            async def visitors(queue: Iterator[Round]) -> None:
                for one in queue:
                    if stop.is_set():
                        return
                    await _round(client, one, tally)
                    progress.advance(bar)

            queue = iter(rounds)
            await asyncio.gather(*(visitors(queue) for _ in range(AT_ONCE)))
    return tally


async def _round(client: httpx.AsyncClient, one: Round, tally: Tally) -> None:
    visitor = f"visitor-{one.number}"
    body = {
        "customer": {"user_id": visitor},
        "channel": "web",
        "placements": [PLACEMENT],
        "context": {"position": one.position, **one.features},
        "expose": False,
    }
    decided = _decided(await _post(client, "/v1/decide", body))
    chosen = decided.offers[PLACEMENT]
    tally.degraded += chosen.reason != "policy"
    if chosen.offer != one.item:
        return
    tally.matched += 1
    await _post(client, "/v1/exposures", {"decision_id": decided.decision_id, "placements": [PLACEMENT]})
    if one.click:
        tally.clicks += 1
        click = {
            "type": "track",
            "message_id": f"click-{one.number}",
            "user_id": visitor,
            "event": "click",
            "decision_id": decided.decision_id,
            "channel": "web",
        }
        await _post(client, "/v1/events", {"batch": [click]})


async def _post(client: httpx.AsyncClient, path: str, body: Mapping[str, object]) -> bytes:
    answer = await client.post(path, json=body)
    if not answer.is_success:
        raise ReplayError(f"{path} answered {answer.status_code}: {answer.text}")
    return answer.content


def _await_learnt(settings: Settings, stop: threading.Event) -> None:
    """Wait until the learner, which a busy machine may hold up, has published nothing new for a while."""
    quiet = 0
    before: float | None = None
    with connect_stream(settings.redis) as client:
        for _ in range(PATIENCE):
            published = current_snapshot(client, PLACEMENT)
            learnt = published.header.learnt if published else None
            quiet = quiet + 1 if learnt is not None and learnt == before else 0
            if quiet >= QUIET or stop.wait(1.0):
                return
            before = learnt


def learned_probabilities(settings: Settings, rounds: Sequence[Round]) -> NDArray[np.float64]:
    """The probability (n,) with which the policy, as it is in the store, chooses what was shown in each round."""
    selection = load_plan(settings.experiments).policies[PLACEMENT]
    with connect_stream(settings.redis) as client:
        published = current_snapshot(client, PLACEMENT)
    policy = align_policy(load_policy(published.blob), selection) if published else selection.prior
    position = {arm: index for index, arm in enumerate(selection.arms)}
    chances = [
        policy.probabilities(selection.features.vector({"position": one.position, **one.features}))[position[one.item]]
        for one in rounds
    ]
    return np.array(chances)


def verdict(tally: Tally, arms: int, rate: float, report: PolicyReport) -> str:
    """What the matched rounds allow to say of learning against choosing uniformly."""
    effects = [effect for effect in report.against_uniform.values() if isinstance(effect, Effect)]
    seen = f"{tally.clicks} clicks in {tally.matched:,} matched rounds"
    for effect in effects:
        if effect.low > 0 or effect.high < 0:
            way = "more" if effect.low > 0 else "less"
            return f"The learned choice is clicked {way} than the uniform one ({seen})."
    said = f"The data do not allow a judgement: {seen}; a round matches with probability 1/{arms}."
    if 0 < rate < 0.5:
        each = matches_needed(rate)
        return f"{said} To tell a doubled click rate from {rate:.2%} takes about {2 * each * arms:,} rounds."
    return said


def matches_needed(rate: float, alpha: float = 0.05) -> int:
    """Matched rounds per policy that tell `rate` (0 to 0.5) from its double with power 0.8, two-sided.

    Two proportions, normal approximation: (z_alpha/2 + z_power)^2 (p1 q1 + p2 q2) / (p2 - p1)^2.
    """
    normal = NormalDist()
    z = normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(POWER)
    return round(z * z * (rate * (1 - rate) + 2 * rate * (1 - 2 * rate)) / rate**2)


def render_replay(report: ReplayReport) -> RenderableType:
    """The report for a terminal: the log's own mean, each policy's, and what may be said."""
    learned = (("IPS", report.learned_ips), ("SNIPS", report.learned_snips))
    degraded = f", {report.degraded:,} answered with the fallback" if report.degraded else ""
    return Group(
        Text(f"{report.rounds:,} rounds, {report.arms} items, {report.matched:,} matched{degraded}", style="bold"),
        Text(f"The log's own mean click: {_said(report.log)}"),
        *(Text(f"The learned policy in all rounds, by {name}: {_said(value)}") for name, value in learned),
        render_policies(msgspec.structs.replace(report.policies, arms=[])),
        Text(report.verdict),
    )


def _said(value: Estimate) -> str:
    return f"{value.value:.4f} ({value.low:.4f} to {value.high:.4f}), effective sample {value.ess:,.0f}"
