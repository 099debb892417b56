"""The other examples do what they say."""

from test_examples import load


def test_learning_rate(tmp_path):
    """The learned schedule trains far better than the rate it starts from."""
    output = tmp_path / "learning_rate.png"
    quick = ["--outer-steps", "12", "--steps", "60", "--start", "1e-3"]
    scores = load("learning_rate").main([*quick, "--output", str(output)])
    assert scores["learned"] > scores["start"] + 0.2
    assert scores["learned"] > scores["best constant"] - 0.05
    assert output.read_bytes().startswith(b"\x89PNG")
