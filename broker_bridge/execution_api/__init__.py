"""The edge's way to Airflow's Execution API: calls are checked against the ledger, given their token and relayed."""
