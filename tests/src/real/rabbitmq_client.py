"""Publishes and consumes through AMQP 0-9-1; any failure ends it with a traceback.

usage: ADDRESS PORT CONNECTIONS MESSAGES

Prints the name of the first broker that answered, then what was done. Each connection
declares a queue of its own, publishes MESSAGES persistent messages with publisher
confirms, and consumes them back, checking every body.
"""

import sys
import time

import pika

address, port, connections, messages = sys.argv[1], *map(int, sys.argv[2:5])
parameters = pika.ConnectionParameters(
    host=address,
    port=port,
    socket_timeout=3,
    stack_timeout=5,
    blocked_connection_timeout=5,
    connection_attempts=1,
)
start = time.monotonic()
names = []
for _ in range(connections):
    connection = pika.BlockingConnection(parameters)
    # The cluster's name is NODE@DOMAIN unless somebody changed it.
    properties = connection._impl.server_properties
    names.append(properties["cluster_name"].split("@")[0])
    channel = connection.channel()
    channel.confirm_delivery()
    queue = channel.queue_declare("", exclusive=True).method.queue
    for number in range(messages):
        body = f"message {number}".encode()
        properties = pika.BasicProperties(delivery_mode=2)
        channel.basic_publish("", queue, body, properties, mandatory=True)
    received = 0
    while received < messages:
        frame, _, body = channel.basic_get(queue, auto_ack=True)
        assert frame is not None, f"{received} of {messages} messages came back"
        assert body == f"message {received}".encode(), body
        received += 1
    connection.close()
total = connections * messages
rate = int(total / (time.monotonic() - start))
print(names[0])
print(f"{total} messages published, confirmed and consumed over {connections} connections, {rate} a second")
