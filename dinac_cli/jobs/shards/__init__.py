"""Encodes shards: tars, parquet files and parts of long lists become one tar of records each."""
