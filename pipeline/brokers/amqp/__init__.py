"""RabbitMQ: Kombu's AMQP transport, bounded in time, refusing compressed messages, with many confirms in flight."""
