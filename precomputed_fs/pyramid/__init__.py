"""Named chunks: under which names they stand, where they are in shards, and how they are stored."""
