"""The model card states what was measured, the data and the commands."""

from tools.e1_tiny.model_card import card


def test_a_card_states_data_numbers_and_commands() -> None:
    point = {
        "model": "e1-tiny",
        "t": None,
        "s": 96,
        "accuracy": 0.8,
        "low": 0.7,
        "high": 0.9,
        "thinking_tokens": 100.0,
        "solution_tokens": 30.0,
        "n": 504,
        "by_kind": {"steps-2": 0.9},
    }
    text = card("e1-tiny", "What it is.", [("Seed 0", [point])], ["python -m one", "python -m two"])
    assert "### Seed 0" in text
    assert "| e1-tiny | unconstrained | 0.800 | 0.700 to 0.900 | 100 | 30 | 0.90 |" in text
    assert "python -m one\npython -m two" in text
    assert "the seed of finishing in the solution is in the data" in text
