"""Rules for single images, tests of the whole set, and the verdict."""
