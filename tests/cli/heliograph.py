"""`python -m tests.cli.heliograph`: the command, whether or not it is installed on the PATH."""

from cli.main import main

main(prog_name="heliograph")
