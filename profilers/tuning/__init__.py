"""What tuned profilers share."""
