"""What ingest writes: shards, tables, the quality page and the private map."""
