"""The command line: a file a command.

commands.py  the app, which collects them
options.py   options that several commands share, and those that the fields of a dataclass make
output.py    what commands print
ending.py    how commands end
"""
