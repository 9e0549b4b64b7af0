"""The box's own store: API keys and collections. All SQL of the box stands here and in `sync.ledger`."""
