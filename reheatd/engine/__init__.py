"""The engine, vLLM: its launch, its HTTP client, the pool, adapter slots, and LoRA kernels for the CPU."""
