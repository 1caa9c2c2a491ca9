"""The service: HTTP in front of a pool of annotators."""
