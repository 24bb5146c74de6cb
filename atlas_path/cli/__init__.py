"""The command line: parse, call a stage, return its exit code. Heavy imports stay inside command bodies."""
