"""What carries weights from the trainer to the engines: one file for each path, and the choice among them. No Ray."""
