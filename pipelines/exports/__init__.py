"""One file a format: each turns a `TokenMap` into something another program, or a person, can open."""
