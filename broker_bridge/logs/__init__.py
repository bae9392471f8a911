"""Task logs at the centre: stored under Airflow's base_log_folder, read by edge-logs."""
