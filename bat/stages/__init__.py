"""What the subcommands do, a module a stage as in workflow/rules: each loads, calls and saves."""
