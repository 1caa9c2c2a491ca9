"""Models, the heads that read them, and the Learner that trains them."""
