"""Speed and memory as ratios against a peer or a ceiling that is measured in the same run."""
