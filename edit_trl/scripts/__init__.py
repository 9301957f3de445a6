"""Scripts that `edit-trl` and `accelerate launch` run."""
