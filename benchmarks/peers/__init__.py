"""This bus beside others that run handlers of messages from RabbitMQ: FastStream, taskiq, dramatiq, bare Celery.

Each has a module here with an application of n handlers that note their execution, and what fills its queues.
"""
