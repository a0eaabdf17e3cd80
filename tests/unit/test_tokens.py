"""Tokens: one a transition, a variant for each source state, and no two alike."""

from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statelatch.tokens import mint, source_number, variants

SOURCES = 40


@given(token=st.uuids(), sources=st.integers(1, SOURCES), data=st.data())
def test_a_variant_tells_which_source_it_stands_for(token: UUID, sources: int, data: st.DataObject) -> None:
    """Every variant of a token is recognised, as the one for its own source and no other."""
    number = data.draw(st.integers(0, sources - 1))

    assert number == source_number(token, variants(token, sources)[number], sources)


@given(token=st.uuids(), other=st.uuids(), sources=st.integers(1, SOURCES))
def test_only_variants_are_recognised(token: UUID, other: UUID, sources: int) -> None:
    """A token that is none of the variants is somebody else's."""
    assert (other in variants(token, sources)) == (source_number(token, other, sources) is not None)


def test_the_first_variant_is_the_token() -> None:
    """An event with one source writes the token as it is, so that the caller finds it in the row."""
    token = mint()

    assert [token] == list(variants(token, 1))


@pytest.mark.parametrize("stored", [None, UUID(int=0)])
def test_no_token_and_a_foreign_one_are_nobodys(stored: UUID | None) -> None:
    """A row that was never moved, or by somebody else, is not mine."""
    assert source_number(mint(), stored, SOURCES) is None


def test_minted_tokens_are_no_variants_of_one_another() -> None:
    """Tokens made one after the other differ in more than what tells sources apart, and are ordered by time."""
    tokens = [mint() for _ in range(20_000)]

    assert sorted(tokens) == tokens
    assert all(source_number(one, other, 256) is None for one, other in pairwise(tokens))
    assert len({token.int >> 8 for token in tokens}) == len(tokens)


def test_a_token_is_a_uuid_of_version_7() -> None:
    """Tokens are UUIDs of version 7 and of the standard library's class, which drivers know."""
    token = mint()

    assert (type(token), token.version) == (UUID, 7)
