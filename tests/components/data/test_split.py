import pytest

from components.config import UserError
from components.data.split import refuse_leaks, split_of


def test_the_share_is_kept_and_a_text_stays_on_its_side():
    sides = [split_of(f"prompt {i}", 0.3) for i in range(4000)]
    # A binomial share of 4000 has a standard deviation of 0.0072: four of them.
    assert abs(sides.count("test") / 4000 - 0.3) < 0.029
    assert sides == [split_of(f"prompt {i}", 0.3) for i in range(4000)]
    assert split_of("anything", 0.0) == "train"


def test_a_larger_share_only_adds_to_the_test():
    texts = [str(i) for i in range(500)]
    small, large = ({t for t in texts if split_of(t, share) == "test"} for share in (0.1, 0.2))
    assert small < large


def test_a_salt_gives_another_split():
    assert [split_of(str(i), 0.5) for i in range(64)] != [split_of(str(i), 0.5, "b") for i in range(64)]


def test_leaks_are_refused():
    refuse_leaks(["a"], ["b"], "prompts")
    with pytest.raises(UserError, match="1 prompts are in both"):
        refuse_leaks(["a", "b"], ["b"], "prompts")
