"""The log of a cluster: NATS JetStream orders and stores, every node applies it to its own SQLite file."""
