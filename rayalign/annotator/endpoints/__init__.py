"""The models of the judges: behind OpenAI-compatible endpoints, or in processes of the service."""
