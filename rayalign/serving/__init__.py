"""A served policy: one base, and a merge of adapters for each profile of preferences."""
