"""Task logs in the data centre: stored under Airflow's base_log_folder, read by edge-logs."""
