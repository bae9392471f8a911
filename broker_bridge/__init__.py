"""The bridge between Airflow and its edge workers: wire protocol, transports, embedded broker, dispatcher."""
