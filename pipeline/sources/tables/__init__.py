"""Tables of labels, patients and attributes of the scans."""
