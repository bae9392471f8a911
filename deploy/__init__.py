"""How the parts are put up: the quickstart, service units, and what else it takes to run them."""
