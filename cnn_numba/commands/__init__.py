"""The command line: the only place that prints, parses words, or leaves the process.

A command is a function that adds its flags to a parser and returns what runs it: f(args, started), which returns the
exit code; `started` is when the program began, in seconds of `time.perf_counter`.
"""
