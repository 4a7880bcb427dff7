"""A run as its stages see it: directory, configuration, records."""
