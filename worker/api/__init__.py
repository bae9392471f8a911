"""The Execution API that supervisors call, on a unix socket."""
