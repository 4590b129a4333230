"""What a trainer logged of a run: read from the formats that trainers write, and judged. Needs no GPU and no daemon."""
