"""Pairs on the disk: the released layout, peft's format, and what others take."""
