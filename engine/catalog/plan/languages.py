"""Languages of renderings: recognizes mappings by language, and chooses a customer's language.

`{web: {de: …, en: …}}` is by language where every key is a language tag (ISO 639-1, with an optional region as in
`de-AT`) and every value a mapping. The lookup is that of RFC 4647, section 3.4: `de-AT` is served by `de`.
"""

import re
from collections.abc import Mapping, Sequence

_CODES = (
    "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo "
    "es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka "
    "kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng "
    "nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su "
    "sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu"
)
LANGUAGES = frozenset(_CODES.split())
LANGUAGE_TRAITS = ("language", "locale", "lang")
"""The traits that say which language a customer prefers, the first that is known; a request's context has them too."""
_TAG = re.compile(r"([A-Za-z]{2})(?:[-_][A-Za-z0-9]{2,8})*")

Rendering = Mapping[str, object]
NO_LANGUAGES: Mapping[str, Mapping[str, Rendering]] = {}


def is_language(name: object) -> bool:
    """Whether a key is a language tag."""
    found = _TAG.fullmatch(name) if isinstance(name, str) else None
    return found is not None and found[1].lower() in LANGUAGES


def split_languages(rendering: Rendering) -> dict[str, Rendering]:
    """The renderings by language, under their tags as written; empty if one rendering serves all."""
    if not rendering or not all(is_language(key) for key in rendering):
        return {}
    spoken = {key: value for key, value in rendering.items() if isinstance(value, Mapping)}
    return spoken if len(spoken) == len(rendering) else {}


def preferred_languages(attributes: Mapping[str, object]) -> list[str]:
    """The customer's preferred languages, best first, from a list or a text such as `de-AT,en;q=0.8`."""
    value = next((found for name in LANGUAGE_TRAITS if (found := attributes.get(name))), None)
    parts = value if isinstance(value, list) else value.split(",") if isinstance(value, str) else []
    return [part.partition(";")[0].strip() for part in parts if isinstance(part, str)]


def choose_language(spoken: Sequence[str], wanted: Sequence[str], default: str | None) -> str:
    """The tag of `spoken` to use: the first preferred one, else the shop's default, else the first.

    >>> choose_language(["de", "en"], ["fr", "de-AT"], "en")
    'de'
    """
    tags = {_normalize(tag): tag for tag in reversed(spoken)}
    for one in (*wanted, *([default] if default else [])):
        tag = _normalize(one)
        while tag:
            if tag in tags:
                return tags[tag]
            tag = tag.rpartition("-")[0]
    return spoken[0]


def _normalize(tag: str) -> str:
    return tag.replace("_", "-").lower()
