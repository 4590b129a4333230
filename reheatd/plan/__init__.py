"""What a policy and a task need in memory and time, by arithmetic from the policy's configuration."""
