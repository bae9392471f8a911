"""The embedded MQTT broker: a WSS listener that knows who connects, an access table, and amqtt behind them."""
