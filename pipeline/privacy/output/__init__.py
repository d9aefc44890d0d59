"""Outputs of the audit: report, table and page."""
