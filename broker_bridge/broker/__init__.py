"""The embedded MQTT broker: a WSS listener that knows its clients, a router of messages, and amqtt's sessions."""
