"""OpenTelemetry traces. The SDK is imported only where something is traced."""
