"""The evidence that RL finds information and keeps to the truth: arms over seeds, with controls."""
