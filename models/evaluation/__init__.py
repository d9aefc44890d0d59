"""The downstream classifier, and the features in which fidelity is measured."""
