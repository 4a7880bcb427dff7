"""What has to survive a kill or a full disk."""
