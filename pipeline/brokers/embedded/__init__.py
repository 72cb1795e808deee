"""The embedded broker: AMQP's exchanges and queues in one SQLite file, for one machine."""
