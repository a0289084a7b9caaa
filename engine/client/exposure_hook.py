"""An OpenFeature hook that reports the flags of a prefetched decision as seen, when code uses them.

    from openfeature import api
    from engine.client.exposure_hook import ExposureHook

    api.add_hooks([ExposureHook("https://decide.example", key="sk-backend")])

An evaluation of all flags is a prefetch, which no report counts; an evaluation of a single flag counts by itself, and
is not reported again. Each flag of a decision is reported once, in a thread of its own, so that no evaluation waits for
it. The file needs `openfeature-sdk` and httpx alone, and works as a copy too.
"""

import logging
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
from openfeature.flag_evaluation import FlagEvaluationDetails, FlagValueType
from openfeature.hook import Hook, HookContext, HookHints

PREFETCHED = "p"
"""The 13th character of a prefetched decision's id."""
MOST_REPORTED = 10_000
"""Flags that are remembered as reported; beyond them the memory starts again, and the log counts a repeat once."""

log = logging.getLogger(__name__)


class ExposureHook(Hook):
    """Reports each prefetched flag once, after its first evaluation.

    Args:
        url: the engine's address.
        key: an API key.
        timeout: seconds for one attempt; there are two.
    """

    def __init__(self, url: str, *, key: str | None = None, timeout: float = 2.0) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="exposures")
        self._reported: set[tuple[str, str]] = set()

    def after(self, hook_context: HookContext, details: FlagEvaluationDetails[FlagValueType], hints: HookHints) -> None:  # noqa: ARG002 (the SDK gives them)
        """Report the flag in the background; called by the SDK after each evaluation."""
        self.report(hook_context.flag_key, details)

    def report(self, flag: str, details: FlagEvaluationDetails[FlagValueType]) -> "Future[bool] | None":
        """Start the report of a flag; None if it was reported before or belongs to no prefetched decision."""
        decision = details.flag_metadata.get("decisionId")
        if not isinstance(decision, str) or decision[12:13] != PREFETCHED or not details.variant:
            return None
        if (decision, flag) in self._reported:
            return None
        if len(self._reported) >= MOST_REPORTED:
            self._reported.clear()
        self._reported.add((decision, flag))
        return self._thread.submit(self._send, {"decision_id": decision, "experiments": [flag]})

    def close(self) -> None:
        """Wait for the reports in progress."""
        self._thread.shutdown()
        self._http.close()

    def _send(self, body: dict[str, object]) -> bool:
        """Send one report, retried once after a failure of network or server; returns whether the engine took it."""
        for _ in range(2):
            try:
                answer = self._http.post("/v1/exposures", json=body)
            except httpx.TransportError as error:
                log.debug("an exposure was not sent: %s", error)
                continue
            if answer.status_code < 500 and answer.status_code != 429:
                return answer.is_success
        return False
