"""Records, tables, plots and the HTML report."""
