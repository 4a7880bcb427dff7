"""Reinforcement learning of the AV, with the AR trained on the same responses."""
