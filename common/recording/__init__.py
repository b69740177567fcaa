"""From measurements to rows to CSV files, and back."""
