"""The daemon's child processes, and what a daemon claims on its machine: data folder, ports and HTTP socket."""
