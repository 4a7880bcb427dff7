"""The `gloss` command line: options, exit statuses, and which command they are for."""
