"""The subcommands of `metarl`, one a file: words in, an exit code out.

tuning: one that needs more.  arguments, flags: parsing and its errors.  experiment: a script of tuned settings as a command.
"""
