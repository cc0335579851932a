"""The one line of what TensorFlow and Keras say at length."""

import pytest

from servable.export.reasons import reason_of

OF_A_GRAPH = """Graph execution error:

Detected at node 'save/RestoreV2' defined at (most recent call last):
Node: 'save/RestoreV2'
Unable to open table file export-00000-of-00001
\t [[{{node save/RestoreV2}}]]

Original stack trace for 'save/RestoreV2':
"""
OF_A_LAYER = """in user code:

    File "/somewhere/signatures.py", line 117, in function  *
        return _named(call(*made))
    File "/somewhere/functional.py", line 321, in _adjust_input_rank
        raise ValueError(

    ValueError: Exception encountered when calling Sequential.call().

    \x1b[1mInvalid input shape for input 'x'.\x1b[0m

    Arguments received by Sequential.call():
"""


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        pytest.param(ValueError("no"), "no", id="a line is that line"),
        pytest.param(ValueError("no\nat all"), "no", id="the first of several"),
        pytest.param(ValueError(), "ValueError", id="nothing said"),
        pytest.param(
            RuntimeError(OF_A_GRAPH),
            "Unable to open table file export-00000-of-00001",
            id="an operation that fails",
        ),
        pytest.param(
            ValueError(OF_A_LAYER),
            "Invalid input shape for input 'x'.",
            id="a layer that is called wrongly",
        ),
    ],
)
def test_reasons(exc: Exception, expected: str) -> None:
    assert reason_of(exc) == expected
