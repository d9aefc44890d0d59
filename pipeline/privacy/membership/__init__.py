"""Membership inference on the audit patients, whom a coin flip put into train or into the holdout."""
