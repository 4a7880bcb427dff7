"""`gloss doctor`: is a checkpoint in order?"""
