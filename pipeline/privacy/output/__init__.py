"""What the audit writes: report, table and page."""
