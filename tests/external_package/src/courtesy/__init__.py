"""Parts of a user's own for rayalign; `job.yaml` beside the package uses them all."""
