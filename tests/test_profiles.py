"""What GPU and model profiles share: names and their ambiguity, the strict schema, TOML errors."""

from __future__ import annotations

import pytest

from kvsim import _profiles
from kvsim.errors import InputError, UnknownNameError

NAMES = _profiles.Names("card", {"x1": ["Big Card", "card"], "x2": ["card", "x1-like"], "card-c": []})


@pytest.mark.parametrize(("name", "found"), [("X1", "x1"), ("big-card", "x1"), ("BIG_CARD", "x1"), (" x1 like ", "x2")])
def test_names_fold_case_spaces_and_underscores(name: str, found: str) -> None:
    assert NAMES.resolve(name) == found


def test_an_ambiguous_name_names_its_owners() -> None:
    with pytest.raises(UnknownNameError, match=r"The name is ambiguous: x1, x2\."):
        NAMES.resolve("card")


def test_an_id_wins_over_an_alias() -> None:
    assert _profiles.Names("card", {"a": ["b"], "b": []}).resolve("b") == "b"


def test_fields_are_checked_with_their_path() -> None:
    with pytest.raises(InputError, match=r"f\.toml, field 'config\.typo': unknown field.*known here: a, b"):
        _profiles.check_fields({"a": 1, "typo": 2}, file="f.toml", required=["a"], optional=["b"], under="config")
    with pytest.raises(InputError, match=r"f\.toml, field 'a': missing"):
        _profiles.check_fields({}, file="f.toml", required=["a"])


def test_broken_toml_names_the_file() -> None:
    with pytest.raises(InputError, match=r"f\.toml: is not TOML"):
        _profiles.parse_toml("a = ", file="f.toml")


@pytest.mark.parametrize("kind", ["gpus", "models"])
def test_shipped_profiles_carry_no_reference_to_where_they_were_made(kind: str) -> None:
    for name, text in _profiles.shipped(kind).items():
        assert "find_string" not in text, name
        assert "/work/" not in text, name
