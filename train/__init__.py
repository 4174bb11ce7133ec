"""Training and evaluation of the networks; nothing of the node imports this."""
