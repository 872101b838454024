"""The command line as tests call it."""

import pytest

from zoo import cli


def one_line(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The only line that a command printed before it ended with code 2."""
    assert cli.main([str(argument) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("zoo: ") and printed.err.count("\n") == 1
    return printed.err
