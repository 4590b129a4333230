"""The one place that knows vLLM: launch arguments, HTTP client, adapter slots, CPU kernels."""
