"""The command line: one typer command for each stage."""
