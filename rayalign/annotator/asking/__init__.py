"""What is asked of annotators and what they reply, over HTTP or in this process."""
