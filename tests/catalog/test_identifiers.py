"""Values that stand for nobody are recognised however they are written, and real identifiers never are."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.catalog.spec.identifiers import compile_placeholders, is_placeholder, present_ids
from engine.customer import KINDS, CustomerIds, IdKind

WORDS = ["undefined", "null", "NaN", "[object Object]", "n/a", "None"]
EMPTY = [
    "",
    " ",
    "\t\n",
    "0",
    "000000",
    "-",
    "+",
    "--",
    "0.0",
    "00000000-0000-0000-0000-000000000000",
    "\u200b",
    "\u2013",
]
kinds = st.sampled_from([None, *KINDS])
cases = st.sampled_from([str.lower, str.upper, str.title, str.swapcase, str])
around = st.text(st.sampled_from(" \t\"'()<>-_"), max_size=3)


@given(st.sampled_from(WORDS), cases, around, around, kinds)
def test_a_placeholder_in_any_case_and_quotes_names_nobody(
    word: str, case: Callable[[str], str], before: str, after: str, kind: IdKind | None
) -> None:
    assert is_placeholder(before + case(word) + after, kind)


@given(st.text(st.sampled_from("0 -+.:_{}()\t"), max_size=40), kinds)
def test_a_value_without_a_letter_or_a_digit_but_zero_names_nobody(value: str, kind: IdKind | None) -> None:
    assert is_placeholder(value, kind)


@pytest.mark.parametrize("value", EMPTY)
def test_an_empty_value_names_nobody(value: str) -> None:
    assert all(is_placeholder(value, kind) for kind in (None, *KINDS))


@pytest.mark.parametrize("phone", ["+49", "+1", "+358", "0049", "+49 000 000", "49", "(+44) -"])
def test_a_phone_of_a_country_code_alone_names_nobody(phone: str) -> None:
    assert is_placeholder(phone, "phone")


@pytest.mark.parametrize("email", ["@", "null@shop.de", "undefined@undefined.com", "@shop.de", "a@", "-@-"])
def test_an_address_without_a_mailbox_names_nobody(email: str) -> None:
    assert is_placeholder(email, "email")


@given(st.uuids(version=4), st.sampled_from(KINDS[:1] + KINDS[4:]))
def test_a_uuid_names_somebody(value: object, kind: IdKind) -> None:
    assert not is_placeholder(str(value), kind)


@given(st.integers(1, 10**12))
def test_a_number_above_zero_names_somebody(value: int) -> None:
    assert not is_placeholder(str(value), "user_id")
    assert not is_placeholder(f"{value:08}", None)
    assert not is_placeholder(f"+49{value + 1_000_001}", "phone")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("user_id", "u-0"),
        ("user_id", "nullable"),
        ("user_id", "日本"),
        ("loyalty_card", "000001"),
        ("email", "nan@x.de"),
        ("phone", "+49 30 1234"),
        ("anonymous_id", "a0"),
    ],
)
def test_an_unusual_identifier_names_somebody(kind: IdKind, value: str) -> None:
    assert not is_placeholder(value, kind)


@pytest.mark.parametrize(
    "value", ["0e5", "-1", "-1.0", "object 7", "[object Type1]", "{{id1}}", "${id2}", "<%= id3 %>"]
)
def test_a_placeholder_with_a_digit_above_zero_names_nobody(value: str) -> None:
    assert is_placeholder(value)


def test_a_shop_adds_its_own() -> None:
    own = compile_placeholders([" Guest ", "+49 30 000 111", "TEST-1"])
    assert is_placeholder("GUEST", "user_id", own)
    assert is_placeholder("+49 (30) 000-111", "phone", own)
    assert not is_placeholder("1", "user_id", own)
    assert not is_placeholder("guest1", "user_id", own)
    ids = CustomerIds(user_id="guest", email="null", anonymous_id="a-1")
    assert present_ids(ids, own) == CustomerIds(anonymous_id="a-1")
