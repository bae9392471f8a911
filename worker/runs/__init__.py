"""The running jobs: their supervisors, from the launch to the end."""
