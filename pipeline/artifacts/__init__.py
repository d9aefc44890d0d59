"""What stages hand on, as read from disk: cohort, checkpoint, candidates, release, and both reports."""
