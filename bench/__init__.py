"""What prescreen costs: rates, CPU per study, memory, latency. `python -m bench --json FILE`."""
