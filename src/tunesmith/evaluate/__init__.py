"""What a model says of held-out rows: answers with text metrics, and the scores of reward models."""
