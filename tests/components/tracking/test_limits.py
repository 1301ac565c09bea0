"""Names that people gave, as MLflow takes them."""

import posixpath

import pytest

from components.tracking.limits import taken


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("fine/b.c", "fine/b.c"),
        ("figures.tokens//s.x", "figures.tokens/s.x"),
        ("build https://x/y, again", "build https:/x/y_ again"),
        ("curves.a/", "curves.a"),
        ("a/../b", "a/__/b"),
        ("./a", "_/a"),
        ("/", "_"),
    ],
)
def test_a_name_is_no_path_that_could_be_shorter(name: str, plain: str) -> None:
    assert taken({name: 1.0}) == {plain: 1.0}
    assert posixpath.normpath(plain) == plain


def test_names_that_become_the_same_stay_apart() -> None:
    assert taken({"a,b": 1.0, "a;b": 2.0, "a_b": 3.0}) == {"a_b": 1.0, "a_b_": 2.0, "a_b__": 3.0}
