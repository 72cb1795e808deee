"""The brokers: Kombu's transports, hardened, the names of queues, and what differs between brokers."""
