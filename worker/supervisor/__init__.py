"""Process 3: Airflow's supervisor of one task, forked from the launcher."""
