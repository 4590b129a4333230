"""Child processes of the daemon, and what one daemon claims of a machine: data folder, ports, HTTP socket."""
