"""Flower's settings: `celery -A pipeline flower --conf=config/flowerconfig.py`.

Secrets are not here: Flower reads FLOWER_BASIC_AUTH ("user:password") and FLOWER_BROKER_API from the environment.
"""

port = 5555

# Workers are asked to send events as soon as Flower starts, as `celery worker -E` does by itself.
enable_events = True

# Tasks and workers that are remembered; the history is in memory and gone after a restart.
max_tasks = 10_000
max_workers = 100

# Workers that have gone are forgotten after this many seconds.
purge_offline_workers = 600

# Milliseconds to wait for a worker's answer.
inspect_timeout = 2_000.0

natural_time = False
tasks_columns = "name,uuid,args,state,received,runtime,worker"
