"""The database of the annotator: verdicts, claims, spend and labels."""
