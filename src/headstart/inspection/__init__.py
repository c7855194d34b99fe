"""What a data set holds: statistics, duplicates, outliers."""
