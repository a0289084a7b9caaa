"""Flagsmith's environment documents, the evaluation contexts of its engine, and its exports of features.

https://docs.flagsmith.com/clients/server-side (local evaluation): `{"feature_states": […], "project": {"segments":
[…]}}`, or `{"features": {…}, "segments": {…}}`. An export of features is a list, `{"features": […]}` here. A flag has
the value `{enabled, value}`. Overrides of identities come first, then those of segments by their priority.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from engine.catalog.plan.peer_hashing import FLAGSMITH_PLACES
from engine.imports.draft import Draft, Split
from engine.imports.flagsmith_segments import FlagsmithSegment, SegmentReader
from engine.imports.model import Json, Note, Unsupported
from engine.imports.predicates import ALWAYS, Hash, Tree, trait
from engine.imports.shared_parts import ReadFlag, SharedParts
from engine.imports.source_values import read_source

LAST = float("inf")
NOT_EXPORTED = (
    "an export of features has neither segments nor overrides of segments and identities; import the environment "
    "document to keep them"
)


class FlagsmithOption(msgspec.Struct, frozen=True):
    """A value of a feature with several, with its share in percent."""

    value: object
    weight: float
    priority: float = LAST


class FlagsmithState(msgspec.Struct, frozen=True):
    """The state of a feature, for everyone or for a segment."""

    key: str
    name: str
    enabled: bool = False
    value: object = None
    variants: list[FlagsmithOption] = []
    priority: float | None = None


def read_flagsmith(document: Json, shop: SharedParts) -> Iterator[tuple[str, ReadFlag]]:
    """Yield the features of a document.

    Raises:
        Unsupported: if it is none of the three forms.
    """
    source = _open_document(document)
    if isinstance(source, _FeatureList):
        shop.notes.append(Note("the export", "segments", "not kept", NOT_EXPORTED))
    shop.name_flags(name for name, state in source.features if isinstance(state, FlagsmithState))
    for name, state in source.features:
        yield name, lambda state=state: _read(state, source, shop)  # type: ignore[misc]


class _FeatureList:
    """An export of an environment's features: their values, and shares of multivariate ones, without any id."""

    def __init__(self, features: Sequence[object]) -> None:
        self.features = [_name_state(f"[{at}]", _exported_state(one)) for at, one in enumerate(features)]
        self.prefix = ""
        self.segments: Mapping[str, object] = {}
        self.overrides: dict[str, list[FlagsmithState]] = {}
        self.identities: list[tuple[str, FlagsmithState]] = []
        self.constants: dict[str, str] = {}
        self.hashes_numbers = False


class _ContextSource:
    """The evaluation context of Flagsmith's engine; the customer's id is the identity's key."""

    def __init__(self, document: Json) -> None:
        features, segments = document["features"], document.get("segments")
        named = features if isinstance(features, Mapping) else {}
        self.features = [_name_state(str(name), one) for name, one in named.items()]
        self.prefix = ""
        self.segments: Mapping[str, object] = segments if isinstance(segments, Mapping) else {}
        self.overrides = {
            name: [read_source(one, FlagsmithState) for one in _listed(segment, "overrides")]
            for name, segment in (segments if isinstance(segments, Mapping) else {}).items()
        }
        self.identities: list[tuple[str, FlagsmithState]] = []
        self.constants = _environment_names(document.get("environment"), "key")
        self.hashes_numbers = False


class _EnvironmentSource:
    """An environment document; an identity is hashed as `ENVIRONMENT_IDENTIFIER`."""

    def __init__(self, document: Json) -> None:
        states = document.get("feature_states")
        if not isinstance(states, list):
            raise Unsupported("has neither 'features' nor 'feature_states'; give an environment document of Flagsmith")
        self.features = [_name_state(f"feature_states[{at}]", _raw_state(one)) for at, one in enumerate(states)]
        self.prefix = f"{document.get('api_key', '')}_"
        self.constants = _environment_names(document, "api_key")
        self.hashes_numbers = document.get("use_identity_composite_key_for_hashing") is False
        project = document.get("project")
        listed = _listed(project, "segments")
        keyed = {str(_get(one, "id")): {**_mapping(one), "key": str(_get(one, "id"))} for one in listed}
        self.segments: Mapping[str, object] = keyed
        self.overrides = {
            str(_get(one, "id")): [_state(state) for state in _listed(one, "feature_states")] for one in listed
        }
        self.identities = [
            (str(_get(one, "identifier")), _state(state))
            for one in _listed(document, "identity_overrides")
            for state in _listed(one, "identity_features")
        ]


_Source = _ContextSource | _EnvironmentSource | _FeatureList


def _open_document(document: Json) -> _Source:
    """The reader of a document's form."""
    features = document.get("features")
    if isinstance(features, Mapping):
        return _ContextSource(document)
    return _FeatureList(features) if isinstance(features, list) else _EnvironmentSource(document)


def _read(state: FlagsmithState | Unsupported, source: _Source, shop: SharedParts) -> Draft:
    """The draft of one feature.

    Raises:
        Unsupported: if it is malformed, or has what is not supported.
    """
    if isinstance(state, Unsupported):
        raise state
    draft = Draft(state.name, shop.keys[state.name])
    if source.hashes_numbers:
        why = (
            "the environment hashes identities by a number that only Flagsmith's database has; the identifier is hashed"
        )
        if state.variants or _has_shares(source):
            draft.note("hash", "changed", f"{why}, as Flagsmith's SDKs do where they decide themselves")
    if isinstance(source, _FeatureList) and state.variants:
        draft.note("hash", "changed", "the export has no ids, by which Flagsmith hashes; customers are split again")
    reader = SegmentReader(draft, shop, source.prefix, source.constants)
    for identifier, override in source.identities:
        if override.name == state.name:
            _decide(draft, trait("id", {"$in": [identifier]}), override, f"identity-{identifier}", source.prefix)
    overrides = [
        (override, source.segments[name])
        for name, listed in source.overrides.items()
        for override in listed
        if override.name == state.name
    ]
    for override, segment in sorted(overrides, key=lambda one: LAST if one[0].priority is None else one[0].priority):
        read = read_source(segment, FlagsmithSegment)
        _decide(draft, reader.read(read), override, read.name or read.key, source.prefix)
    draft.default = draft.variant({"enabled": state.enabled, "value": state.value}, "default")
    if state.variants:
        _decide(draft, ALWAYS, state, "variants", source.prefix, rest=False)
    return draft


def _decide(draft: Draft, tree: Tree, state: FlagsmithState, name: str, prefix: str, *, rest: bool = True) -> None:
    """Append the rules of one state of a feature: its options by the hash, then its own value."""
    if state.variants:
        parts: list[tuple[str, float, float]] = []
        low = start = 0.0
        for number, option in enumerate(sorted(state.variants, key=lambda one: one.priority), 1):
            high = _end(start + option.weight)
            value = {"enabled": state.enabled, "value": option.value}
            key = draft.variant(value, f"{name}-{number}", within=[one for one, *_ in parts])
            parts.append((key, low, high))
            low, start = high, start + option.weight
        draft.add(tree, Split(Hash(f"{state.key},{prefix}", "flagsmith"), parts), name)
    if rest:
        draft.add(tree, draft.variant({"enabled": state.enabled, "value": state.value}), name)


def _environment_names(environment: object, key: str) -> dict[str, str]:
    """What a document says of its environment, under the names that segments ask for it by."""
    found = {"$.environment.name": _get(environment, "name"), "$.environment.key": _get(environment, key)}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _has_shares(source: _Source) -> bool:
    """Whether a segment takes a share of its customers, or an override has several values."""
    states = [one for listed in source.overrides.values() for one in listed]
    return "PERCENTAGE_SPLIT" in str(source.segments) or any(one.variants for one in states)


def _end(percent: float) -> float:
    """The end of a half-open range that has the places below a percentage."""
    low, high = 0, FLAGSMITH_PLACES
    while low < high:  # places * 100 / 9998 rise with their number: the first that is not below
        middle = (low + high) // 2
        if middle / FLAGSMITH_PLACES * 100 < percent:
            low = middle + 1
        else:
            high = middle
    return 1.0 if low >= FLAGSMITH_PLACES else max(round((low - 0.5) / FLAGSMITH_PLACES, 7), 0.0)


def _name_state(place: str, raw: object) -> tuple[str, FlagsmithState | Unsupported]:
    """A feature's name and state; where it is malformed its place in the document, and the error."""
    try:
        state = read_source(raw, FlagsmithState)
    except Unsupported as error:
        return place, error
    return state.name, state


def _state(raw: object) -> FlagsmithState:
    """A feature state of an environment document."""
    return read_source(_raw_state(raw), FlagsmithState)


def _raw_state(raw: object) -> dict[str, object]:
    """A feature state of an environment document, with the keys that evaluation contexts have."""
    feature, segment = _mapping(_get(raw, "feature")), _mapping(_get(raw, "feature_segment"))
    options = _listed(raw, "multivariate_feature_state_values")
    with_ids = all(_get(one, "id") for one in options)
    rows = sorted(options, key=lambda one: _get(one, "id") if with_ids else str(_get(one, "mv_fs_value_uuid")))  # type: ignore[arg-type,return-value]
    return {
        "key": str(_get(raw, "django_id") or _get(raw, "featurestate_uuid") or ""),
        "name": feature.get("name"),
        "enabled": _get(raw, "enabled"),
        "value": _get(raw, "feature_state_value"),
        "priority": segment.get("priority"),
        "variants": [
            {
                "value": _get(_get(one, "multivariate_feature_option"), "value"),
                "weight": _get(one, "percentage_allocation"),
                "priority": at,
            }
            for at, one in enumerate(rows)
        ],
    }


def _exported_state(raw: object) -> dict[str, object]:
    """A feature of an export, with the keys that evaluation contexts have; it is hashed by its name."""
    return {
        "key": _get(raw, "name"),
        "name": _get(raw, "name"),
        "enabled": _get(raw, "enabled"),
        "value": _get(raw, "value"),
        "variants": [
            {"value": _get(one, "value"), "weight": _get(one, "percentage_allocation"), "priority": at}
            for at, one in enumerate(_listed(raw, "multivariate"))
        ],
    }


def _mapping(raw: object) -> dict[str, object]:
    return dict(raw) if isinstance(raw, Mapping) else {}


def _get(raw: object, name: str) -> object:
    return raw.get(name) if isinstance(raw, Mapping) else None


def _listed(raw: object, name: str) -> Sequence[object]:
    found = _get(raw, name)
    return found if isinstance(found, list) else []
