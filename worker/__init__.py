"""The edge worker: gets jobs over one outbound connection and runs them under Airflow's own supervisors."""
