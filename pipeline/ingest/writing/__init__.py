"""Writes what an ingest makes: shards, tables, the quality page and the private map."""
