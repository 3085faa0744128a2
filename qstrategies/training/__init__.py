"""Training: the loop, what it runs on, and the same model in a form that trains faster."""
