"""The downstream classifier and the features that fidelity is measured in."""
