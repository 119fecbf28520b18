"""How the files and chunks of one pyramid are found and stored by name: twins, compression and shards."""
