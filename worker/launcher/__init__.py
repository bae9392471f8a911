"""Process 2: one thread, Airflow loaded, forks a supervisor for each job."""
