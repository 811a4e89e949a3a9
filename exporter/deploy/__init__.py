"""Take a bundle to devices, run the kit there, and bring the results back."""
