"""What tests of several commands need."""

import pytest

from zoo import cli


@pytest.fixture
def run(capsys):
    """Run the command line; returns exit code, stdout and stderr."""

    def run(*arguments) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
