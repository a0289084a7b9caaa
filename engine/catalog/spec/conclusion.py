"""The YAML of an experiment's end."""

from datetime import date

from engine.catalog.spec.fields import Spec, Text


class ChangedQuestionSpec(Spec, frozen=True, kw_only=True):
    """Both verdicts on an experiment whose question changed after its first exposure.

    `plan` is the version of that exposure, `changes` has the settings as `name: before → now`. `began` is the verdict
    by the question of the start, `now` the one by the question when it was concluded.
    """

    plan: Text
    changes: list[Text]
    began: Text
    now: Text

    def describe(self) -> str:
        """The change and both verdicts, in a sentence without its full stop."""
        return (
            f"the question changed after the first exposure ({', '.join(self.changes)}): "
            f"by that of the start the verdict is {self.began.upper()}, by that of today {self.now.upper()}"
        )


class ConclusionSpec(Spec, frozen=True, kw_only=True):
    """The end of an experiment: the day, the person, and the reason or what was learnt. Its report ends then.

    `question` is there if the question changed after the first exposure, `unverified` if it could not be verified
    whether it did, with the reason.
    """

    on: date
    by: Text | None = None
    why: Text | None = None
    question: ChangedQuestionSpec | None = None
    unverified: Text | None = None
