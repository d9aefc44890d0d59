"""Tables of labels, patients and attributes beside the scans."""
