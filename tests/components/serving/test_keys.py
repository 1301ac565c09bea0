"""Keys of the environment: names, digests, and budgets that no key would have."""

import pytest

from components.config import UserError
from components.serving.keys import bearer_digest, check_budgets, key_digest, read_keys
from components.serving.settings import KeyBudgets, KeyLimits

VARIABLE = "RAYLIGN_TEST_KEYS"


def test_keys_have_their_names_or_the_beginning_of_their_digest(monkeypatch):
    monkeypatch.setenv(VARIABLE, "alice:sk-1, sk-2==,team:sk-3,team:sk-4,")
    found = read_keys(VARIABLE)
    assert found == {"sk-1": "alice", "sk-2==": f"key-{key_digest('sk-2==')[:8]}", "sk-3": "team", "sk-4": "team"}
    assert read_keys(None) == {}
    assert bearer_digest("Bearer sk-1") == key_digest("sk-1") != key_digest("alice:sk-1")


@pytest.mark.parametrize("text", ["", " , ", "alice:", ":sk-1"])
def test_a_variable_without_keys_is_refused_and_not_repeated(monkeypatch, text):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(UserError, match=VARIABLE) as refused:
        read_keys(VARIABLE)
    assert "sk-1" not in str(refused.value)


def test_budgets_that_no_key_would_have_are_refused():
    check_budgets(KeyBudgets(), [])
    check_budgets(KeyBudgets(named={"alice": KeyLimits(tokens=1)}), ["alice"])
    with pytest.raises(UserError, match="there are none"):
        check_budgets(KeyBudgets(each=KeyLimits(tokens=1)), [])
    with pytest.raises(UserError, match="'bob', which is no key's name: there are alice"):
        check_budgets(KeyBudgets(named={"bob": KeyLimits(tokens=1)}), ["alice"])
