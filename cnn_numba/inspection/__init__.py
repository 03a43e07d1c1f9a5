"""Looking into a network: its summary, its gradients, and where the time of a training step goes."""
