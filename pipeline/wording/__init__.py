"""What measured figures are said to mean: sentences that are true at the power of the test."""
