"""`python -m xql`: the command line, where `xql` itself is not on the path."""

from xql.cli import main

main()
